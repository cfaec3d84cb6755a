# SPDX-License-Identifier: Apache-2.0
"""The run of attacks, as the user of this process or as a user without privileges.

As a program, it runs all of them in a directory, and prints what came of them as JSON.
"""

import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, NamedTuple

from tests.provider.sandbox.attacks import ATTACKS, DRIVER, PRELUDE
from tests.provider.sandbox.host import CANARY, host
from tests.provider.sandbox.programs import ALIVE, PROGRAMS, Program
from waggle_fsstore import Environment, Runtime
from waggle_fsstore.domain.execution import Execution, Stop
from waggle_fsstore.provider.executor import LocalExecutor
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.sandbox.find import find_sandbox
from waggle_fsstore.provider.sandbox.limits import Limits
from waggle_fsstore.provider.sandbox.slots import Slots

#: Whether the attacks that take many seconds run too.
IS_FULL: Final = os.environ.get("WAGGLE_TEST_ATTACKS") == "full"

#: All attacks, in the order of the table, and those that are known to succeed.
NAMES: Final = [*(attack.name for attack in ATTACKS), *(program.name for program in PROGRAMS)]

_REPOSITORY: Final = Path(__file__).parents[3]
_PLAIN_UID: Final = 54_321
_TIMEOUT_S: Final = 300
_AT_ONCE: Final = 3

# How long a killed process may take to end, on a machine that is busy.
_END_TIMEOUT_S: Final = 3.0
_MAX_GROWTH_KIB: Final = 50 * 1024


class Result(NamedTuple):
    """What came of an attack: whether it was held, and the details."""

    is_held: bool
    text: str


class Place(NamedTuple):
    """A provider and an executor, whose workspaces are in one directory."""

    provider: LocalProvider
    executor: LocalExecutor

    def home(self, environment: Environment) -> Path:
        return self.provider.root / environment.id / "home"

    def execute(
        self,
        environment: Environment,
        code: str,
        language: Runtime = Runtime.PYTHON,
        *,
        timeout_s: float = 60,
    ) -> Execution:
        """Run a program, and return what came of it."""
        timeout = timedelta(seconds=timeout_s)
        return self.executor.execute(
            environment, code, language, timeout=timeout, stop=lambda: Stop.NONE
        )

    @contextmanager
    def watched(self, environment: Environment) -> Iterator[int]:
        """Yield the end of a pipe, whose other end the programs of ``ALIVE`` hold open."""
        fifo = self.home(environment) / "alive"
        os.mkfifo(fifo)
        fifo.chmod(0o666)
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield reading
        finally:
            _kill_holders(reading)
            os.close(reading)


@contextmanager
def opened(
    root: Path,
    limits: Limits = Limits(),  # noqa: B008  # Immutable.
    slots: Slots | None = None,
) -> Iterator[Place]:
    """Yield a provider with an executor."""
    find = partial(find_sandbox, str(root), "", (str(root),))
    executor = LocalExecutor(root, find, provider=LocalProvider.name, limits=limits, slots=slots)
    provider = LocalProvider(root, executor=executor)
    try:
        yield Place(provider, executor)
    finally:
        executor.close()
        provider.close()


def environment(name: str, runtime: Runtime = Runtime.PYTHON) -> Environment:
    return Environment(id=name, name=name, runtime=runtime)


@lru_cache
def why_unavailable() -> str:
    """Return why nothing can be isolated on this machine, "" if programs can."""
    with tempfile.TemporaryDirectory() as directory, opened(Path(directory)) as place:
        return place.executor.why_unavailable()


def run_attacks(directory: Path) -> dict[str, Result]:
    """Run all attacks that end in a moment, and return what came of each."""
    attacked, other = environment("attacked"), environment("other", Runtime.SHELL)
    with opened(directory / "attacks") as place, host(directory) as facts:
        for one in (attacked, other):
            place.provider.create(one)
        (place.home(other) / "other-secret").write_text(CANARY)
        root = place.provider.root
        facts |= {"root": str(root), "other": str(root / other.id)}
        code = {attack.name: attack.code for attack in ATTACKS}
        text = f"FACTS = {facts!r}\nATTACKS = {code!r}\n{PRELUDE}{DRIVER}"
        result = place.execute(attacked, text)
        victim = os.waitid(os.P_PID, facts["victim"], os.WEXITED | os.WNOHANG | os.WNOWAIT)
        owner = (place.home(attacked) / "own").stat().st_uid
        place.provider.probe(attacked)  # Raises if the marker is gone.
    assert result.exit_code == 0, f"exit {result.exit_code} {result.stopped} {result.stderr}"
    printed = json.loads(result.stdout.splitlines()[-1])
    printed["credentials"].append(f"{'HELD' if owner else 'OPEN'} user outside: {owner}")
    printed["kill-host-processes"].append(f"{'OPEN' if victim else 'HELD'} the victim lives")
    return {name: _judged(lines) for name, lines in printed.items()}


def _judged(lines: list[str]) -> Result:
    wrong = [line for line in lines if not line.startswith(("HELD", "SEEN"))]
    seen = [line for line in lines if line.startswith("SEEN")]
    text = "; ".join(
        wrong or [line.removeprefix("SEEN ") for line in seen] or [f"{len(lines)} attempts"]
    )
    return Result(is_held=bool(lines) and not wrong, text=text)


def run_program(directory: Path, program: Program) -> Result:
    """Run one attack in a sandbox for itself, and return what came of it."""
    root = directory / program.name
    attacked = environment("attacked", Runtime.SHELL)
    with opened(root, program.limits) as place:
        place.provider.create(attacked)
        with place.watched(attacked) as reading:
            before = _reset_peak()
            for _ in range(program.repeat):
                result = place.execute(
                    attacked,
                    ALIVE[program.language] + program.code,
                    program.language,
                    timeout_s=program.timeout_s,
                )
                if result.stopped:
                    break
            growth = _memory("VmHWM:") - before
            is_released = not _has_survivors(reading)
        place.provider.remove(attacked)
        place.provider.wait_until_emptied()
    came = f"stopped: {result.stopped}" if result.stopped else f"exit {result.exit_code}"
    wrong = {
        f"wanted {program.expected}, got {result.stderr!r:.500}": came != program.expected,
        f"printed {result.stdout!r:.500}": result.stdout != (program.output or result.stdout),
        f"the server grew by {growth // 1024} MiB": 0 < before < before + growth - _MAX_GROWTH_KIB,
        "processes are left": not is_released,
        f"files are left: {left_in(root)}": bool(left_in(root)),
    }
    found = [text for text, is_wrong in wrong.items() if is_wrong]
    return Result(not found, "; ".join([came, *found]))


def left_in(root: Path) -> list[str]:
    """Return what is left of environments in the directory of a provider."""
    trash = root / ".trash"
    names = [*os.listdir(root), *(os.listdir(trash) if trash.is_dir() else [])]
    return [name for name in names if not name.startswith(".")]


def _kill_holders(reading: int) -> None:
    """Kill what still holds a pipe open for writing, so that a failed test leaves nothing either.

    A child of this process has the end for reading until it executes another program.
    """
    wanted = os.fstat(reading).st_ino
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):  # Most end in the meantime.
            paths = [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
            writable = [path for path in paths if os.lstat(path).st_mode & stat.S_IWUSR]
            if wanted in [os.stat(path).st_ino for path in writable]:
                os.kill(pid, signal.SIGKILL)


def _has_survivors(reading: int) -> bool:
    """Return whether anything that a program started holds its pipe open."""
    try:
        while os.read(reading, 4096):
            pass
    except BlockingIOError:
        return True
    return False


def is_released(reading: int) -> bool:
    """Wait until nothing holds the other end of a pipe open; return whether that came true."""
    poll = select.poll()
    poll.register(reading, 0)  # Of itself, it waits for the end of all writers.
    return bool(poll.poll(_END_TIMEOUT_S * 1000))


def _memory(field: str) -> int:
    """Return a figure of the memory of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def _reset_peak() -> int:
    """Let the peak of this process begin now; return its memory, 0 if it cannot be measured."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return 0
    return _memory("VmRSS:")


def run_all(directory: Path) -> dict[str, Result]:
    """Run all attacks, several at once, and return what came of each."""
    programs = [one for one in PROGRAMS if IS_FULL or not one.needs_full]
    results = run_attacks(directory)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = pool.map(partial(run_program, directory), programs)
        return results | {one.name: it for one, it in zip(programs, found, strict=True)}


def run_all_as_plain_user(directory: Path) -> dict[str, Result]:
    """Run all attacks where a user without privileges runs the server.

    Raises ``LookupError`` with the reason if that is not possible here.
    """
    python = _python_of_all()
    os.chown(directory, _PLAIN_UID, _PLAIN_UID)
    packages = [path for path in sys.path if path.endswith("site-packages")]
    command = ["setpriv", "--reuid", str(_PLAIN_UID), "--regid", str(_PLAIN_UID)]
    command += ["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]
    result = subprocess.run(
        [*command, python, "-B", "-m", "tests.provider.sandbox.batch", str(directory)],
        capture_output=True,
        text=True,
        cwd="/",
        env={
            "PATH": os.defpath,
            "HOME": "/nonexistent",
            "PYTHONPATH": os.pathsep.join([str(_REPOSITORY), *packages]),
            "WAGGLE_TEST_ATTACKS": "full" if IS_FULL else "",
        },
        timeout=_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return {name: Result(*values) for name, values in json.loads(result.stdout).items()}


@contextmanager
def open_to_all() -> Iterator[Path]:
    """Yield a temporary directory that every user may reach."""
    # That of pytest is private to its user.
    directory = Path(os.environ.get("TMPDIR", "/tmp"), f"waggle-attacks-{os.getpid()}")  # noqa: S108
    directory.mkdir(mode=0o755)
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def _python_of_all() -> str:
    """Return an interpreter like this one that every user may run."""
    for path in [_REPOSITORY, *_REPOSITORY.parents]:
        if not path.stat().st_mode & stat.S_IXOTH:
            raise LookupError(f"other users may not enter {path}")
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    found = shutil.which(version, path=os.defpath)
    if found is None:
        raise LookupError(f"there is no {version} that other users may run")
    return found


def main() -> None:
    """Run the attacks in a directory, and print the results."""
    print(json.dumps(run_all(Path(sys.argv[1]))))  # noqa: T201


if __name__ == "__main__":
    main()
