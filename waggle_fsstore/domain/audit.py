# SPDX-License-Identifier: Apache-2.0
"""The author of each change: who makes it, and why."""

import os
import sys
from collections.abc import Callable
from contextlib import ContextDecorator
from contextvars import ContextVar
from functools import cache
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, Final, NamedTuple, TypeVar

_MAX_ACTOR_CHARACTERS: Final = 200
_MAX_REASON_CHARACTERS: Final = 2_000
_CUT: Final = "..."

_F = TypeVar("_F", bound=Callable[..., Any])


class Author(NamedTuple):
    """The actor that makes a change, and the reason for it."""

    actor: str
    reason: str


class audit(ContextDecorator):  # noqa: N801  # Reads as a statement: with audit(...).
    """The actor and the reason of all changes that are made inside this block.

    ::

        with audit(actor="reaper", reason="idle 31 min > 30 min"):
            store.delete(environment_id)

    A value that a block omits is taken from the enclosing block. Outside all blocks the
    actor is ``user@host``, with the effective user, and the reason is empty. Like every
    context variable, an author belongs to a thread or an asyncio task: a new thread
    starts without one, ``asyncio.to_thread`` and a new task inherit it.

    A block can be entered again, even by several threads at once. It is also a decorator,
    for functions that do their work when they are called.

    ``actor`` has 1-200 characters, ``reason`` up to 2,000, both without NUL and lone
    surrogates. Raises ``ValueError`` or ``TypeError``, which names the invalid one.
    """

    def __init__(self, *, actor: str | None = None, reason: str | None = None) -> None:
        if actor == "":
            raise ValueError("actor: is empty")
        self._actor = None if actor is None else _text("actor", actor, _MAX_ACTOR_CHARACTERS)
        self._reason = None if reason is None else _text("reason", reason, _MAX_REASON_CHARACTERS)

    def __enter__(self) -> None:
        _blocks.set((*_blocks.get(), self))

    def __exit__(self, *_: object) -> None:
        # Not always the innermost block, or even present: a generator that is suspended
        # inside a block may be closed inside another block, or by another thread.
        blocks = _blocks.get()
        for index in reversed(range(len(blocks))):
            if blocks[index] is self:
                _blocks.set(blocks[:index] + blocks[index + 1 :])
                return

    def __call__(self, func: _F) -> _F:
        """Return the function, wrapped to run inside this block each time."""
        if iscoroutinefunction(func) or isgeneratorfunction(func) or isasyncgenfunction(func):
            raise TypeError(
                f"{func.__name__} does its work after the call has returned, outside the block: "
                "write the with statement inside the function"
            )
        return super().__call__(func)


#: The blocks around the running code, from the outermost to the innermost.
_blocks: Final[ContextVar[tuple[audit, ...]]] = ContextVar("waggle_fsstore.audit", default=())


def current_author() -> Author:
    """Return the author of a change that the running code makes now."""
    blocks = _blocks.get()
    if not blocks:
        return _default_author()
    actor = reason = None
    for block in blocks:
        if block._actor is not None:
            actor = block._actor
        if block._reason is not None:
            reason = block._reason
    return Author(_default_author().actor if actor is None else actor, reason or "")


def as_reason(text: str) -> str:
    r"""Return a text with foreign parts, such as a path, in the form that a reason may have.

    Bytes of a path that are not UTF-8 are escaped, as ``\udcff``; what is too long is cut off.
    """
    text = text.encode(errors="backslashreplace").decode().replace("\0", "\\0")
    if len(text) > _MAX_REASON_CHARACTERS:
        text = f"{text[: _MAX_REASON_CHARACTERS - len(_CUT)]}{_CUT}"
    return text


def _text(name: str, value: object, max_characters: int) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: is not a string")
    if len(value) > max_characters:
        raise ValueError(f"{name}: is longer than {max_characters} characters")
    if "\0" in value:
        raise ValueError(f"{name}: holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: holds a lone surrogate") from None
    return str.__str__(value)  # Of a subclass, such as an enum, only its text.


@cache
def _default_author() -> Author:
    actor = f"{_user()}@{host_name()}".encode(errors="replace").decode()
    return Author(actor[:_MAX_ACTOR_CHARACTERS], "")


def _user() -> str:
    """Return the name of the effective user; environment variables could give any name."""
    if sys.platform == "win32":
        import getpass

        return getpass.getuser()
    import pwd

    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid{uid}"


def host_name() -> str:
    """Return the name of this machine, without blanks; ``localhost`` where it has none."""
    if sys.platform == "win32":
        import platform

        node = platform.node()
    else:
        node = os.uname().nodename
    # The name may not be valid text. A question mark then shows that in the history.
    return "_".join(node.encode(errors="replace").decode().split()) or "localhost"
