# SPDX-License-Identifier: Apache-2.0
"""Publishing: the renames that make a change visible, and how they are taken back."""

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from waggle_fsstore.domain.errors import CorruptDocumentError
from waggle_fsstore.store.disk import Disk, temporary_path
from waggle_fsstore.store.reading import read


class Contents(NamedTuple):
    """What a document holds, and the mode of its file."""

    data: bytes
    mode: int


class Step(NamedTuple):
    """One rename, from ``source`` to ``target``; one of the two is the ``document``.

    ``before`` is what the document held, ``None`` if there was none; ``after`` is what it
    is to hold, ``None`` if it goes.
    """

    source: str
    target: str
    document: str
    before: Contents | None
    after: bytes | None


def take_back(steps: Iterable[Step], disk: Disk, temporary: str) -> bool:
    """Put back what the documents held before; returns whether there was anything to do.

    Some of the renames may not have happened, the last one perhaps in spite of an
    exception: an interrupt can come between the rename and its return. What the document
    holds tells. Where it is none of ours, because the lock was removed and somebody else
    wrote, it stays. It can be repeated.
    """
    happened = [step for step in steps if _has_happened(step)]
    for step in happened:
        if step.after is None and os.path.lexists(step.target):
            disk.replace(step.target, step.document)
        elif step.before is None:
            disk.remove(step.document)
        else:
            old = temporary_path(temporary)
            disk.stage(old, step.before.data, step.before.mode)
            disk.replace(old, step.document)
    return bool(happened)


def _has_happened(step: Step) -> bool:
    if step.after is None:
        return not os.path.lexists(step.document)
    with suppress(FileNotFoundError, CorruptDocumentError):
        # Its revision is in it, so that no other version has the same bytes.
        return read(step.document, len(step.after)) == step.after
    return False
