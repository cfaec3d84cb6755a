# SPDX-License-Identifier: Apache-2.0
"""Upkeep: what a store of files can do beyond what every store does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from waggle_fsstore.store.write import inputs

# Each method imports what does its work: most programs never ask for it.
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from waggle_fsstore.domain.environment import Environment
    from waggle_fsstore.domain.finding import Finding
    from waggle_fsstore.store.format.layout import Layout
    from waggle_fsstore.store.fs.disk import Disk
    from waggle_fsstore.store.maintenance.info import StoreInfo
    from waggle_fsstore.store.maintenance.prune import Pruned
    from waggle_fsstore.store.maintenance.restore import Restored
    from waggle_fsstore.store.maintenance.snapshot import Snapshot
    from waggle_fsstore.store.read.view import View
    from waggle_fsstore.store.write.writer import Writer


class Upkeep:
    """Checks, repairs, copies and figures of a store. A part of :class:`FileStore`."""

    _layout: Layout
    _disk: Disk
    _writer: Writer
    _view: View
    _recognised: bool
    _lock_timeout: float

    def _begin_reading(self) -> None:
        raise NotImplementedError

    @property
    def recovery_findings(self) -> tuple[Finding, ...]:
        """What recovery could not do when this object last made one, or did and should tell.

        Such as a document that a folder is in the way of, or a last line that was torn.
        """
        return self._writer.findings

    def check_writable(self, *, timeout: float) -> None:
        """Raise what a write would raise now: disk full, read-only, a damaged journal, ...

        Also what one would raise after a crash, because of damage in the latest changes.
        Stores nothing; founds the store if there is none yet. Waits ``timeout`` seconds for
        the store lock.
        """
        self._begin_writing()
        self._writer.check(timeout=timeout)

    def check(self) -> Iterator[Finding]:
        """What is wrong with the files of this store, and noteworthy about them, as it is found.

        Errors: damage of the journal, a missing segment of it; a document that is corrupt,
        of a newer schema, missing, or cannot be read. Warnings: a document that a hand
        changed, put back or put there; files of others, and what dead writers left; modes
        that let others in. Changes nothing, waits for nobody, and works on a read-only
        disk. Memory grows with the number of ids only.
        """
        from waggle_fsstore.store.maintenance import fsck

        self._begin_reading()
        return fsck.check(self._layout, self._view) if self._recognised else iter(())

    def repair(self) -> Iterator[Finding]:
        """The findings of :meth:`check`, each after it was repaired, where that can be done.

        A damaged line of the journal is blanked out, and the store takes writes again. A
        corrupt document goes to ``.waggle/lost+found``, and its last version comes back
        from the journal, as a missing one does. What a hand changed is recorded in the
        history as ``external`` and stays. Files of others and modes are left alone.
        Nothing is deleted: what is replaced is kept in lost+found, each thing once. It
        goes on as the findings are taken, one document at a time, others write in
        between. Raises what a write raises.
        """
        from waggle_fsstore.store.maintenance import fsck

        self._begin_writing()
        if not self._recognised:
            return iter(())
        return fsck.repair(self._layout, self._disk, self._writer, self._lock_timeout)

    def snapshot(
        self,
        dest: str | os.PathLike[str],
        *,
        on_corrupt: Callable[[Exception], object] | None = None,
    ) -> Snapshot:
        """Copy all documents, as of one change, into a new folder; others may write meanwhile.

        ``dest`` must not exist or be an empty folder outside of the store; else
        ``FileExistsError`` or ``ValueError``. It gets ``environments/``, byte for byte,
        ``waggle.json``, and, last, ``SHA256SUMS`` for ``sha256sum -c``; all of it survives a
        power cut when this returns. A bad document raises its error, or is given to
        ``on_corrupt`` and left out. When this raises, nothing of it is left.
        """
        from waggle_fsstore.store.maintenance import snapshot

        self._begin_reading()

        def refuse(error: Exception) -> None:
            raise error

        path = os.path.realpath(dest)
        return snapshot.snapshot(self._layout, self._disk, self._view, path, on_corrupt or refuse)

    def restore(self, source: str | os.PathLike[str]) -> Restored:
        """Bring the store to the documents of a snapshot, or of any folder that has some.

        All or none, as one change each in the history: what differs is updated, what is
        missing created, what is not in ``source`` deleted; a corrupt document goes to
        ``.waggle/lost+found``. What says the same but for its revision stays. Raises
        :class:`CorruptDocumentError` for a file that is not as ``SHA256SUMS`` says, where
        there is one, :class:`UnsupportedFormatError` for a newer document, here or there,
        ``FileNotFoundError`` without ``environments/``; then nothing was changed.
        """
        from waggle_fsstore.store.maintenance import restore

        self._begin_writing()
        return restore.restore(self._layout, self._writer, os.path.realpath(source))

    def restore_revision(self, environment_id: str, revision: int) -> Environment:
        """Store an earlier version of an environment anew, and return a copy of it.

        Raises :class:`EnvironmentNotFoundError` if the history has no such version of it,
        :class:`HistoryPrunedError` if that time was pruned.
        """
        from waggle_fsstore.store.maintenance import restore

        self._begin_writing()
        return restore.restore_revision(
            self._layout, self._writer, self._view, environment_id, revision
        )

    def prune_history(
        self,
        *,
        keep_days: float | None = None,
        keep_bytes: int | None = None,
        compress: bool = False,
    ) -> Pruned:
        """Remove the oldest history, in whole segments of the journal, from the oldest on.

        Those go whose last change is more than ``keep_days`` old, and as many as it takes
        for the journal to have at most ``keep_bytes``. The one in use and what recovery
        needs always stay; a checkpoint is made first, so that this is little. With
        ``compress``, what else is not in use is compressed. Raises ``ValueError`` without
        any of the three, :class:`JournalDamagedError`, and what a write raises.
        """
        from waggle_fsstore.store.maintenance import prune

        self._begin_writing()
        return prune.prune(
            self._layout,
            self._disk,
            self._writer,
            self._lock_timeout,
            keep_days=keep_days,
            keep_bytes=keep_bytes,
            compress=compress,
        )

    def info(self) -> StoreInfo:
        """This store in figures: sizes, the last change, and what keeps it safe here.

        Opens no document, and of the journal what follows the last checkpoint.
        """
        from waggle_fsstore.store.maintenance import info

        self._begin_reading()
        return info.describe(self._layout, self._view, durable=self._disk.durable)

    def _begin_writing(self) -> None:
        inputs.refuse_inside(self._layout.root)
        self._begin_reading()
