# SPDX-License-Identifier: Apache-2.0
"""A process of its own that creates and destroys, stops where it is told, or kills itself.

``python -m tests.service.worker STORE WORKSPACES PROVIDER VERB...`` with the verbs

- ``create N``: create N environments at once, in threads;
- ``destroy ID``;
- ``reconcile``;
- ``lead``: take the lock of the reaper;
- ``pause POINT``: from now on say so when the point is passed, and wait for a line;
- ``kill POINT``: from now on be killed when the point is passed;
- ``wait``: say so, and wait for a line.

It says a line for each thing that it does: ``done ID``, or the name of an error.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any, Final

from tests.service.fakes import CAPABILITIES, FolderProvider, Script, Told, together
from waggle_fsstore import (
    Capabilities,
    Environment,
    EnvironmentService,
    FileStore,
    Provider,
    WaggleError,
    audit,
)
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.service.ports import Ports
from waggle_fsstore.store.server_lock import ServerLock

ROOT: Final = Path(__file__).parents[2]


class ToldLocal(LocalProvider):
    """The real provider, which passes the points of a script as the fake one does.

    It is halfway when it first touches something inside of its root folder beside the
    workspace itself.
    """

    def __init__(self, root: Path, script: Script) -> None:
        super().__init__(root)
        self._script = script
        self._watching = ""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching or not event.startswith(("open", "os.", "shutil.")):
            return
        with suppress(TypeError, ValueError):
            path = os.fsdecode(arguments[0])
            halfway = path.startswith(f"{self._root}/") and event not in ("os.mkdir", "os.rename")
            halfway = halfway and not path.endswith("/.waggle-workspaces")
            if halfway and event not in ("os.chmod", "os.listdir", "os.scandir"):
                point, self._watching = self._watching, ""
                self._script(point)

    def create(self, environment: Environment) -> Capabilities:
        self._script("before make")
        self._watching = "halfway make"
        super().create(environment)
        self._watching = ""
        self._script("after make")
        return CAPABILITIES

    def remove(self, environment: Environment) -> None:
        self._script("before remove")
        self._watching = "halfway remove"
        super().remove(environment)
        self._watching = ""
        self._script("after remove")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(store: str, workspaces: str, kind: str, *verbs: str) -> None:
    script = Script()
    root = Path(workspaces)
    provider: Provider = (
        ToldLocal(root, script) if kind == "local" else FolderProvider(root, script)
    )
    repository = Told(FileStore(store, durable=False, lock_timeout=60), script)
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

            @audit(actor="worker")  # Threads begin without.
            def create() -> Environment:
                return service.create("shell")

            for result in together(*[create] * int(next(words))):
                if isinstance(result, Environment):
                    say(f"done {result.id}")
                else:
                    say(type(result).__name__)
        case "destroy":
            environment_id = next(words)
            try:
                service.destroy(environment_id)
                say(f"done {environment_id}")
            except WaggleError as error:
                say(type(error).__name__)
        case "reconcile":
            service.reconcile()
        case "lead":
            lock = ServerLock(store, "reaper")
            _KEPT.append(lock)
            say(f"leads {lock.try_acquire()}")
        case "pause":
            point = next(words)

            def pause() -> None:
                say(f"at {point}")
                sys.stdin.readline()

            script.at(point, pause)
        case "kill":
            script.at(next(words), lambda: os.kill(os.getpid(), signal.SIGKILL))
        case "wait":
            say("ready")
            sys.stdin.readline()
        case _:
            raise ValueError(verb)


_KEPT: Final[list[object]] = []


class Worker:
    """A worker that runs, as its test sees it."""

    def __init__(self, process: "Popen[str]") -> None:
        self.process = process

    def expect(self, line: str) -> None:
        """What it says next."""
        assert self.hear() == line

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def go_on(self) -> None:
        """Give it the line that it waits for."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> list[str]:
        """All that it still says, once it has ended well."""
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return output.splitlines()


@contextmanager
def started(folder: Path, *verbs: str, provider: str = "fake") -> Iterator[Worker]:
    """A worker on the store and the workspaces of a test; it does not outlive the block."""
    command = [sys.executable, "-m", "tests.service.worker"]
    places = [str(folder / "store"), str(folder / "workspaces"), provider]
    with Popen(
        [*command, *places, *verbs], stdin=PIPE, stdout=PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            yield Worker(process)
        finally:
            process.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
