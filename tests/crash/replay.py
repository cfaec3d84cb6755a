# SPDX-License-Identifier: Apache-2.0
"""Replays: a workload is recorded, and the store used on each state that a crash may leave."""

import gc
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from tests.crash.crash_cases import Case, Depth, Run, cases, goes_deeper
from tests.crash.expectations import (
    Begun,
    BrokenPromiseError,
    Done,
    Expected,
    Known,
    look,
    require_same,
)
from tests.crash.file_tree import files_in
from tests.crash.identity import Identity, assumed
from tests.crash.model import FileSystem
from tests.crash.operations import RecordingOs, recording
from tests.crash.workloads import Session, Workload
from waggle_fsstore import Environment, FileStore, Runtime

_STORE: Final = "store"
_TIME: Final = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)


class Failure(NamedTuple):
    """A state on which the store broke a promise, and how."""

    case: str
    error: Exception


@dataclass
class Tally:
    """What came out: how many states were tried, and the failures."""

    states: int = 0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Replay:
    """Tries the crash states of a workload, in a scratch directory.

    ``wanted`` is the name of the only state to try; ``most_failures`` ends the search.
    """

    scratch: Path
    depths: tuple[Depth, ...]
    wanted: str = ""
    most_failures: int = 5
    _numbers: Iterator[int] = field(default_factory=count)

    def run(self, name: str, workload: Workload) -> Tally:
        """Record a workload, and use the store on the states that a crash may leave of it."""
        tally = Tally()
        self._try(self._record(name, workload), tally, 0)
        return tally

    def _record(self, name: str, workload: Workload) -> Run:
        directory = self._empty_directory()
        recorder = RecordingOs(directory)
        identity = Identity()
        # A store that another test dropped must not be collected now, and be recorded.
        gc.freeze()
        with recording(recorder), assumed(identity):
            workload(Session(directory / _STORE, recorder))
        run = Run(name, FileSystem(), recorder.operations, Expected(Known({})), identity)
        self._clear(directory, run)
        return run

    def _try(self, run: Run, tally: Tally, level: int) -> None:
        depth = self.depths[level]
        for case in cases(run, depth, wanted=self.wanted):
            if len(tally.failures) >= self.most_failures:
                return
            tally.states += 1
            try:
                recovery = self._open(case)
            except Exception as error:  # noqa: BLE001  # Whatever it is: the store must open.
                tally.failures.append(Failure(case.name, error))
                continue
            if level + 1 < len(self.depths) and (self.wanted or goes_deeper(case, depth)):
                self._try(recovery, tally, level + 1)

    def _open(self, case: Case) -> Run:
        """Use the store on a state; what it did there."""
        directory = self._empty_directory()
        case.tree.write(directory)
        recorder = RecordingOs(
            directory, known=case.tree.names, first=case.system.highest_inode() + 1
        )
        recorder.can_syncfs = crc32(case.name.encode()) % 2 == 0
        with recording(recorder), assumed(case.identity):
            _use(directory / _STORE, case, recorder)
        operations = recorder.operations
        run = Run(f"{case.name} > ", case.system, operations, case.expected, case.identity)
        self._clear(directory, run)
        return run

    def _empty_directory(self) -> Path:
        directory = self.scratch / str(next(self._numbers))
        directory.mkdir()
        return directory

    def _clear(self, directory: Path, run: Run) -> None:
        """Remove a directory, after a look at whether the recorded operations say what is in it."""
        system = run.system.copy()
        for operation in run.operations:
            system.apply(operation)
        said, found = system.now().files(), files_in(directory)
        shutil.rmtree(directory)
        wrong = {path for path in said.keys() | found.keys() if said.get(path) != found.get(path)}
        assert not wrong, f"{run.name}: changed behind the recorder: {sorted(wrong)}"
        assert said.keys() == found.keys()


def _use(root: Path, case: Case, recorder: RecordingOs) -> None:
    """Open a store, compare what it shows, write to it, and open it again and again."""
    expected = case.expected
    unrecovered = None
    if case.is_power_cut:  # Where a process died, readers may see a part of what it published.
        with recorder.read_only():
            unrecovered = look(FileStore(root))
    store = FileStore(root)
    first = look(store, is_final=case.is_power_cut)
    expected = expected.settled(first)
    if unrecovered is not None:
        require_same(unrecovered, first)
    recorder.mark(first)
    del store  # As if the process had ended: nothing is settled.

    store = FileStore(root)
    require_same(first, look(store))
    highest = max(
        expected.known.highest, *(found.revision for found in first.documents.values()), 0
    )
    name = f"after-{len(expected.known.log) + len(expected.since)}"
    version = Environment(
        id=name, name=name, runtime=Runtime.NODE, created_at=_TIME, last_used=_TIME
    )
    begun = Begun(((name, version),))
    recorder.mark(begun)
    done = Done((store.save(version),))
    recorder.mark(done)
    if done.revisions[0] <= highest:
        raise BrokenPromiseError(f"revision {done.revisions[0]} was used before: {highest}")
    expected = expected.after(begun).after(done)
    last = look(store, is_final=case.is_power_cut)
    expected.settled(last)
    recorder.mark(last)
    store.close()

    require_same(last, look(FileStore(root)))
