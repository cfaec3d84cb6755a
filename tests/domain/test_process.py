# SPDX-License-Identifier: Apache-2.0
"""Which process works on an environment, and whether it still runs."""

import builtins
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from waggle_fsstore.domain import process
from waggle_fsstore.domain.environment import Owner
from waggle_fsstore.domain.process import boot_id, is_gone, this_process

Child = subprocess.Popen[bytes]


@pytest.fixture
def child() -> Iterator[Child]:
    """A process that ends with the test at the latest."""
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        yield child
        child.kill()


def owner_of(child: Child) -> Owner:
    return replace(this_process(), pid=child.pid, process_started=process._started(child.pid) or 0)


def hide_proc(monkeypatch: pytest.MonkeyPatch, error: Callable[[str], OSError]) -> None:
    """As if a file of another process in /proc could not be opened."""
    real = builtins.open

    def hidden(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if str(path).startswith("/proc/"):
            raise error(str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(process, "open", hidden, raising=False)


def missing(path: str) -> OSError:
    return FileNotFoundError(errno.ENOENT, "No such file or directory", path)


def denied(path: str) -> OSError:
    return PermissionError(errno.EACCES, "Permission denied", path)


def test_this_process() -> None:
    """It is the same each time, it runs, and the system knows it so."""
    me = this_process()
    assert me == this_process()
    assert me.pid == os.getpid()
    assert me.host
    assert len(me.boot_id) == 36
    with open("/proc/self/stat") as file:
        assert me.process_started == int(file.read().rpartition(") ")[2].split()[19])
    assert not is_gone(me)


def test_a_name_with_parentheses() -> None:
    """The name of a program can hold blanks and parentheses, and look like what follows it."""
    code = "open('/proc/self/comm', 'w').write(') Z 1 (a b'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        owner = owner_of(child)
        assert owner.process_started >= this_process().process_started
        assert not is_gone(owner)
        child.kill()


def test_a_child(child: Child) -> None:
    """A process lives until it is waited for, and is gone for ever after that."""
    owner = owner_of(child)
    assert owner.process_started >= this_process().process_started
    assert not is_gone(owner)
    child.kill()
    child.wait()
    assert is_gone(owner)


def test_a_zombie(child: Child) -> None:
    """One that ended and was not waited for does no work any more."""
    owner = owner_of(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(owner)


def test_a_process_that_is_stopped(child: Child) -> None:
    """It is not gone: it may go on at any time."""
    owner = owner_of(child)
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
    assert not is_gone(owner)


def test_a_number_that_is_used_again(child: Child) -> None:
    """A process that started at another time is another one."""
    owner = owner_of(child)
    assert is_gone(replace(owner, process_started=owner.process_started - 1))
    assert is_gone(replace(owner, process_started=owner.process_started + 1))


def test_a_start_that_nobody_noted(child: Child) -> None:
    """Where the start time was not known, the number alone has to do."""
    assert not is_gone(replace(owner_of(child), process_started=0))
    child.kill()
    child.wait()
    assert is_gone(replace(this_process(), pid=child.pid, process_started=0))


def test_another_boot(child: Child) -> None:
    """Whatever ran before the machine was started anew is gone, also on another host."""
    assert is_gone(replace(owner_of(child), boot_id="another"))
    assert is_gone(replace(owner_of(child), boot_id=""))
    assert is_gone(replace(owner_of(child), boot_id="another", host="another"))


def test_a_boot_that_cannot_be_told(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without descriptors to spare takes nobody for gone."""
    owner = owner_of(child)
    monkeypatch.setattr(process, "boot_id", lambda: "")
    assert not is_gone(owner)


def test_another_host() -> None:
    """A process in another container of this boot cannot be seen: it may live."""
    assert not is_gone(replace(this_process(), host="another", pid=2**22 + 1))


@pytest.mark.parametrize("pid", [0, 2**22 + 1, 2**31, 2**53 - 1])
def test_numbers_that_no_process_has(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are gone, with /proc and without."""
    assert is_gone(replace(this_process(), pid=pid))
    hide_proc(monkeypatch, missing)
    monkeypatch.setattr(process, "_BOOT_ID", "/nowhere/boot_id")
    assert is_gone(replace(this_process(), pid=pid))


def test_without_proc(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number alone tells what can be told: whether there is such a process."""
    hide_proc(monkeypatch, missing)
    monkeypatch.setattr(process, "_BOOT_ID", "/nowhere/boot_id")
    me = this_process()
    assert (me.boot_id, me.process_started) == ("", 0)
    assert not is_gone(me)
    owner = replace(me, pid=child.pid)
    assert not is_gone(owner)
    child.kill()
    child.wait()
    assert is_gone(owner)


@pytest.mark.parametrize("error", [missing, denied])
def test_a_proc_that_hides_others(
    child: Child, monkeypatch: pytest.MonkeyPatch, error: Callable[[str], OSError]
) -> None:
    """A living process of another user, which /proc does not show, is not taken for gone."""
    owner = owner_of(child)
    boot = boot_id()
    hide_proc(monkeypatch, error)
    monkeypatch.setattr(process, "boot_id", lambda: boot)
    assert not is_gone(owner)

    def deny(*_: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", deny)
        assert not is_gone(owner)


def test_one_that_ends_while_it_is_read(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system then says that there is no such process, and so it is."""
    owner = owner_of(child)
    boot = boot_id()
    child.kill()
    child.wait()
    hide_proc(monkeypatch, lambda path: ProcessLookupError(errno.ESRCH, "No such process", path))
    monkeypatch.setattr(process, "boot_id", lambda: boot)
    assert is_gone(owner)


def test_no_signal_is_sent(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look whether a process runs does nothing to it, nor to a group of them."""
    sent: list[tuple[int, ...]] = []
    me = this_process()
    hide_proc(monkeypatch, missing)
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda *call: sent.append(call))
        patch.setattr(process, "boot_id", lambda: me.boot_id)
        for pid in (child.pid, 0):
            is_gone(replace(me, pid=pid))
    assert sent == [(child.pid, 0)]
