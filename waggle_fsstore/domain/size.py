# SPDX-License-Identifier: Apache-2.0
"""Sizes as settings give them: ``500MB``, ``2GiB``, ``10%`` of a whole."""

import re
from typing import Final, NamedTuple

_UNITS: Final = {
    "": 1,
    "B": 1,
    **{unit: 1000**power for power, unit in enumerate(("KB", "MB", "GB", "TB"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("KIB", "MIB", "GIB", "TIB"), 1)},
}
_is_size: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?) ?([A-Za-z]{0,3}|%)").fullmatch


class Size(NamedTuple):
    """A number of bytes, or a share of a whole in percent."""

    number: float
    is_percent: bool = False

    def of(self, whole_bytes: int) -> int:
        """Return the size in bytes, where a percentage is that of ``whole_bytes``."""
        return int(whole_bytes * self.number / 100 if self.is_percent else self.number)


def parse_size(text: str) -> Size:
    """Return the size of a text. Raises ``ValueError`` for any other text, and above 100 %."""
    match = _is_size(text)
    if match is not None and text.isascii():
        number, unit = float(match[1]), match[2].upper()
        if unit == "%" and number <= 100:
            return Size(number, is_percent=True)
        if unit in _UNITS:
            return Size(number * _UNITS[unit])
    raise ValueError(f"{text!r:.100} is not a size: write one like 500MB, 2GiB or 10%")
