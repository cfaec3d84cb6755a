# SPDX-License-Identifier: Apache-2.0
"""Power cuts for real: a file system shut down under a writer, and mounted again."""

import array
import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.torture

CUTS = int(os.environ.get("WAGGLE_TEST_CUTS", "30"))

# linux/fs.h and the ext4 and xfs headers: shut down, throwing away the log in memory.
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

# Saves, batches and deletes, and now and then a clean close; says what it is about to do
# (each id with the step that it is to hold, 0 for none), and the last number when it was done.
WRITE = """
import sys
from waggle_fsstore import Environment, EnvironmentNotFoundError, FileStore, Runtime

def make(name, step):
    extra = {"n": step, "padding": "x" * (step * 997 % 9000)}
    return Environment(id=name, name="n", runtime=Runtime.SHELL, extra=extra)

def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n"); sys.stdout.flush()

store = FileStore(sys.argv[1])
step = int(sys.argv[2])
try:
    while True:
        step += 1
        name = f"env-{step % 5}"
        if step % 17 == 0:
            store.close()
            store = FileStore(sys.argv[1])
        if step % 4 == 0:
            say("begin", f"{name}=0")
            try:
                store.delete(name)
            except EnvironmentNotFoundError:
                pass
            last = max((event.seq for event in store.history(after=0)), default=0)
        elif step % 7 == 0:
            batch = [make(f"env-{n}", step) for n in range(5)]
            say("begin", *(f"{one.id}={step}" for one in batch))
            last = max(store.save_all(batch))
        else:
            say("begin", f"{name}={step}")
            last = store.save(make(name, step))
        say("done", last)
except OSError as error:
    say("failed", type(error).__name__)
except Exception as error:
    say("failed", type(error).__name__)
"""


@pytest.fixture(params=["ext4", "xfs"])
def image(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A fresh file system in a file, and the folder to mount it on."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    make = f"mkfs.{request.param}"
    if shutil.which(make) is None:
        pytest.skip(f"{make} is missing: install e2fsprogs or xfsprogs")
    file, folder = tmp_path / "image", tmp_path / "mounted"
    with file.open("wb") as sparse:
        sparse.truncate(400 << 20)
    subprocess.run([make, "-q", str(file)], check=True)
    folder.mkdir()
    mount(file, folder)
    yield file, folder
    subprocess.run(["umount", str(folder)], check=False)


def mount(file: Path, folder: Path) -> None:
    subprocess.run(["mount", "-o", "loop", str(file), str(folder)], check=True)


def cut_power(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, array.array("i", [NO_LOG_FLUSH]))
    finally:
        os.close(descriptor)


class Told(NamedTuple):
    """What a writer said until the power went."""

    confirmed: dict[str, int]
    begun: dict[str, int]
    done: int
    last: int


def run_until_cut(cut: int, root: Path, folder: Path) -> Told:
    """Write until the power goes."""
    confirmed: dict[str, int] = {}
    begun: dict[str, int] = {}
    done = last = 0
    command = [sys.executable, "-c", WRITE, str(root), str(cut * 100_000)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for number, line in enumerate(writer.stdout):
            word, *rest = line.split()
            if word == "begin":
                begun = {name: int(step) for name, step in (item.split("=") for item in rest)}
            elif word == "done":
                confirmed |= begun
                begun = {}
                done, last = done + 1, int(rest[0])
            if number == 20 + cut * 7 % 240:
                time.sleep(cut * 0.00037 % 0.004)
                cut_power(folder)
    return Told(confirmed, begun, done, last)


def test_confirmed_changes_survive_power_cuts(image: tuple[Path, Path]) -> None:
    """After each of many power cuts, every confirmed change is complete, and in the history."""
    file, folder = image
    root = folder / "store"
    known: dict[str, int] = {}  # The step stored under each id; 0 for deleted.
    confirmed = 0
    for cut in range(CUTS):
        told = run_until_cut(cut, root, folder)
        confirmed += told.done
        expected = {**known, **told.confirmed}
        subprocess.run(["umount", str(folder)], check=True)
        mount(file, folder)
        with FileStore(root) as store:
            found = {environment.id: environment.extra["n"] for environment in store.find_all()}
            names = expected.keys() | found.keys() | told.begun.keys()
            now = {name: found.get(name, 0) for name in names}
            assert now in (
                {name: expected.get(name, 0) for name in names},
                {name: {**expected, **told.begun}.get(name, 0) for name in names},
            ), f"cut {cut}"
            events = list(store.history())
            assert [event.seq for event in events] == sorted({event.seq for event in events})
            assert events[-1].seq >= told.last
            replayed: dict[str, int] = {}
            for event in events:
                replayed.pop(event.environment_id, None)
                if event.kind != "deleted" and event.environment is not None:
                    replayed[event.environment_id] = event.environment.extra["n"]
            assert replayed == found, f"cut {cut}: the history tells another story"
            assert list(store.check()) == []
            revision = store.save(make_environment(id="after", extra={"n": 0}))
            assert revision > events[-1].seq
            store.delete("after")
        known = found
    print(f"{CUTS} power cuts, {confirmed} changes confirmed, none lost")  # noqa: T201
    assert confirmed > CUTS * 5
