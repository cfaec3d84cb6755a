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

import pytest

from waggle_fsstore import FileStore
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.torture

CUTS = int(os.environ.get("WAGGLE_TEST_CUTS", "30"))

# linux/fs.h and the ext4 and xfs headers: shut down, throwing away the log in memory.
FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

# Three saves in four, one delete; says what it was about to do, and that it was done.
WRITE = """
import sys
from waggle_fsstore import Environment, FileStore, Runtime
store = FileStore(sys.argv[1])
step = 0
while True:
    step += 1
    name = f"env-{step % 5}"
    try:
        if step % 4:
            sys.stdout.write(f"begin {name} {step}\\n"); sys.stdout.flush()
            store.save(Environment(id=name, name="n", runtime=Runtime.SHELL,
                                   extra={"n": step, "padding": "x" * (step * 997 % 9000)}))
        else:
            sys.stdout.write(f"begin {name} 0\\n"); sys.stdout.flush()
            if any(e.id == name for e in store.find_all()):
                store.delete(name)
    except Exception as error:
        sys.stdout.write(f"failed {type(error).__name__}\\n"); sys.stdout.flush()
        break
    sys.stdout.write("done\\n"); sys.stdout.flush()
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


def run_until_cut(
    cut: int, root: Path, folder: Path
) -> tuple[dict[str, int], tuple[str, int], int]:
    """Write until the power goes; what was acknowledged, what was begun, and how many were."""
    state: dict[str, int] = {}
    begun = ("", 0)
    done = 0
    command = [sys.executable, "-c", WRITE, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for number, line in enumerate(writer.stdout):
            word, *rest = line.split()
            if word == "begin":
                begun = (rest[0], int(rest[1]))
            elif word == "done":
                state[begun[0]] = begun[1]
                begun = ("", 0)
                done += 1
            if number == 20 + cut * 7 % 40:
                time.sleep(cut * 0.00037 % 0.004)
                cut_power(folder)
    return state, begun, done


def test_acknowledged_changes_survive(image: tuple[Path, Path]) -> None:
    """After each of many power cuts, what was acknowledged is there, and whole."""
    file, folder = image
    root = folder / "store"
    known: dict[str, int] = {}  # The step stored under each id; 0 for deleted.
    acknowledged = 0
    for cut in range(CUTS):
        state, begun, done = run_until_cut(cut, root, folder)
        acknowledged += done
        state = {**known, **state}
        subprocess.run(["umount", str(folder)], check=True)
        mount(file, folder)
        with FileStore(root) as store:
            found = {environment.id: environment.extra["n"] for environment in store.find_all()}
            for name, step in state.items():
                allowed = {step, begun[1]} if name == begun[0] else {step}
                assert found.get(name, 0) in allowed, f"cut {cut}: {name}"
            revisions = [environment.revision for environment in store.find_all()]
            assert len(set(revisions)) == len(revisions)
            highest = max(revisions, default=0)
            assert store.save(make_environment(id="after", extra={"n": 0})) > highest
            store.delete("after")
        known = found
    assert acknowledged > CUTS * 5
