# SPDX-License-Identifier: Apache-2.0
"""What is done to a store until the power goes: each workload makes one thing happen."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.crash.expectations import Begun, CrashPoints, Done, Failed, Outcome
from tests.crash.operations import RecordingOs
from waggle_fsstore import Environment, FileStore, OutcomeUnknownError, Runtime

_TIME: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)

#: Some 15 lines of these fill the first segment of the journal.
_LARGE: Final = 4200


class Session:
    """The user of a store: notes what it asked for, and what was confirmed."""

    def __init__(self, root: Path, recorder: RecordingOs) -> None:
        self.recorder = recorder
        #: Of the handles that are opened from now on.
        self.durable = True
        self._root = root
        self._versions = 0
        self._stores: dict[int, FileStore] = {}

    def save(self, name: str, *, padding: int = 0, handle: int = 0, create: bool = False) -> None:
        """Store a new version of an id."""
        version = self._version(name, padding)
        with self._asking((name, version)) as done:
            store = self._store(handle)
            done(store.create(version) if create else store.save(version))

    def save_all(self, *names: str) -> None:
        """Store new versions of several ids at once."""
        versions = [self._version(name) for name in names]
        with self._asking(*((one.id, one) for one in versions)) as done:
            done(*self._store(0).save_all(versions))

    def update(self, name: str, *, handle: int = 0) -> None:
        """Change an id in place."""
        version = self._version(name)

        def change(environment: Environment) -> None:
            environment.name, environment.extra = version.name, version.extra

        with self._asking((name, version)) as done:
            done(self._store(handle).update(name, change).revision)

    def delete(self, name: str, *, handle: int = 0) -> None:
        """Delete an id."""
        with self._asking((name, None)) as done:
            self._store(handle).delete(name)
            done(0)

    def fail(self, call: str, name: str, *, padding: int = 0) -> None:
        """Save while a call of the system fails once; the save must say so."""
        self.recorder.fail_next(call)
        version = self._version(name, padding)
        self.recorder.mark(Begun(((name, version),)))
        try:
            self._store(0).save(version)
        except OutcomeUnknownError:
            raise
        except OSError:
            self.recorder.mark(Failed())
        else:
            raise AssertionError(f"{call} failed, and save did not say so")
        assert self.recorder.has_failed

    def edit(self, name: str) -> None:
        """Edit a document as an editor does that fsyncs what it writes."""
        path = str(self._store(0).document_path(name))
        found = self._store(0).find_by_id(name)
        new = found.copy()
        new.name = f"{found.name} by hand"
        text = Path(path).read_bytes().replace(found.name.encode(), new.name.encode())
        source = os.path.join(os.path.dirname(path), f".{name}.edited")
        self.recorder.mark(Begun(((name, new),), is_manual=True))
        descriptor = self.recorder.open(source, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        self.recorder.pwrite(descriptor, text, 0)
        self.recorder.fsync(descriptor)
        os.close(descriptor)
        self.recorder.replace(source, path)
        descriptor = os.open(os.path.dirname(path), os.O_RDONLY)
        self.recorder.fsync(descriptor)
        os.close(descriptor)
        self.recorder.mark(Done((found.revision,)))

    def close(self, *, failing: str = "") -> None:
        """Close all handles, while a call of the system fails once; the next use reopens them."""
        if failing:
            self.recorder.fail_next(failing)
        while self._stores:
            self._stores.popitem()[1].close()
        assert self.recorder.has_failed

    def crash_from_here(self) -> None:
        """What comes before was tried by other workloads."""
        self.recorder.mark(CrashPoints())

    def _store(self, handle: int) -> FileStore:
        if handle not in self._stores:
            self._stores[handle] = FileStore(self._root, durable=self.durable)
        return self._stores[handle]

    def _version(self, name: str, padding: int = 0) -> Environment:
        self._versions += 1
        return Environment(
            id=name,
            name=f"version {self._versions}",
            runtime=Runtime.SHELL,
            created_at=_TIME,
            last_used=_TIME,
            extra={"padding": "x" * padding} if padding else {},
        )

    @contextmanager
    def _asking(self, *outcomes: Outcome) -> Iterator[Callable[..., None]]:
        self.recorder.mark(Begun(outcomes))
        yield lambda *revisions: self.recorder.mark(Done(revisions))


def founding(session: Session) -> None:
    """The very first save, which makes the store."""
    session.save("a", create=True)


def saving(session: Session) -> None:
    """Saves over one id and of others."""
    session.save("a")
    session.crash_from_here()
    session.save("a")
    session.save("b", padding=1500)
    session.save("a", padding=700)
    session.update("b")


def batches(session: Session) -> None:
    """Three at once, over a mix of new ones and old ones."""
    session.save("a")
    session.crash_from_here()
    session.save_all("a", "b", "c")
    session.save("b")
    session.save_all("c", "d", "b")


def deleting(session: Session) -> None:
    """Deletes, the last number among them, and a new one under an old id."""
    session.save("a")
    session.save("b")
    session.crash_from_here()
    session.delete("b")
    session.save("b")
    session.delete("a")
    session.delete("b")
    session.save("a")


def switching(session: Session) -> None:
    """Enough to fill the first segment of the journal; both users continue in the second."""
    for number in range(12):
        session.save(f"env-{number % 4}", padding=_LARGE, handle=number % 2)
    session.delete("env-3", handle=1)  # The last line in the first segment is of this one.
    session.crash_from_here()
    for number in range(3):
        session.save(f"env-{number}", padding=_LARGE)
        session.save("env-3", handle=1)  # For this there is room in the first one still.


def reopening(session: Session) -> None:
    """Closed and opened again, with changes before and after."""
    session.save("a")
    session.crash_from_here()
    session.save("b")
    session.close()
    session.save("b")
    session.delete("a")
    session.close()
    session.save("c")


def two_handles(session: Session) -> None:
    """Two users of one store, in turns."""
    session.save("a")
    session.crash_from_here()
    session.save("b", handle=1)
    session.save("a")
    session.delete("a", handle=1)
    session.save("b")
    session.save("a", handle=1)


def failing_flush(session: Session) -> None:
    """A fsync fails, nothing is stored, and later saves succeed."""
    session.save("a")
    session.save("b")
    session.crash_from_here()
    session.fail("fdatasync", "a", padding=900)
    session.save("b")
    session.save("a")
    session.fail("fdatasync", "c")
    session.save("c")


def failing_rename(session: Session) -> None:
    """A document cannot be renamed into place, nothing is stored, and later saves succeed."""
    session.save("a")
    session.crash_from_here()
    session.fail("replace", "a")
    session.save("b")
    session.fail("replace", "c")
    session.save("a")


def failing_checkpoint(session: Session) -> None:
    """A document cannot be synced for a checkpoint: what was saved is in the journal still."""
    session.save("a")
    session.save("b", padding=900)
    session.crash_from_here()
    session.close(failing="fdatasync")
    session.save("a")
    session.close()


def many(session: Session) -> None:
    """A checkpoint of more documents than are synced one by one."""
    session.save_all(*(f"env-{number:02}" for number in range(66)))
    session.crash_from_here()
    session.delete("env-07")
    session.close()


def once_without_flushes(session: Session) -> None:
    """A store that was written without fsyncs is durable after one durable write."""
    session.durable = False
    session.save("a")
    session.save("b")
    session.delete("a")
    session.close()
    session.durable = True
    session.save("c")
    session.crash_from_here()
    session.save("a")
    session.save("b")


def editing(session: Session) -> None:
    """Documents are edited manually between saves."""
    session.save("a")
    session.save("b")
    session.crash_from_here()
    session.edit("a")
    session.save("b")
    session.edit("b")
    session.save("b")
    session.save("a")


Workload = Callable[[Session], None]

WORKLOADS: Final[dict[str, Workload]] = {
    workload.__name__: workload
    for workload in (
        founding,
        saving,
        batches,
        deleting,
        switching,
        reopening,
        two_handles,
        failing_flush,
        failing_rename,
        failing_checkpoint,
        many,
        once_without_flushes,
        editing,
    )
}
