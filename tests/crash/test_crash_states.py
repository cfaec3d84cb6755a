# SPDX-License-Identifier: Apache-2.0
"""After a crash at any point, in any state it may leave, every confirmed change is whole."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.crash.crash_cases import Depth
from tests.crash.identity import Identity
from tests.crash.replay import Replay, Tally
from tests.crash.surviving_writes import Effort
from tests.crash.workloads import WORKLOADS
from waggle_fsstore.store.fs import disk

_IS_FULL: Final = os.environ.get("WAGGLE_TEST_CRASH_STATES") == "full"

#: The name of the only state to try, as printed by a failure.
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

#: A smaller sample was cut short by a mistake.
_MIN_STATES: Final = 60


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory if there is one: thousands of trees are made in it."""
    memory = "/dev/shm"  # noqa: S108  # a file system of its own on Linux
    if os.access(memory, os.W_OK):
        with tempfile.TemporaryDirectory(dir=memory) as directory:
            yield Path(directory)
    else:
        yield tmp_path


@pytest.mark.longest
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
    assert _WANTED or tally.states >= _MIN_STATES


Fault = Callable[[pytest.MonkeyPatch], None]


def skip_fsync_of_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.Disk, "sync", lambda *_: None)


def skip_fsync_of_directories(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.Disk, "sync_dir", lambda *_: None)


def skip_fsync_of_documents(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk.Disk, "sync_file", lambda *_: None)


def skip_syncfs(patch: pytest.MonkeyPatch) -> None:
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
    patch.setattr(Identity, "rebooted", lambda identity: identity)


@pytest.mark.longest
@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (skip_fsync_of_files, "saving"),
        (skip_fsync_of_files, "deleting"),
        (skip_fsync_of_directories, "founding"),
        (skip_fsync_of_directories, "switching"),
        (skip_fsync_of_documents, "reopening"),
        (skip_syncfs, "many"),
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
