# SPDX-License-Identifier: Apache-2.0
"""Who is said to have made a change, and why."""

import asyncio
import contextvars
import getpass
import os
import platform
import pwd
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from waggle_fsstore import Status, audit
from waggle_fsstore.domain import audit as module
from waggle_fsstore.domain.audit import Author, current_author

TEXTS = ["a", "x" * 200, "\U0001f41d" * 200, "two\nlines", " "]


@pytest.fixture(autouse=True)
def _fresh_default() -> Iterator[None]:
    module._default_author.cache_clear()
    yield
    module._default_author.cache_clear()


def system(monkeypatch: pytest.MonkeyPatch, user: str | None, host: str) -> None:
    """Let the system give these names; ``None`` for no passwd entry."""

    def getpwuid(uid: int) -> object:
        assert uid == os.geteuid()
        if user is None:
            raise KeyError(uid)
        return SimpleNamespace(pw_name=user)

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename=host))


def test_default_author_is_effective_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a block the author is the effective user at this host; the environment is ignored."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # In a container it may be one without a name.
        user = f"uid{os.geteuid()}"
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOSTNAME"):
        monkeypatch.setenv(variable, "somebody-else")
    assert current_author() == Author(actor=f"{user}@{os.uname().nodename}", reason="")


@pytest.mark.parametrize(
    ("user", "host", "actor"),
    [
        ("maja", "hive", "maja@hive"),
        (None, "hive", f"uid{os.geteuid()}@hive"),
        ("caf\udce9", "h\udcffve", "caf?@h?ve"),
        ("maja", " my  mac ", "maja@my_mac"),
        ("maja", "", "maja@localhost"),
        ("m" * 150, "h" * 150, "m" * 150 + "@" + "h" * 49),
    ],
)
def test_default_actor_is_valid(
    monkeypatch: pytest.MonkeyPatch, user: str | None, host: str, actor: str
) -> None:
    """For every user name that the system may return, the actor is one that a block accepts."""
    system(monkeypatch, user, host)
    assert current_author().actor == actor
    audit(actor=actor)


def test_default_actor_without_passwd_is_getuser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a passwd database, the user is the one that Python reports."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(getpass, "getuser", lambda: "Maja")
    monkeypatch.setattr(platform, "node", lambda: "HIVE")
    assert current_author() == ("Maja@HIVE", "")


def test_user_lookup_happens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names may come over a network: they are looked up at the first need, and only then."""
    system(monkeypatch, "maja", "hive")
    with audit(actor="other"):
        current_author()
    assert module._default_author.cache_info().misses == 0
    assert [current_author().actor for _ in range(3)] == ["maja@hive"] * 3
    assert module._default_author.cache_info().misses == 1


def test_block_sets_author_until_it_ends() -> None:
    """Inside the block its author counts; afterwards the previous one, also after an error."""
    default = current_author()
    with audit(actor="reaper", reason="idle"):
        assert current_author() == ("reaper", "idle")
    assert current_author() == default
    with pytest.raises(ZeroDivisionError), audit(actor="reaper"):
        raise ZeroDivisionError
    assert current_author() == default


def test_nested_block_inherits_missing_fields() -> None:
    """A field that a block leaves out comes from the outer block; an empty reason is a value."""
    with audit(reason="outermost"):
        assert current_author() == (module._default_author().actor, "outermost")
        with audit(actor="a"):
            assert current_author() == ("a", "outermost")
            with audit(reason=""):
                assert current_author() == ("a", "")
                with audit():
                    assert current_author() == ("a", "")
            assert current_author() == ("a", "outermost")


def test_block_can_be_entered_again() -> None:
    """One block can be used repeatedly, inside itself, and by several threads at once."""
    block = audit(actor="again")
    for _ in range(2):
        with block, audit(actor="inner"), block:
            assert current_author().actor == "again"
        assert current_author().actor != "again"
    barrier = threading.Barrier(4, timeout=30)

    def work(_: int) -> bool:
        with block:
            barrier.wait()
            inside = current_author().actor
        barrier.wait()
        return inside == "again" != current_author().actor

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_decorated_function_runs_inside_block() -> None:
    """A decorated function runs inside the block at each call."""

    @audit(actor="decorator")
    def function(depth: int) -> list[str]:
        """Its docstring."""
        return [current_author().actor, *(function(depth - 1) if depth else [])]

    assert function(2) == function(2) == ["decorator"] * 3
    assert function.__doc__ == "Its docstring."
    assert current_author().actor != "decorator"


async def _coroutine() -> None: ...


def _generator() -> Iterator[None]:
    yield


async def _asynchronous_generator() -> Any:
    yield


@pytest.mark.parametrize("function", [_coroutine, _generator, _asynchronous_generator])
def test_decorator_refuses_generators_and_coroutines(function: Callable[..., object]) -> None:
    """A function whose body would run after the block is refused: it would sign nothing."""
    with pytest.raises(TypeError, match=function.__name__):
        audit(actor="decorator")(function)


def test_thread_starts_with_default_author() -> None:
    """A new thread starts with the default; a thread that is given the context has its author."""
    seen = []
    default = current_author()
    with audit(actor="starter"):
        context = contextvars.copy_context()
        threads = [
            threading.Thread(target=lambda: seen.append(current_author())),
            threading.Thread(target=lambda: seen.append(context.run(current_author))),
        ]
        for thread in threads:
            thread.start()
            thread.join()
    assert seen == [default, ("starter", "")]


def test_tasks_keep_their_own_authors() -> None:
    """Interleaved tasks keep their authors; a thread of asyncio has the author of its task."""

    async def work(name: str, turn: asyncio.Barrier) -> list[str]:
        seen = []
        with audit(actor=name):
            for _ in range(3):
                await turn.wait()
                seen.append(current_author().actor)
            seen.append((await asyncio.to_thread(current_author)).actor)
        return seen

    async def main() -> tuple[list[str], list[str]]:
        turn = asyncio.Barrier(2)
        with audit(actor="main"):
            found = await asyncio.gather(work("a", turn), work("b", turn))
            assert current_author().actor == "main"
        return found

    assert [*asyncio.run(main())] == [["a"] * 4, ["b"] * 4]


def _waiting() -> Iterator[str]:
    with audit(actor="generator"):
        yield current_author().actor


def test_blocks_may_end_out_of_order() -> None:
    """A generator closed inside another block removes only its own author."""
    default = current_author()
    generator = _waiting()
    assert next(generator) == "generator"
    with audit(reason="outer"), audit(actor="inner"):
        generator.close()  # type: ignore[attr-defined]
        assert current_author() == ("inner", "outer")
    assert current_author() == default


def test_block_may_end_in_another_thread() -> None:
    """A generator closed by another thread changes nothing there, and raises nothing."""
    generator = contextvars.copy_context().run(lambda: (it := _waiting(), next(it))[0])
    with audit(actor="mine"):
        generator.close()  # type: ignore[attr-defined]
        assert current_author().actor == "mine"


@pytest.mark.parametrize("text", TEXTS)
def test_texts_within_limit_are_accepted(text: str) -> None:
    """Any text is accepted that UTF-8 can encode and that is short enough."""
    with audit(actor=text, reason=text * 10):
        assert current_author() == (text, text * 10)


def test_subclass_of_str_is_kept_as_text() -> None:
    """A member of a string enum counts as its text."""
    with audit(actor=Status.ERROR, reason=Status.RUNNING):
        assert [type(value) for value in current_author()] == [str, str]
        assert current_author() == ("error", "running")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"actor": ""}, ValueError, "actor: is empty"),
        ({"actor": "x" * 201}, ValueError, "actor: is longer than 200"),
        ({"reason": "x" * 2_001}, ValueError, "reason: is longer than 2000"),
        ({"actor": "a\0b"}, ValueError, "actor: holds a NUL"),
        ({"reason": "a\0b"}, ValueError, "reason: holds a NUL"),
        ({"actor": "\ud800"}, ValueError, "actor: holds a lone surrogate"),
        ({"reason": "\udce9"}, ValueError, "reason: holds a lone surrogate"),
        ({"actor": b"maja"}, TypeError, "actor: is not a string"),
        ({"reason": 31}, TypeError, "reason: is not a string"),
    ],
)
def test_invalid_texts_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    """A text that no history could keep is refused immediately, with the name of the field."""
    with pytest.raises(error, match=message):
        audit(**arguments)
