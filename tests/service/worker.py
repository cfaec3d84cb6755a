# SPDX-License-Identifier: Apache-2.0
"""A process that creates and destroys, and pauses or kills itself at given points.

``python -m tests.service.worker STORE WORKSPACES PROVIDER VERB...`` with the verbs

- ``create N``: create N environments at once, in threads;
- ``create-once KEY``: create one environment with this idempotency key;
- ``destroy ID``;
- ``reconcile``;
- ``lead``: take the lock of the reaper;
- ``pause POINT``: when the point is passed later, print that and wait for a line;
- ``kill POINT``: when the point is passed later, be killed;
- ``wait``: print ``ready``, and wait for a line.

It prints a line for each result: ``done ID``, or the name of an error.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, Final

from tests.service.fakes import (
    CAPABILITIES,
    TIMEOUT_S,
    DirectoryProvider,
    Script,
    scripted,
    together,
)
from waggle_fsstore import (
    Capabilities,
    Environment,
    EnvironmentService,
    FileStore,
    Provider,
    WaggleError,
    audit,
)
from waggle_fsstore.provider.layout import Marker
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.store.server_lock import ServerLock

ROOT: Final = Path(__file__).parents[2]


class ScriptedLocalProvider(LocalProvider):
    """The local provider, which passes the points of a script as the fake one does.

    It is halfway when a workspace has no marker yet, or has just been moved to the trash.
    """

    def __init__(self, root: Path, script: Script) -> None:
        super().__init__(root)
        self._script = script
        self._insert(Marker, "write", before="halfway make")
        self._insert(self._trash, "put", after="halfway remove")

    def _insert(self, owner: object, name: str, *, before: str = "", after: str = "") -> None:
        real = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> None:
            if before:
                self._script(before)
            real(*arguments, **options)
            if after:
                self._script(after)

        setattr(owner, name, call)

    def create(self, environment: Environment) -> Capabilities:
        self._script("before make")
        super().create(environment)
        self._script("after make")
        return CAPABILITIES

    def remove(self, environment: Environment, *, keep: bool = False) -> None:
        self._script("before remove")
        super().remove(environment, keep=keep)
        self._script("after remove")

    def restore(self, environment: Environment) -> None:
        self._script("before restore")
        super().restore(environment)
        self._script("after restore")


def print_line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(store: str, workspaces: str, kind: str, *verbs: str) -> None:
    script = Script()
    root = Path(workspaces)
    provider: Provider = (
        ScriptedLocalProvider(root, script) if kind == "local" else DirectoryProvider(root, script)
    )
    repository = scripted(FileStore(store, durable=False, lock_timeout=TIMEOUT_S), script)
    ports = Ports(range(20_000, 20_100), is_free=lambda _: True)
    service = EnvironmentService(repository, provider, ports=ports)
    words = iter(verbs)
    with audit(actor="worker"):
        for verb in words:
            _do(verb, words, script, service, store)


def _do(
    verb: str, words: Iterator[str], script: Script, service: EnvironmentService, store: str
) -> None:
    match verb:
        case "create":

            @audit(actor="worker")  # New threads begin without one.
            def create() -> Environment:
                return service.create("shell")

            for result in together(*[create] * int(next(words))):
                if isinstance(result, Environment):
                    print_line(f"done {result.id}")
                else:
                    print_line(type(result).__name__)
        case "create-once":
            print_line(f"done {service.create('shell', idempotency_key=next(words)).id}")
        case "destroy":
            environment_id = next(words)
            try:
                service.destroy(environment_id)
                print_line(f"done {environment_id}")
            except WaggleError as error:
                print_line(type(error).__name__)
        case "reconcile":
            service.reconcile()
        case "lead":
            lock = ServerLock(store, "reaper")
            _LOCKS.append(lock)
            print_line(f"leads {lock.try_acquire()}")
        case "pause":
            point = next(words)

            def pause() -> None:
                print_line(f"at {point}")
                sys.stdin.readline()

            script.at(point, pause)
        case "kill":
            script.at(next(words), lambda: os.kill(os.getpid(), signal.SIGKILL))
        case "wait":
            print_line("ready")
            sys.stdin.readline()
        case _:
            raise ValueError(verb)


_LOCKS: Final[list[ServerLock]] = []


class Worker:
    """A running worker process, as its test sees it."""

    def __init__(self, process: "Popen[str]") -> None:
        self.process = process

    def expect(self, line: str) -> None:
        """Assert that it prints this line next."""
        assert self.read_line() == line

    def read_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def resume(self) -> None:
        """Write the line that it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> list[str]:
        """Return the rest of its output, once it has ended successfully."""
        output, _ = self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0
        return output.splitlines()


@contextmanager
def run_worker(directory: Path, *verbs: str, provider: str = "fake") -> Iterator[Worker]:
    """Run a worker on the store and the workspaces of a test, and kill it after the block."""
    command = [sys.executable, "-m", "tests.service.worker"]
    places = [str(directory / "store"), str(directory / "workspaces"), provider]
    with Popen(
        [*command, *places, *verbs], stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
