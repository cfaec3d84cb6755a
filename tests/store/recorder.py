# SPDX-License-Identifier: Apache-2.0
"""Stands in for ``os`` inside disk.py: records each call that matters, and can spoil one."""

import gc
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from waggle_fsstore.store.fs import disk, lock

#: The calls by which disk.py changes files, or makes changes durable.
CHANGING = frozenset(
    {
        "open",
        "close",
        "pwrite",
        "posix_fallocate",
        "fdatasync",
        "fsync",
        "ftruncate",
        "fchmod",
        "fchown",
        "replace",
        "unlink",
        "mkdir",
    }
)


class Call(NamedTuple):
    """One call: its name, and the base names of the files it concerns."""

    name: str
    files: tuple[str, ...]


Spoil = Callable[[int, Call, Callable[[], Any]], Any]

_TEMP = re.compile(r"[0-9a-f]{10}-[0-9]+\.tmp")


class RecordingOs:
    """Forwards everything to ``os``.

    ``spoil`` is called with the number of the call, the call and the function that does
    it, and returns or raises in its place.
    """

    def __init__(self, spoil: Spoil | None = None) -> None:
        self.calls: list[Call] = []
        self.spoil = spoil

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in CHANGING:
            return real

        def forward(*arguments: Any, **keywords: Any) -> Any:
            call = Call(name, _files(name, arguments))
            number = len(self.calls)
            self.calls.append(call)

            def perform() -> Any:
                return real(*arguments, **keywords)

            return self.spoil(number, call, perform) if self.spoil else perform()

        return forward

    def names(self) -> list[str]:
        """The calls in order, as ``name file [file]``, without opening and closing."""
        return [
            " ".join((call.name, *call.files))
            for call in self.calls
            if call.name not in {"open", "close", "posix_fallocate"}
        ]


def _files(name: str, arguments: tuple[Any, ...]) -> tuple[str, ...]:
    count = 2 if name == "replace" else 1
    paths = [
        os.readlink(f"/proc/self/fd/{argument}") if isinstance(argument, int) else str(argument)
        for argument in arguments[:count]
    ]
    return tuple(_plain(path) for path in paths)


def _plain(path: str) -> str:
    name = os.path.basename(path)
    return "TEMP" if _TEMP.fullmatch(name) else name


def record(monkeypatch: pytest.MonkeyPatch, spoil: Spoil | None = None) -> RecordingOs:
    """Put a recorder in front of ``os`` in disk.py."""
    # A store that another test dropped must not be collected now, and be recorded.
    gc.freeze()
    recorder = RecordingOs(spoil)
    monkeypatch.setattr(disk, "os", recorder)
    # The lock holder is described at each lock, and not as time has it: calls have numbers.
    monkeypatch.setattr(lock, "file_clock", lambda: 0)
    return recorder


def fail_call(number: int, code: int) -> Spoil:
    """Return a spoiler that lets one call fail with an error code of ``errno``."""

    def spoil(current: int, _: Call, perform: Callable[[], Any]) -> Any:
        if current != number:
            return perform()
        raise OSError(code, os.strerror(code))

    return spoil


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    # A store that another test dropped must not be collected, and close some, before the next call.
    gc.freeze()
    return len(os.listdir("/proc/self/fd"))
