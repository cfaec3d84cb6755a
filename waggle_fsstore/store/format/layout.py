# SPDX-License-Identifier: Apache-2.0
"""Layout: the path of each file of a store, and the file name of each id.

A file name is made from an id so that no two ids share one, even on file systems
that ignore case or normalise Unicode, and so that no name is special to any file
system. Ordinary ids (lower-case letters, digits, ``-``, ``_``, and dots inside) stay
as they are. Any other byte of the UTF-8 form becomes ``%`` and two lower-case hex
digits; so does the first letter of a name that Windows reserves. Where that takes
more than 250 bytes, the name is a prefix of it, ``~`` and a 128-bit BLAKE2b of the id.
"""

import os
import re
from functools import lru_cache
from hashlib import blake2b
from typing import Final
from urllib.parse import unquote_to_bytes

from waggle_fsstore.domain.validation import MAX_ID_BYTES, is_id

SUFFIX: Final = ".json"
SEGMENT_SUFFIX: Final = ".jsonl"
COMPRESSED_SUFFIX: Final = ".jsonl.gz"

_MAX_STEM_BYTES: Final = 250
_HASH_BYTES: Final = 16
_PREFIX_BYTES: Final = _MAX_STEM_BYTES - 1 - 2 * _HASH_BYTES

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: reserved even before a dot.
_RESERVED: Final = r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|\Z)"
_ORDINARY: Final = rf"(?!{_RESERVED})[a-z0-9_-](?:[a-z0-9_.-]{{0,{MAX_ID_BYTES - 2}}}[a-z0-9_-])?"

_is_reserved: Final = re.compile(_RESERVED).match
_is_segment: Final = re.compile(r"([0-9]{16})\.jsonl(?:\.gz)?").fullmatch
_is_ordinary: Final = re.compile(rf"{_ORDINARY}\Z").match
_is_ordinary_name: Final = re.compile(rf"{_ORDINARY}{re.escape(SUFFIX)}\Z").match
# A prefix that would end within an escape is up to two bytes shorter.
_is_hashed: Final = re.compile(
    rf"[a-z0-9_.%-]{{{_PREFIX_BYTES - 2},{_PREFIX_BYTES}}}~[0-9a-f]{{32}}\Z"
).match
_broken_escape: Final = re.compile("%[0-9a-f]?$")

# A dot inside a name stays readable; document_name escapes a leading or trailing one.
_NAME_OF_BYTE: Final = [
    chr(byte) if byte in b"abcdefghijklmnopqrstuvwxyz0123456789-_." else f"%{byte:02x}"
    for byte in range(256)
]
_DOT: Final = ord(".")


class Layout:
    """The paths of one store, as strings, below its root."""

    __slots__ = (
        "environments",
        "git_ignore",
        "internal",
        "journal",
        "last_check",
        "lock",
        "lost_and_found",
        "marker",
        "reserve",
        "root",
        "state",
        "temporary",
    )

    def __init__(self, root: str) -> None:
        self.root = root
        self.marker = os.path.join(root, "waggle.json")
        self.environments = os.path.join(root, "environments")
        self.journal = os.path.join(root, "journal")
        self.git_ignore = os.path.join(root, ".gitignore")
        self.internal = os.path.join(root, ".waggle")
        self.lock = os.path.join(self.internal, "lock")
        self.state = os.path.join(self.internal, "state")
        self.last_check = os.path.join(self.internal, "last-fsck")
        self.reserve = os.path.join(self.internal, "reserve")
        self.temporary = os.path.join(self.internal, "tmp")
        self.lost_and_found = os.path.join(self.internal, "lost+found")

    def document(self, environment_id: str) -> str:
        """Return the path of the document of a valid id."""
        return f"{self.environments}{os.sep}{document_name(environment_id)}"

    def segment(self, first: int) -> str:
        """Return the path of the segment of the journal whose first change is ``first``."""
        return f"{self.journal}{os.sep}{first:016d}{SEGMENT_SUFFIX}"


@lru_cache(maxsize=1 << 12)
def document_name(environment_id: str) -> str:
    """Return the file name of a valid id: at most 255 bytes of ASCII."""
    if _is_ordinary(environment_id):
        return environment_id + SUFFIX
    data = environment_id.encode()
    parts = [_NAME_OF_BYTE[byte] for byte in data]
    if data[0] == _DOT or _is_reserved(environment_id):
        parts[0] = f"%{data[0]:02x}"
    if data[-1] == _DOT:
        parts[-1] = f"%{_DOT:02x}"
    name = "".join(parts)
    if len(name) > _MAX_STEM_BYTES:
        prefix = _broken_escape.sub("", name[:_PREFIX_BYTES])
        name = f"{prefix}~{blake2b(data, digest_size=_HASH_BYTES).hexdigest()}"
    return name + SUFFIX


def is_document_name(name: str) -> bool:
    """Return whether some id has this file name; files with other names are foreign."""
    # One expression decides nearly all names: to count 100,000 takes 50 ms.
    if _is_ordinary_name(name):
        return True
    if not name.endswith(SUFFIX):
        return False
    stem = name[: -len(SUFFIX)]
    if "~" in stem:
        return _is_hashed(stem) is not None
    return "%" in stem and environment_id_of(name) is not None


def environment_id_of(name: str) -> str | None:
    """Return the id with this file name; ``None`` if no id has it, or it holds a hash of the id."""
    if not name.endswith(SUFFIX):
        return None
    try:
        environment_id = unquote_to_bytes(name[: -len(SUFFIX)]).decode()
    except UnicodeError:
        return None
    if not is_id(environment_id) or document_name(environment_id) != name:
        return None
    return environment_id


def first_of(name: str) -> int | None:
    """Return the first change of the segment with this file name; ``None`` for other names."""
    match = _is_segment(name)
    return int(match[1]) if match else None
