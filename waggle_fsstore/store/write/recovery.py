# SPDX-License-Identifier: Apache-2.0
"""Recovery: the documents brought up to what the journal says, as after a power cut.

It never goes back: a document of the same or a higher revision stays, and so does one
of a newer program. It can be repeated, and cut short anywhere.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from waggle_fsstore.domain.errors import CorruptDocumentError, UnsupportedFormatError
from waggle_fsstore.domain.finding import Finding, Severity
from waggle_fsstore.store.format.canonical_json import canonical
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import FILE_MODE, Disk, mode_of, temp_path
from waggle_fsstore.store.fs.safe_read import is_regular, read_or_error
from waggle_fsstore.store.journal.changes import last_of_each
from waggle_fsstore.store.read.documents import Documents, StoredDocument
from waggle_fsstore.store.write.batch import free_path

Changes = Callable[[], Iterator[dict[str, Any]]]


class _Outdated(NamedTuple):
    """A document that is to give way to a change, and what is wrong with it."""

    change: dict[str, Any]
    stored: StoredDocument | None


def replay(layout: Layout, disk: Disk, changes: Changes, *, anew: bool = False) -> list[Finding]:
    """Publish the last change of each id where the document is older, missing or broken.

    ``changes`` gives the changes in order, each time that it is called. With ``anew``, also
    what is in place is written once more, and all of it flushed: a flush of it had failed.
    Returns what could not be done.
    """
    documents = Documents(layout)
    findings: list[Finding] = []
    outdated: dict[str, _Outdated] = {}
    for name, change in last_of_each(changes()).items():
        path = layout.document(name)
        match read_or_error(partial(documents.stored, name)):
            case CorruptDocumentError() as error if not is_regular(path):
                findings.append(Finding(Severity.ERROR, error.path, error.reason, "move it away"))
            case UnsupportedFormatError() as error:
                findings.append(
                    Finding(Severity.WARNING, Path(path), str(error), "upgrade the program")
                )
            case CorruptDocumentError() | OSError():
                outdated[name] = _Outdated(change, None)
            case stored if _is_outdated(stored, change, anew=anew):
                outdated[name] = _Outdated(change, stored)
    _keep_unknown(layout, disk, outdated, changes)
    for name, (change, stored) in outdated.items():
        path = layout.document(name)
        try:
            _publish(layout, disk, path, change, stored, anew=anew)
        except PermissionError as error:  # Somebody protects this very file.
            findings.append(Finding(Severity.ERROR, Path(path), str(error), "make it writable"))
    if anew:
        disk.sync_dir(layout.environments)
    return findings


def _is_outdated(stored: StoredDocument | None, change: dict[str, Any], *, anew: bool) -> bool:
    if stored is None:
        return bool(change["kind"] != "deleted")
    if stored.revision == change["seq"]:
        return anew and stored.data == canonical(change["document"])
    return bool(stored.revision < change["seq"])


def _publish(
    layout: Layout,
    disk: Disk,
    path: str,
    change: dict[str, Any],
    stored: StoredDocument | None,
    *,
    anew: bool,
) -> None:
    if change["kind"] != "deleted":
        source = temp_path(layout.temporary)
        mode = stored.mode if stored else mode_of(path)
        disk.write_temp(source, canonical(change["document"]), mode, sync=anew)
        disk.replace(source, path)
    elif stored is not None:
        disk.remove(path)
    else:
        disk.make_dir(layout.lost_and_found)
        disk.replace(path, free_path(layout.lost_and_found, change["id"], change["seq"]))
        disk.sync_dir(layout.lost_and_found)


def _keep_unknown(
    layout: Layout, disk: Disk, outdated: dict[str, _Outdated], changes: Changes
) -> None:
    """Copy to lost+found what is displaced and is in no change that was read."""
    unknown = {name: found.stored for name, found in outdated.items() if found.stored}
    if not unknown:
        return
    for change in changes():
        stored = unknown.get(change["id"])
        if stored is not None and stored.is_intact and _is_known(stored, change):
            del unknown[change["id"]]
    for name, stored in unknown.items():
        keep(layout, disk, name, stored.data, stored.revision)


def _is_known(stored: StoredDocument, change: dict[str, Any]) -> bool:
    version = (stored.revision, stored.checksum)
    versions = [known for known in (change["document"], change["was"]) if known is not None]
    return any(version == (known["revision"], known["checksum"]) for known in versions)


def keep(layout: Layout, disk: Disk, name: str, data: bytes, number: int) -> str:
    """Put a durable copy of a document into lost+found; its path."""
    disk.make_dir(layout.lost_and_found)
    source = temp_path(layout.temporary)
    disk.write_temp(source, data, FILE_MODE)
    target = free_path(layout.lost_and_found, name, number)
    disk.replace(source, target)
    disk.sync_dir(layout.lost_and_found)
    return target
