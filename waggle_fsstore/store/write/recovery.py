# SPDX-License-Identifier: Apache-2.0
"""Recovery: the documents brought up to the journal, as after a power cut.

It never replaces a document by an older version: a document of the same or a higher revision
stays, and so does one of a newer program. It can be repeated, and interrupted anywhere.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from waggle_fsstore.domain.errors import CorruptDocumentError, UnsupportedFormatError
from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.store.format.canonical_json import canonical
from waggle_fsstore.store.format.codec import MAX_DOCUMENT_BYTES
from waggle_fsstore.store.format.layout import SEGMENT_SUFFIX, SUFFIX, Layout, document_name
from waggle_fsstore.store.fs import lost_and_found
from waggle_fsstore.store.fs.disk import FILE_MODE, Disk
from waggle_fsstore.store.fs.safe_read import BadFile, is_regular, read_or_error, read_regular
from waggle_fsstore.store.journal import lines, segments
from waggle_fsstore.store.journal.changes import FULL_LOG, changes, last_of_each, redo_range
from waggle_fsstore.store.journal.damage import repair_copy
from waggle_fsstore.store.journal.lines import Cursor
from waggle_fsstore.store.journal.live_segment import LiveSegment
from waggle_fsstore.store.journal.segments import Segment
from waggle_fsstore.store.journal.state import State, checkpoint_identity, last_modified
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.write.sync import sync_all

Changes = Callable[[], Iterator[dict[str, Any]]]
Report = Callable[[Finding], object]


class Tail(NamedTuple):
    """The journal after the state record, left by a writer that died or failed to roll back.

    ``segment`` is the live one, with ``valid_bytes`` before the tail; ``changes`` are those that
    may be unpublished, ``text`` the lines that hold them, and ``committed`` is the highest number
    in use. ``must_rotate``: there are lines to write again, because it is unknown whether they
    were synced, or invalid bytes.
    """

    segment: int
    valid_bytes: int
    committed: int
    changes: list[dict[str, Any]]
    text: bytes
    must_rotate: bool


class Recovered(NamedTuple):
    """The result of recovery: ``last`` is the last change, committed and published."""

    last: int
    is_synced: bool


def read_tail(layout: Layout, state: State, segment_numbers: list[int]) -> Tail | None:
    """Return the journal after a state.

    ``None`` if the segments cannot be the work of a single interrupted writer.
    ``segment_numbers`` are those from the segment of the state on. Changes nothing.
    """
    if len(segment_numbers) > 2 or segment_numbers[:1] != [state.segment]:
        return None
    parts = [
        segments.read_segment(layout, first, after, state.offset if first == state.segment else 0)
        for first, after in segments.with_successors(segment_numbers)
    ]
    live = parts[-1]
    if live.first != state.segment and not live.good:
        return None
    pending = [
        (line, part.text(line))
        for part in parts
        for line in part.good
        if any(change["seq"] > state.published for change in line.changes)
    ]
    changes = [change for line, _ in pending for change in line.changes]
    valid_bytes = state.offset if live.first == state.segment else live.good[0].end
    return Tail(
        live.first,
        valid_bytes,
        # The name of a segment is above all numbers that were used before it.
        max(state.committed, live.first - 1, *(change["seq"] for change in changes)),
        changes,
        b"".join(text for _, text in pending),
        bool(changes or live.bad or live.end > valid_bytes),
    )


def recover(
    layout: Layout,
    disk: Disk,
    segment: LiveSegment,
    highest: int,
    report: Report,
    *,
    is_synced: bool,
    redo_all: bool,
) -> Recovered:
    """Bring the documents up to the journal, and open its last segment.

    ``highest`` is the highest change known; ``is_synced`` says whether all files of earlier
    writers are known to be synced; with ``redo_all`` no checkpoint is trusted. Each finding is
    reported at once: when an error ends recovery, the next one does not find it again. Raises
    :class:`JournalDamagedError`.
    """
    segment_numbers = segments.list_segments(layout)
    if not segment_numbers:
        return _begin(layout, disk, segment, highest)
    window = FULL_LOG if redo_all else redo_range(layout)
    for finding in repair_copy(layout, disk, segment_numbers[-1]) if window.is_copy else ():
        report(finding)
    live = segments.read_segment(layout, segment_numbers[-1], None)
    segment.open(live.first, live.end)
    segment.sync_names()
    segment.sync()
    replay(layout, disk, partial(changes, layout, window.start, strict=True), report)
    if window.is_full_log or not is_synced:
        highest = max(highest, Documents(layout).highest_revision())
    numbers = [change["seq"] for line in live.good for change in line.changes]
    last = max(highest, live.first - 1, *numbers)
    if live.bad:
        report(_ignored(layout, disk, live))
    if window.is_copy or live.end == 0 or live.bad or segment.is_shared():
        last = max(last, live.first) if window.is_copy else last
        segment.rotate(last + 1, live.end, begins_era=window.is_copy)
    return Recovered(last, is_synced and not window.is_full_log)


def replay(
    layout: Layout, disk: Disk, changes: Changes, report: Report, *, rewrite: bool = False
) -> None:
    """Publish the last change of each id whose document is older, missing or corrupt.

    ``changes`` returns the changes in order, at each call. With ``rewrite``, documents that are
    in place are written again, and all are synced, because a sync of them had failed. What the
    journal does not have goes to lost+found first. Reports a finding on each document that went
    there, and on each that could not be published.
    """
    outdated, findings = _outdated(layout, changes, rewrite=rewrite)
    for finding in findings:
        report(finding)
    known = _with_known_versions(outdated, changes)
    for environment_id, (change, stored) in outdated.items():
        path = Path(layout.document(environment_id))
        try:
            if environment_id not in known:
                kept = _keep(layout, disk, change, stored)
                report(_replaced(path, change, stored, kept))
            _publish(layout, disk, change, stored, sync=rewrite)
        except PermissionError as error:  # This very file is protected.
            report(Finding(Severity.ERROR, path, str(error), "make it and lost+found writable"))
    if rewrite:
        disk.sync_dir(layout.environments)


def _ignored(layout: Layout, disk: Disk, live: Segment) -> Finding:
    """Return the finding on a torn tail; keep a segment without any good line in lost+found."""
    problem = "the last line was incomplete and never confirmed; it was ignored"
    remedy = "no action is needed"
    if live.end == 0 and live.data.strip(b"\0 \n"):  # No crash leaves that after an fsync.
        stem = f"{live.first:016d}"
        kept = lost_and_found.save_copy(layout, disk, stem, SEGMENT_SUFFIX, 1, live.data)
        problem, remedy = "has no readable line", f"replaced; the file is kept as {kept}"
    return Finding(Severity.WARNING, Path(live.path), problem, remedy, is_repaired=True)


class _Outdated(NamedTuple):
    """A change to publish, and the document to replace: the error of a bad one, or ``None``."""

    change: dict[str, Any]
    stored: StoredDocument | BadFile | None


def _begin(layout: Layout, disk: Disk, segment: LiveSegment, highest: int) -> Recovered:
    """Begin the journal of a new store, or of one without a journal, from git for example."""
    documents = Documents(layout)
    highest = max(highest, documents.highest_revision())
    carry = b""
    if disk.durable or not documents.names():
        if documents.names():
            sync_all(layout, disk)
        # It covers all up to the end of the first line, wherever that is.
        identity = checkpoint_identity(layout, last_modified(layout))
        carry = lines.checkpoint(Cursor(highest, highest + 1), identity)
    segment.close()
    segment.rotate(highest + 1, 0, carry_over=carry)
    return Recovered(highest, is_synced=disk.durable)


def _outdated(
    layout: Layout, changes: Changes, *, rewrite: bool
) -> tuple[dict[str, _Outdated], list[Finding]]:
    """Return the change to publish for each id, and a finding for each that cannot be."""
    documents = Documents(layout)
    outdated: dict[str, _Outdated] = {}
    findings: list[Finding] = []
    for environment_id, change in last_of_each(changes()).items():
        path = layout.document(environment_id)
        match read_or_error(partial(documents.stored, environment_id)):
            case CorruptDocumentError() as error if not is_regular(path):
                findings.append(Finding(Severity.ERROR, error.path, error.reason, "move it away"))
            case UnsupportedFormatError() as error:
                findings.append(
                    Finding(Severity.WARNING, Path(path), str(error), "upgrade the program")
                )
            case CorruptDocumentError() | OSError() as error:
                outdated[environment_id] = _Outdated(change, error)
            case stored if _is_outdated(stored, change, rewrite=rewrite):
                outdated[environment_id] = _Outdated(change, stored)
    return outdated, findings


def _is_outdated(stored: StoredDocument | None, change: dict[str, Any], *, rewrite: bool) -> bool:
    if stored is None:
        return bool(change["kind"] != "deleted")
    if stored.revision == change["seq"]:
        return rewrite and stored.data == canonical(change["document"])
    return bool(stored.revision < change["seq"])


def _publish(
    layout: Layout,
    disk: Disk,
    change: dict[str, Any],
    stored: StoredDocument | BadFile | None,
    *,
    sync: bool,
) -> None:
    path = layout.document(change["id"])
    if change["kind"] != "deleted":
        # The mode of a bad file may be what is wrong with it.
        mode = stored.mode if isinstance(stored, StoredDocument) else FILE_MODE
        data = canonical(change["document"])
        disk.write_atomic(path, data, layout.temporary, mode=mode, sync=sync)
    elif os.path.lexists(path):
        disk.remove(path)


def _with_known_versions(outdated: dict[str, _Outdated], changes: Changes) -> set[str]:
    """Return the ids whose document may be replaced, because a change of ``changes`` has it.

    A missing one, or a part of the version that is published, has nothing to keep: a power cut
    leaves such files.
    """
    known = {key for key, entry in outdated.items() if _is_remnant(entry)}
    unknown = outdated.keys() - known
    for change in changes() if unknown else ():
        if change["id"] in unknown and _is_known(outdated[change["id"]].stored, change):
            known.add(change["id"])
    return known


def _is_remnant(entry: _Outdated) -> bool:
    """Return whether a file is missing, empty, NUL, or the beginning of the version to publish."""
    change, stored = entry
    if not isinstance(stored, CorruptDocumentError):
        return stored is None
    data = read_or_error(partial(read_regular, str(stored.path), MAX_DOCUMENT_BYTES))
    whole = canonical(change["document"]) if change["document"] else b""
    return isinstance(data, bytes) and whole.startswith(data.rstrip(b"\0"))


def _keep(
    layout: Layout, disk: Disk, change: dict[str, Any], stored: StoredDocument | BadFile | None
) -> str:
    """Make a document durable in lost+found; a bad one by a rename, which reads nothing."""
    stem = document_name(change["id"]).removesuffix(SUFFIX)
    if isinstance(stored, StoredDocument):
        return lost_and_found.save_copy(layout, disk, stem, SUFFIX, stored.revision, stored.data)
    path = layout.document(change["id"])
    return lost_and_found.move_in(layout, disk, path, stem, SUFFIX, change["seq"])


def _replaced(
    path: Path, change: dict[str, Any], stored: StoredDocument | BadFile | None, kept: str
) -> Finding:
    match stored:
        case CorruptDocumentError():
            problem = f"was corrupt: {stored.reason}"
        case OSError():
            problem = f"could not be read: {stored.strerror}"
        case _:
            problem = "was an older version that the journal does not have"
    done = "removed" if change["kind"] == "deleted" else "replaced"
    remedy = f"{done} as change {change['seq']} says; the file is kept as {kept}"
    return Finding(Severity.WARNING, path, problem, remedy, is_repaired=True)


def _is_known(stored: StoredDocument | BadFile | None, change: dict[str, Any]) -> bool:
    if not isinstance(stored, StoredDocument) or not stored.is_intact:
        return False
    version = (stored.revision, stored.checksum)
    versions = [known for known in (change["document"], change["was"]) if known is not None]
    return any(version == (known["revision"], known["checksum"]) for known in versions)
