# SPDX-License-Identifier: Apache-2.0
"""The document cache among several threads and processes."""

import os
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from tests.store.read.cache.listings import list_all, list_uncached, settle
from tests.store.read.cache.manual_edits import edited, rewrite
from waggle_fsstore import FileStore, WaggleError
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.usefixtures("trusted_change_times")


@pytest.mark.usefixtures("cached_from_next_tick")
def test_listing_threads_see_manual_edits(store: FileStore) -> None:
    """In each thread, a listing that begins after the end of an edit shows the edit."""
    path = store.document_path("b")
    data = path.read_bytes()
    written = [0]
    barrier = threading.Barrier(4)
    wrong: list[tuple[int, int]] = []

    def list_often() -> None:
        barrier.wait()
        while written[0] < 300:
            least = written[0]
            with suppress(WaggleError):  # An edit in place may be seen in part.
                name = store.find_all()[1].name
                if name != "before" and int(name) < least:
                    wrong.append((least, int(name)))

    threads = [threading.Thread(target=list_often) for _ in range(3)]
    for thread in threads:
        thread.start()
    barrier.wait()
    for number in range(1, 301):
        rewrite(path, data.replace(b'"before"', f'"{number:06}"'.encode()))
        # A write sets the time before the bytes, and may wait in between for longer than
        # "cached_from_next_tick" allows for. This sets the time after the bytes.
        path.chmod(0o600)
        written[0] = number
        if number % 50 == 0:
            settle(store)
    for thread in threads:
        thread.join()
    assert wrong == []
    assert list_all(store) == list_uncached(store)


EDIT = """
import sys
path = sys.argv[1]
data = open(path, "rb").read().replace(b'"before"', b'"after!"')
with open(path, "r+b") as file:
    file.write(data)
"""


@pytest.mark.usefixtures("cached_from_next_tick")
def test_changes_of_other_processes_are_seen(store: FileStore) -> None:
    """Each store object sees the edits and saves of other processes."""
    other = FileStore(store.path, durable=False)
    settle(store)
    settle(other)
    subprocess.run([sys.executable, "-c", EDIT, store.document_path("b")], check=True)
    assert list_all(store) == list_all(other) == list_uncached(store)
    assert store.find_all()[1].name == "after!"
    settle(other)
    store.save(make_environment(id="a", name="saved"))
    assert list_all(other) == list_all(store) == list_uncached(store)


@pytest.mark.usefixtures("cached_from_next_tick")
def test_forked_child_checks_inherited_cache(store: FileStore) -> None:
    """A forked child uses an inherited document only as long as its file is unchanged."""
    settle(store)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            os.read(read_end, 1)
            names = [one.name for one in store.find_all()]
            os._exit(0 if names == ["before", "after!", "before"] else 1)
        os._exit(2)
    path = store.document_path("b")
    rewrite(path, edited(path))
    os.write(write_end, b"!")
    assert os.waitpid(child, 0)[1] == 0
    assert list_all(store) == list_uncached(store)
    os.close(read_end)
    os.close(write_end)
