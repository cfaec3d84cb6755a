# SPDX-License-Identifier: Apache-2.0
"""After a crash at any point, whatever it leaves: what was confirmed is there, and whole."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.crash.crash_cases import Depth
from tests.crash.identity import World
from tests.crash.replay import Replay, Tally
from tests.crash.surviving_writes import Effort
from tests.crash.workloads import WORKLOADS
from waggle_fsstore.store.fs import disk

_IS_FULL: Final = os.environ.get("WAGGLE_TEST_CRASH_STATES") == "full"

#: The name of one state, as a failure tells it: only that one is tried.
_WANTED: Final = os.environ.get("WAGGLE_TEST_CRASH_STATE", "")

_SAMPLE: Final = (
    Depth(Effort(systematic=1, random=1), points=4, is_outermost=True),
    Depth(Effort(systematic=1, random=1, most=1), points=1),
)
_MANY: Final = (
    Depth(Effort(systematic=40, random=4), points=None, deeper=4),
    Depth(Effort(systematic=4, random=4, most=2), points=4, deeper=8),
    Depth(Effort(systematic=4, random=4, most=1), points=4),
)
_EVERY: Final = (Depth(Effort(systematic=None, random=4), points=None),) * 3

#: A sample that is smaller has been cut short by a mistake.
_FEWEST: Final = 60


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory if there is one: thousands of trees are made in it."""
    memory = "/dev/shm"  # noqa: S108  # a file system of its own on Linux
    if os.access(memory, os.W_OK):
        with tempfile.TemporaryDirectory(dir=memory) as folder:
            yield Path(folder)
    else:
        yield tmp_path


@pytest.mark.parametrize("name", WORKLOADS)
def test_confirmed_changes_survive(
    name: str, scratch: Path, record_property: Callable[[str, object], None]
) -> None:
    """No confirmed change is lost, none is half visible, and the store accepts further writes."""
    depths = _EVERY if _WANTED else _MANY if _IS_FULL else _SAMPLE
    tally = Replay(scratch, depths, wanted=_WANTED).run(name, WORKLOADS[name])
    record_property("states", tally.states)
    print(f"{name}: states tried {tally.states}, violations {len(tally.failures)}")  # noqa: T201
    if tally.failures:
        pytest.fail(_report(tally))
    assert _WANTED or tally.states >= _FEWEST


Fault = Callable[[pytest.MonkeyPatch], None]


def no_flush_of_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.Disk, "sync", lambda *_: None)


def no_flush_of_folders(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.Disk, "sync_dir", lambda *_: None)


def no_flush_of_documents(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.Disk, "sync_file", lambda *_: None)


def no_flush_of_the_file_system(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.Disk, "sync_filesystem", lambda *_: True)


def files_written_in_place(patch: pytest.MonkeyPatch) -> None:
    def replace(changer: disk.Disk, source: str, target: str) -> None:
        data = Path(source).read_bytes()
        descriptor = disk.open_to_write(target, os.O_CREAT | os.O_TRUNC)
        disk.write(descriptor, data)
        os.close(descriptor)
        changer.remove(source)

    patch.setattr(disk.Disk, "replace", replace)


def no_new_boot(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(World, "rebooted", lambda world: world)


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (no_flush_of_files, "saving"),
        (no_flush_of_files, "deleting"),
        (no_flush_of_folders, "founding"),
        (no_flush_of_folders, "switching"),
        (no_flush_of_documents, "reopening"),
        (no_flush_of_the_file_system, "many"),
        (files_written_in_place, "founding"),
        (no_new_boot, "saving"),
    ],
)
def test_planted_fault_is_found(
    fault: Fault, name: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that breaks a rule of durability breaks a promise in one of the states."""
    fault(monkeypatch)
    tally = Replay(scratch, _SAMPLE, most_failures=1).run(name, WORKLOADS[name])
    errors = [failure.error for failure in tally.failures]
    assert errors
    assert not isinstance(errors[0], AssertionError), errors[0]


def _report(tally: Tally) -> str:
    lines = [
        f"{failure.case}\n    {type(failure.error).__name__}: {failure.error}"
        for failure in tally.failures
    ]
    return "\n".join(
        [f"{len(lines)} violations, one of them again with WAGGLE_TEST_CRASH_STATE=NAME:", *lines]
    )
