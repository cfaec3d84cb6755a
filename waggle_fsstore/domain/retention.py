# SPDX-License-Identifier: Apache-2.0
"""Retention: how much of the history is kept, as a setting gives it."""

import re
from typing import Final, NamedTuple

from waggle_fsstore.domain.size import parse_size

#: No limit, as a setting gives it.
FOREVER: Final = "forever"

_match_days: Final = re.compile(r"([0-9]{1,6})d").fullmatch


class Retention(NamedTuple):
    """What is kept of the history: ``None`` for no limit.

    - ``days``: events that are younger than this many days.
    - ``size_bytes``: the newest events that take this many bytes.
    """

    days: int | None = None
    size_bytes: int | None = None


#: The whole history.
KEEP_ALL: Final = Retention()


def parse_retention(text: str) -> Retention:
    """Return the retention of a text: ``forever``, ``90d``, ``10GB``, or both limits.

    Raises ``ValueError`` for any other text.
    """
    found = Retention()
    for part in text.split(","):
        part = part.strip()
        match = _match_days(part)
        if part == FOREVER and "," not in text:
            return found
        if match is not None and found.days is None:
            found = found._replace(days=int(match[1]))
        elif match is None and found.size_bytes is None:
            found = found._replace(size_bytes=_bytes(part, text))
        else:
            raise ValueError(f"{text!r:.100} has two limits of a kind")
    return found


def _bytes(part: str, text: str) -> int:
    try:
        size = parse_size(part)
    except ValueError:
        size = None
    if size is None or size.is_percent:
        raise ValueError(
            f"{text!r:.100} is not {FOREVER}, days such as 90d, or a size such as 10GB"
        )
    return size.of(0)
