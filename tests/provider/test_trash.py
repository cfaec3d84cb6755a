# SPDX-License-Identifier: Apache-2.0
"""The trash: how long removed workspaces are kept, how much they take, how they come back."""

import errno
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.provider.conftest import SHELL, entries_of, environment, failure_of, trash_of
from waggle_fsstore import WorkspaceGoneError
from waggle_fsstore.domain.size import Size, parse_size
from waggle_fsstore.provider import trash as module
from waggle_fsstore.provider.local import LocalProvider
from waggle_fsstore.provider.trash import Entry, Trash

HOUR = timedelta(hours=1)
KEEP = 24 * HOUR
MEGABYTE = 1_000_000

#: Makes providers of the same root, as servers that follow each other.
Serve = Callable[..., LocalProvider]


@pytest.fixture
def serve(root: Path, request: pytest.FixtureRequest) -> Serve:
    def make(keep: timedelta = KEEP, limit: str = "100%") -> LocalProvider:
        provider = LocalProvider(root, trash_keep=keep, trash_max=parse_size(limit))
        request.addfinalizer(provider.close)
        return provider

    return make


def expire(provider: LocalProvider, id_: str = "a", *, size: int = 0) -> None:
    """Make a workspace with a file in it, and remove it as the reaper does."""
    made = environment(id_)
    provider.create(made)
    Path(provider.locate(made), "file").write_bytes(b"x" * size)
    provider.remove(made, keep=True)
    provider._emptying.wait()


def kept_in(provider: LocalProvider) -> list[str]:
    return [name.split(".")[0] for name in trash_of(provider)]


@given(
    st.from_regex(r"[a-z0-9_~-]{1,100}", fullmatch=True),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**63),
)
def test_name_of_entry_says_all(workspace: str, kept: bool, in_place: bool, since: int) -> None:
    """The name of an entry is all that is known of it."""
    entry = Entry(workspace, kept, in_place, since, "0123456789abcdef")
    assert list(module._parsed([entry.name, ".lived", "foreign", "a.b.c"])) == [entry]


def test_expired_workspace_is_kept_and_comes_back(serve: Serve) -> None:
    """What expired is in the trash, and comes back as it was, through another provider too."""
    expire(serve(), size=10)
    provider = serve()
    assert entries_of(provider.root) == []
    assert kept_in(provider) == ["a"]
    assert provider.has_files(SHELL)
    provider.restore(SHELL)
    provider.restore(SHELL)
    assert Path(provider.locate(SHELL), "file").read_bytes() == b"x" * 10
    provider.probe(SHELL)
    assert trash_of(provider) == []


def test_newest_of_several_comes_back(serve: Serve) -> None:
    """Of several workspaces of one environment, that which was removed last comes back."""
    provider = serve()
    for size in (1, 2, 3):
        expire(provider, size=size)
    provider.restore(SHELL)
    assert Path(provider.locate(SHELL), "file").stat().st_size == 3
    assert kept_in(provider) == ["a", "a"]


def test_destroyed_workspace_does_not_come_back(serve: Serve) -> None:
    """What was destroyed is gone, even if it is not emptied yet."""
    provider = serve()
    provider.create(SHELL)
    provider._emptying.stop()
    provider.remove(SHELL)
    assert len(trash_of(provider)) == 1
    assert not provider.has_files(SHELL)
    assert isinstance(failure_of(provider.restore, SHELL), WorkspaceGoneError)


def test_destroy_drops_what_expired_before(serve: Serve) -> None:
    """A record that came back without its files can be destroyed, which deletes them."""
    provider = serve()
    expire(provider)
    provider.remove(SHELL)
    assert not provider.has_files(SHELL)
    assert trash_of(provider) == []


def test_workspace_in_its_place_counts_as_restored(serve: Serve) -> None:
    """A workspace that is in its place stays there, whatever is in the trash."""
    provider = serve()
    expire(provider, size=1)
    provider.create(SHELL)
    provider.restore(SHELL)
    assert os.listdir(provider.locate(SHELL)) == []
    assert kept_in(provider) == ["a"]


def test_kept_workspace_is_emptied_after_lived_time(serve: Serve) -> None:
    """Only time that servers lived through counts, over any number of servers."""
    expire(serve())
    for _ in range(23):
        server = serve()
        server.tidy(timedelta(0), [])
        server.tidy(HOUR, [])
        assert kept_in(server) == ["a"]
    server.tidy(HOUR, [])
    assert trash_of(server) == []


def test_lost_clock_empties_nothing(serve: Serve) -> None:
    """Without its file, lived time continues with the newest entry: what is there lives longer."""
    provider = serve()
    expire(provider, "a")
    provider.tidy(10 * HOUR, [])
    expire(provider, "b")
    for content in (None, "", "x", "-5"):
        path = provider.root / ".trash" / ".lived"
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        provider.tidy(HOUR, [])
        assert kept_in(provider) == ["a", "b"]
    path.unlink()
    expire(provider, "c")
    by_age = sorted(provider._trash._entries(), key=lambda entry: entry.age)
    assert [entry.workspace for entry in by_age] == ["a", "b", "c"]


def test_zero_keeps_nothing(serve: Serve) -> None:
    """With 0s an expired workspace is emptied like a destroyed one."""
    provider = serve(timedelta(0))
    expire(provider)
    assert trash_of(provider) == []


def test_limit_empties_oldest_first(serve: Serve) -> None:
    """While the trash takes more than its limit, the oldest workspace is emptied."""
    provider = serve(limit="2.5MB")
    for id_ in "abc":
        expire(provider, id_, size=MEGABYTE)
    assert kept_in(provider) == ["b", "c"]
    assert 2 * MEGABYTE <= provider.leftovers.trash_bytes <= 2.5 * MEGABYTE
    serve(limit="0").tidy(timedelta(0), [])


def test_workspace_above_limit_is_not_kept(serve: Serve) -> None:
    """A workspace that is larger than the limit is emptied at once, and no other with it."""
    provider = serve(limit="2MB")
    expire(provider, "a", size=MEGABYTE)
    expire(provider, "b", size=3 * MEGABYTE)
    assert trash_of(provider) == []
    assert provider.leftovers.trash_bytes == 0


def test_full_disk_empties_oldest_first(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the disk is full, the oldest workspace is emptied."""
    provider = serve()
    for id_ in "abc":
        expire(provider, id_)
    monkeypatch.setattr(Trash, "_is_disk_full", lambda _: len(kept_in_of(provider)) > 1)
    provider.tidy(timedelta(0), [])
    assert kept_in(provider) == ["c"]


def kept_in_of(provider: LocalProvider) -> list[str]:
    """Return the kept entries, without waiting."""
    return [name for name in os.listdir(provider.root / ".trash") if ".keep." in name]


def test_full_disk_does_not_stop_emptying(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """Where there is no room for the lived time, the trash is emptied all the same."""

    def fill(path: str, _: str) -> None:
        Path(path).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    provider = serve()
    expire(provider)
    monkeypatch.setattr(Trash, "_is_disk_full", lambda _: True)
    monkeypatch.setattr(module, "write_new", fill)
    assert failure_of(provider.tidy, HOUR, []).reason.startswith("cannot tidy the trash: No space")
    assert trash_of(provider) == []
    assert set(entries_of(root / ".trash")) <= {".lived"}


def test_trash_is_made_before_the_first_workspace(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk has no room for a directory, and the first removal needs none."""

    def fill(path: str, *_: object) -> None:
        number = errno.EEXIST if os.path.lexists(path) else errno.ENOSPC
        raise OSError(number, os.strerror(number), path)

    provider = serve()
    provider.create(SHELL)
    monkeypatch.setattr(os, "mkdir", fill)
    provider.remove(SHELL)
    assert trash_of(provider) == []


def test_free_space_takes_workspace_last(serve: Serve) -> None:
    """Room is made with the oldest in the trash, then with the workspace itself, then never."""
    provider = serve()
    provider.create(SHELL)
    for id_ in "bc":
        expire(provider, id_)
    left = []
    for _ in range(3):
        assert provider.free_space(SHELL)
        left.append((kept_in(provider), entries_of(provider.root)))
    assert left == [(["c"], ["a"]), ([], ["a"]), ([], [])]
    assert not provider.free_space(SHELL)


def test_free_space_on_another_disk_deletes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the store is on another disk, no workspace is deleted to make room for it."""
    provider = LocalProvider(root, store=str(tmp_path))
    expire(provider)
    real = os.stat

    def stat(path: str, **options: object) -> os.stat_result:
        found = list(real(path, **options))  # type: ignore[arg-type]
        found[2] += path == str(root)
        return os.stat_result(found)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", stat)
        assert not provider.free_space(SHELL)
    assert kept_in(provider) == ["a"]
    provider.close()


def test_partly_emptied_workspace_does_not_come_back(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A workspace whose emptying was interrupted is never brought back."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    provider = serve()
    expire(provider, size=1)
    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            provider._trash.free_space()
    assert not provider.has_files(SHELL)
    provider = serve()
    provider.tidy(timedelta(0), [])
    assert trash_of(provider) == []


def test_workspace_that_cannot_be_emptied_is_an_orphan(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and named in the log once, and tried again until it works."""

    def refuse(path: str, _: object) -> None:
        # An emptying gives each directory another name.
        raise PermissionError(13, "Permission denied", f"{path}/{os.urandom(4).hex()}")

    provider = serve()
    provider.create(SHELL)
    with monkeypatch.context() as patch:
        patch.setattr(module, "remove_tree", refuse)
        provider.remove(SHELL)
        for _ in range(3):
            provider.tidy(HOUR, [])
            assert len(trash_of(provider)) == 1
    assert provider.leftovers.orphans == 1
    [record] = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert str(provider.root / ".trash" / "a.drop.") in record.getMessage()
    assert "Permission denied" in record.getMessage()
    assert provider.find_orphans([]) == []
    provider.tidy(HOUR, [])
    assert trash_of(provider) == []
    assert provider.leftovers.orphans == 0


def test_foreign_entries_are_left_alone(serve: Serve) -> None:
    """What the operator puts into the trash directory stays."""
    provider = serve(timedelta(0))
    expire(provider)
    (provider.root / ".trash" / "note").mkdir()
    provider.tidy(HOUR, [])
    expire(provider, "b")
    assert trash_of(provider) == ["note"]


def test_unmounted_root_has_no_trash(serve: Serve, root: Path, tmp_path: Path) -> None:
    """While the root directory is not mounted, nothing is counted or emptied."""
    provider = serve()
    expire(provider)
    root.rename(tmp_path / "away")
    provider.tidy(100 * HOUR, [])
    (tmp_path / "away").rename(root)
    assert kept_in(provider) == ["a"]


def test_size_of_limit_may_be_a_share() -> None:
    """A limit in percent is that of the file system."""
    assert Size(10, is_percent=True).of(1_000) == 100
    assert Size(5).of(1_000) == 5


def test_trash_says_since_when_files_are_kept(serve: Serve) -> None:
    """The oldest removal whose files are kept counts, and none of those that are dropped."""
    provider = serve()
    assert provider.kept_since() is None
    before = datetime.now(UTC) - timedelta(seconds=1)
    expire(provider, "a")
    since = provider.kept_since()
    assert since is not None
    assert before <= since <= datetime.now(UTC)
    expire(provider, "b")
    assert provider.kept_since() == since
    provider.remove(environment("a"))
    provider.remove(environment("b"))
    assert provider.kept_since() is None


def test_missing_disk_says_nothing_about_kept_files(serve: Serve, root: Path) -> None:
    """Where the workspaces are not mounted, it is not known since when files are kept."""
    provider = serve()
    expire(provider)
    root.rename(root.with_name("elsewhere"))
    root.mkdir()
    assert failure_of(provider.kept_since).reason


def test_copied_trash_is_no_younger(serve: Serve, root: Path) -> None:
    """A copy of the workspaces has files in its trash since the removal, and not since the copy."""
    provider = serve()
    expire(provider)
    [entry] = [path for path in (root / ".trash").iterdir() if path.is_dir()]
    long_ago = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    os.utime(entry, (long_ago, long_ago))
    since = provider.kept_since()
    assert since is not None
    assert since.year == 2026
    assert since.timestamp() == long_ago
