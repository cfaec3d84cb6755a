# SPDX-License-Identifier: Apache-2.0
"""Publishing: the renames that make a change visible, and how they are taken back."""

import os
from collections.abc import Iterable
from typing import NamedTuple

from waggle_fsstore.store.disk import Disk


class Contents(NamedTuple):
    """What a document held, and the mode of its file."""

    data: bytes
    mode: int


class Step(NamedTuple):
    """One rename, from ``source`` to ``target``; one of the two is the ``document``.

    ``before`` is what the document held, ``None`` if there was none.
    """

    source: str
    target: str
    document: str
    before: Contents | None


def take_back(steps: Iterable[Step], disk: Disk, temporary: str) -> bool:
    """Put back what the documents held before; returns whether there was anything to do.

    Some of the renames may not have happened, the last one perhaps in spite of an
    exception: an interrupt can come between the rename and its return.
    """
    happened = [step for step in steps if not os.path.lexists(step.source)]
    for step in happened:
        if step.source == step.document:
            disk.replace(step.target, step.source)
        elif step.before is None:
            disk.remove(step.target)
        else:
            old = disk.stage(temporary, step.before.data, step.before.mode)
            disk.replace(old, step.target)
    return bool(happened)
