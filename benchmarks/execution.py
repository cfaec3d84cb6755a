# SPDX-License-Identifier: Apache-2.0
"""The command ``python -m benchmarks.execution``: programs in environments, beside plain ones."""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Final, cast

from benchmarks import machine
from waggle_fsstore import EnvironmentService, FileStore, Runtime, Settings, Stop, open_service
from waggle_fsstore.provider.emptying import remove_tree

_ROUNDS: Final = 30
_PARALLEL: Final = 20
_PARALLEL_DURATION_S: Final = 20.0
_DEPTH: Final = 20_000
_FILES: Final = 200_000

_Row = tuple[str, str, str]

#: Prints the id of an environment and then runs a program in it until it is killed.
_SERVER: Final = """
import sys
from datetime import timedelta
from waggle_fsstore import FileStore, Settings, open_service
service = open_service(FileStore(sys.argv[1]), Settings(max_environments=1000))
made = service.create("shell")
print(made.id, flush=True)
service.workspaces.execute(
    made.id, "touch ready; sleep 1000 & setsid sleep 1000 & wait", timeout=timedelta(minutes=5)
)
"""


def main() -> None:
    """Measure, and print a table of the figures and of what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, default=None, help="where to make the store")
    parser.add_argument("--out", type=Path, default=None, help="write the table to a file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as directory:
        facts = machine.describe(Path(directory))
        rows = list(_rows(Path(directory)))
    lines = ["| | measured | asked for |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *(f"- {name}: {fact}" for name, fact in facts.items())]
    user = "root, and programs as another user" if os.geteuid() == 0 else "an ordinary user"
    text = "\n".join([*lines, f"- server: {user}", ""])
    sys.stdout.write(text)
    if options.out is not None:
        options.out.write_text(text)


def _rows(directory: Path) -> Iterator[_Row]:
    with (
        FileStore(directory / "store") as store,
        open_service(store, Settings(max_environments=1_000)) as service,
    ):
        if reason := service.workspaces.why_no_execution():
            sys.exit(f"programs cannot be run here: {reason}")
        service.create("shell")  # The first call also looks for programs.
        yield _overhead(service)
        yield _python_overhead(service)
        yield from _parallel(service)
        yield _cancellation(service)
        yield _files(service)
        yield _creation(service)
        yield _health(directory)
        yield _output(service)
    yield _killed(directory)
    yield from _removals(directory)


def _overhead(service: EnvironmentService) -> _Row:
    name = service.create("shell").id
    sandboxed, plain = _in_turns(
        lambda: service.workspaces.execute(name, "exit 0"),
        lambda: subprocess.run(["/bin/sh", "-c", "exit 0"], check=True),
    )
    return ("execute of sh over a plain subprocess", _over(sandboxed, plain), "25 ms more")


def _python_overhead(service: EnvironmentService) -> _Row:
    name = service.create("python").id
    python = getattr(sys, "_base_executable", sys.executable)
    sandboxed, plain = _in_turns(
        lambda: service.workspaces.execute(name, "print(1)"),
        lambda: subprocess.run(  # noqa: S603
            [python, "-c", "print(1)"], check=True, stdout=subprocess.DEVNULL
        ),
    )
    return ("execute of python over a plain subprocess", _over(sandboxed, plain), "25 ms more")


def _parallel(service: EnvironmentService) -> Iterator[_Row]:
    names = [service.create("shell").id for _ in range(_PARALLEL)]
    deadline = time.perf_counter() + _PARALLEL_DURATION_S

    def work(name: str) -> list[float]:
        times = []
        while time.perf_counter() < deadline:
            times.append(_seconds(lambda: service.workspaces.execute(name, "exit 0")))
        return times

    with ThreadPoolExecutor(_PARALLEL) as pool:
        times = [one for found in pool.map(work, names) for one in found]
    rate = len(times) / _PARALLEL_DURATION_S
    yield (f"{_PARALLEL} clients at once, executions a second", f"{rate:.0f}", "at least 35")
    yield (f"{_PARALLEL} clients at once, the slowest execution", _ms(max(times)), "2 s")


def _cancellation(service: EnvironmentService) -> _Row:
    name = service.create("shell").id
    times = []
    for _ in range(_ROUNDS):
        asked = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(
                service.workspaces.execute,
                name,
                "touch ready; sleep 1000",
                timeout=timedelta(minutes=5),
                is_cancelled=asked.is_set,
            )
            _wait_for(lambda: _is_there(service, name, "ready"))
            asked.set()
            times.append(_seconds(running.result))
            _require(running.result().stopped is Stop.CANCELLED)
        service.workspaces.execute(name, "rm ready")
    return ("cancellation, median and slowest", f"{_median(times)}, {_ms(max(times))}", "150 ms")


def _files(service: EnvironmentService) -> _Row:
    name = service.create("shell").id

    def write_and_read() -> None:
        service.workspaces.write(name, "a/b", b"x" * 1_000)
        service.workspaces.read(name, "a/b", offset=0, limit=2_000)

    write_and_read()
    times = [_seconds(write_and_read) for _ in range(_ROUNDS)]
    return ("write and read of 1 kB through the service", _median(times), "3 ms")


def _creation(service: EnvironmentService) -> _Row:
    times = [_seconds(lambda: service.create("python")) for _ in range(_ROUNDS)]
    return ("create of a python environment with its venv", _median(times), "200 ms")


def _health(directory: Path) -> _Row:
    with _served(directory / "served") as (url, service):
        name = service.create(Runtime.PYTHON).id
        bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass\n"
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(
                service.workspaces.execute, name, bomb, timeout=timedelta(seconds=10)
            )
            time.sleep(1)
            times = []
            while not running.done():
                times.append(_seconds(lambda: _get(url)))
        slowest = sorted(times)[int(len(times) * 0.99)]
    return ("/healthz beside a fork bomb, 99th percentile", _ms(slowest), "150 ms")


def _output(service: EnvironmentService) -> _Row:
    name = service.create("shell").id
    before = _peak_kib()
    result = service.workspaces.execute(
        name, "head -c 10000000000 /dev/zero", timeout=timedelta(minutes=5)
    )
    _require(result.stopped in (Stop.OUTPUT, Stop.NONE))
    return (
        "10 GB of output, growth of the server",
        f"{(_peak_kib() - before) / 1024:.0f} MB",
        "50 MB",
    )


def _killed(directory: Path) -> _Row:
    times = []
    for number in range(5):
        store = directory / f"killed-{number}"
        server = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _SERVER, str(store)], stdout=subprocess.PIPE, text=True
        )
        stdout = cast("IO[str]", server.stdout)
        name = stdout.readline().strip()
        home = store.with_name(f"{store.name}-workspaces") / name / "home"
        _wait_for((home / "ready").exists)
        server.send_signal(signal.SIGKILL)
        times.append(_seconds(partial(_wait_until_gone, name)))
        server.wait()
        stdout.close()
    return ("kill -9 of the server until nothing runs, slowest", _ms(max(times)), "500 ms")


def _removals(directory: Path) -> Iterator[_Row]:
    deep = directory / "deep"
    deep.mkdir()
    descriptor = os.open(deep, os.O_RDONLY)
    for _ in range(_DEPTH):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    seconds = _seconds(lambda: remove_tree(str(deep)))
    yield (f"removal of {_DEPTH:,} nested directories", f"{seconds:.1f} s", "no recursion")
    wide = directory / "wide"
    for number in range(_FILES // 1_000):
        (wide / str(number)).mkdir(parents=True)
        for name in range(1_000):
            os.close(os.open(wide / str(number) / str(name), os.O_CREAT | os.O_WRONLY))
    seconds = _seconds(lambda: remove_tree(str(wide)))
    yield (f"removal of {_FILES:,} files", f"{seconds:.1f} s", "no recursion")


def _get(url: str) -> None:
    connection = HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    connection.close()


@contextmanager
def _served(store: Path) -> Iterator[tuple[str, EnvironmentService]]:
    """Serve a store in another process; yield its URL, and a service over the same store."""
    with subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "waggle_fsstore", "--store", str(store), "serve"],
        env={**os.environ, "WAGGLE_LISTEN_ADDR": "127.0.0.1:0", "WAGGLE_LOG_FORMAT": "text"},
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        lines = cast("IO[str]", server.stderr)
        while "serving on http" not in (line := lines.readline()):
            _require(line)
        url = line.partition("serving on ")[2].split("/mcp")[0]
        with FileStore(store) as opened, open_service(opened, Settings()) as service:
            yield url, service
        server.terminate()


def _in_turns(
    first: Callable[[], object], second: Callable[[], object]
) -> tuple[list[float], list[float]]:
    pairs = [(_seconds(first), _seconds(second)) for _ in range(_ROUNDS + 1)]
    return [one for one, _ in pairs[1:]], [other for _, other in pairs[1:]]


def _over(sandboxed: list[float], plain: list[float]) -> str:
    more = statistics.median(sandboxed) - statistics.median(plain)
    return f"{_ms(more)} more ({_median(sandboxed)} instead of {_median(plain)})"


def _require(condition: object) -> None:
    if not condition:
        raise RuntimeError("the benchmark does not measure what it should")


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _median(times: list[float]) -> str:
    return _ms(statistics.median(times))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _wait_for(condition: Callable[[], object]) -> None:
    deadline = time.perf_counter() + 60
    while not condition():
        _require(time.perf_counter() < deadline)
        time.sleep(0.001)


def _is_there(service: EnvironmentService, name: str, file: str) -> bool:
    return file in [entry.name for entry in service.workspaces.entries(name, ".")]


def _peak_kib() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def _wait_until_gone(environment_id: str) -> None:
    _wait_for(lambda: not _processes_of(environment_id))


def _processes_of(environment_id: str) -> list[str]:
    """Return the processes that have the workspace of an environment mounted."""
    found = []
    for mounts in Path("/proc").glob("[0-9]*/mountinfo"):
        with suppress(OSError):
            if environment_id in mounts.read_text():
                found.append(mounts.parent.name)
    return found


if __name__ == "__main__":
    main()
