# SPDX-License-Identifier: Apache-2.0
"""The model of a crash, against operations whose outcomes are known."""

from itertools import chain, combinations
from pathlib import Path

from tests.crash.file_tree import Tree, files_in
from tests.crash.model import FileSystem
from tests.crash.operations import (
    Create,
    FailedFlush,
    Flush,
    FlushAll,
    MakeFolder,
    Operation,
    Rename,
    Resize,
    Unlink,
    Write,
)
from tests.crash.sectors import DATA, NAME, SIZE, Atom

Files = dict[str, bytes | None]


def after(*operations: Operation) -> FileSystem:
    system = FileSystem()
    for operation in operations:
        system.apply(operation)
    return system


def left(*operations: Operation) -> list[Files]:
    """All that a crash may leave, each once."""
    system = after(*operations)
    pending = system.pending()
    subsets = chain.from_iterable(combinations(pending, size) for size in range(len(pending) + 1))
    found: list[Files] = []
    for subset in subsets:
        files = system.tree(subset).files()
        if files not in found:
            found.append(files)
    return found


def contents(*operations: Operation) -> set[bytes | None]:
    """What a durable file ``f`` that holds "old" may hold after a crash, ``None`` if it is gone."""
    return {files.get("f") for files in left(*OLD, *operations)}


#: A durable file, inode 1.
OLD = (Create("f", 1), Write(1, 0, b"old"), Flush(1), Flush(0))
A, B, C = b"a" * 512, b"b" * 512, b"c" * 512


def test_unsynced_file_may_be_missing_or_empty_or_full_of_nuls() -> None:
    """Nothing about a file is certain before its first fsync."""
    assert left(Create("f", 1), Write(1, 0, b"new")) == [
        {},
        {"f": b""},
        {"f": b"\0\0\0"},
        {"f": b"new"},
    ]


def test_file_fsync_keeps_bytes_and_not_name() -> None:
    """The name is kept by an fsync of the directory."""
    operations: list[Operation] = [Create("f", 1), Write(1, 0, b"new"), Flush(1)]
    assert left(*operations) == [{}, {"f": b"new"}]
    assert left(*operations, Flush(0)) == [{"f": b"new"}]


def test_directory_fsync_keeps_names_and_not_bytes() -> None:
    """The classic empty file."""
    assert left(Create("f", 1), Write(1, 0, b"new"), Flush(0)) == [
        {"f": b""},
        {"f": b"\0\0\0"},
        {"f": b"new"},
    ]


def test_syncfs_keeps_everything() -> None:
    """After syncfs there is one possible state."""
    operations: list[Operation] = [
        MakeFolder("d", 2),
        Create("d/f", 1),
        Write(1, 0, b"new"),
        Unlink("f"),
    ]
    assert left(*OLD, *operations, FlushAll()) == [{"d": None, "d/f": b"new"}]


def test_write_is_torn_at_sectors_in_any_order() -> None:
    """Each sector of a write in place survives or is lost independently."""
    start = (Create("f", 1), Write(1, 0, A + A), Flush(1), Flush(0))
    found = {files["f"] for files in left(*start, Write(1, 0, B + B))}
    assert found == {A + A, B + A, A + B, B + B}


def test_sector_holds_content_of_one_moment() -> None:
    """A later write to a sector never survives without an earlier one."""
    assert contents(Write(1, 0, b"N"), Write(1, 2, b"W")) == {b"old", b"Nld", b"NlW"}


def test_write_across_boundary_is_two_sectors() -> None:
    """Sector boundaries are counted from the start of the file, not of the write."""
    start = (Create("f", 1), Write(1, 0, A + A), Flush(1), Flush(0))
    found = {files["f"] for files in left(*start, Write(1, 510, b"1234"))}
    first, last = A[:510] + b"12", b"34" + A[2:]
    assert found == {A + A, first + A, A + last, first + last}


def test_allocated_blocks_read_as_nul() -> None:
    """A file that was allocated and then written has its size, with or without the bytes."""
    found = contents(Resize(1, 5), Flush(1), Write(1, 3, b"er"))
    assert found == {b"old\0\0", b"older"}


def test_truncation_may_be_lost() -> None:
    """A truncated file has its old size or the new one."""
    assert contents(Resize(1, 1)) == {b"old", b"o"}


def test_truncated_bytes_never_return() -> None:
    """A file that was truncated and extended reads as NUL in between."""
    assert contents(Resize(1, 1), Resize(1, 3)) == {b"old", b"o", b"o\0\0"}


def test_write_after_truncation_needs_truncation() -> None:
    """Bytes written after a truncation survive only together with the truncation."""
    found = contents(Resize(1, 1), Write(1, 1, b"NEW"))
    assert found == {b"old", b"o", b"o\0\0\0", b"oNEW"}


def test_rename_over_name_leads_to_old_or_new_file() -> None:
    """A rename within one directory is atomic."""
    start = (*OLD, Create("t", 2), Write(2, 0, b"new"), Flush(2), Flush(0))
    assert left(*start, Rename("t", "f")) == [{"f": b"old", "t": b"new"}, {"f": b"new"}]


def test_rename_before_fsync_may_lose_bytes() -> None:
    """The classic: after the rename, the good old name leads to a file of NULs."""
    found = left(*OLD, Create("t", 2), Write(2, 0, b"new"), Rename("t", "f"))
    assert {"f": b"\0\0\0"} in found
    assert {"f": b""} in found


def test_rename_to_another_directory_may_lose_either_end() -> None:
    """Afterwards both names lead to one file, or neither does."""
    start = (MakeFolder("d", 2), *OLD)
    names = [sorted(files) for files in left(*start, Rename("f", "d/g"))]
    assert sorted(names) == [["d"], ["d", "d/g"], ["d", "d/g", "f"], ["d", "f"]]
    assert [sorted(files) for files in left(*start, Rename("f", "d/g"), Flush(2))] == [
        ["d", "d/g", "f"],
        ["d", "d/g"],
    ]


def test_tree_with_hard_links_is_written_with_hard_links(tmp_path: Path) -> None:
    """A tree left by a crash is written to disk with its hard links."""
    system = after(MakeFolder("d", 2), *OLD, Rename("f", "d/g"))
    system.tree([atom for atom in system.pending() if atom.inode == 2]).write(tmp_path)
    assert files_in(tmp_path) == {"d": None, "d/g": b"old", "f": b"old"}
    assert (tmp_path / "f").samefile(tmp_path / "d/g")


def test_lost_directory_loses_its_content() -> None:
    """A durable file in a directory is reachable only through a durable name of that directory."""
    operations: list[Operation] = [
        MakeFolder("d", 2),
        Create("d/f", 1),
        Write(1, 0, b"new"),
        Flush(1),
        Flush(2),
    ]
    assert left(*operations) == [{}, {"d": None, "d/f": b"new"}]


def test_names_change_in_any_order() -> None:
    """Of two removals, the second may survive alone."""
    start = (*OLD, Create("g", 2), Flush(2), Flush(0))
    names = [sorted(files) for files in left(*start, Unlink("f"), Unlink("g"))]
    assert sorted(names) == [[], ["f"], ["f", "g"], ["g"]]


def test_unlinked_file_loses_later_writes() -> None:
    """A file is its inode: a process that has it open writes to the inode, not to the name."""
    assert contents(Unlink("f"), Write(1, 0, b"NEW"), Flush(1)) == {b"NEW", None}
    assert contents(Unlink("f"), Create("f", 2), Flush(0)) == {b""}


def test_failed_fsync_is_not_repaired_by_later_one() -> None:
    """Bytes that a failed fsync dropped stay uncertain; bytes written afterwards do not."""
    start = (Create("f", 1), Write(1, 0, A + A), Flush(1), Flush(0))
    failed = (*start, Write(1, 0, B + B), FailedFlush(1))
    assert {files["f"] for files in left(*failed, Flush(1))} == {A + A, B + A, A + B, B + B}
    again = (*failed, Write(1, 0, C), Flush(1))
    assert {files["f"] for files in left(*again)} == {C + A, C + B}
    assert {files["f"] for files in left(*failed, FlushAll())} == {A + A, B + A, A + B, B + B}


def test_killed_process_leaves_everything() -> None:
    """The next process sees what the killed one saw, even after a failed fsync."""
    system = after(*OLD, Write(1, 0, b"new"), FailedFlush(1), Create("g", 2))
    assert system.now().files() == {"f": b"new", "g": b""}


def test_crash_state_is_durable() -> None:
    """The next crash keeps everything that this one left."""
    system = after(*OLD, Write(1, 0, b"new"), Create("g", 2), Rename("g", "h"))
    for tree in (system.tree([]), system.now()):
        again = FileSystem.of(tree)
        assert again.pending() == []
        assert again.tree([]) == tree
        again.apply(Write(1, 0, b"N"))
        again.apply(Flush(1))
        assert (again.tree([]).files()["f"] or b"").startswith(b"N")


def test_pending_writes_are_listed_in_order() -> None:
    """They are ordered by operation, kind and sector."""
    system = after(*OLD, Write(1, 510, b"1234"), Rename("f", "g"))
    assert system.pending() == [
        Atom(5, DATA, 1, 0),
        Atom(5, DATA, 1, 1),
        Atom(5, SIZE, 1),
        Atom(6, NAME, 0),
    ]


def test_digest_differs_only_for_visible_differences() -> None:
    """The digest depends on names, bytes and links, and not on inode numbers."""
    tree = Tree({"f": 1, "g": 2}, {1: b"x", 2: b"x"})
    assert tree.digest() == Tree({"f": 8, "g": 9}, {8: b"x", 9: b"x"}).digest()
    others = [
        Tree({"f": 1, "g": 1}, {1: b"x"}),
        Tree({"f": 1, "h": 2}, {1: b"x", 2: b"x"}),
        Tree({"f": 1, "g": 2}, {1: b"x", 2: b"y"}),
        Tree({"f": 1, "g": 2}, {1: b"x"}),
    ]
    assert len({tree.digest(), *(other.digest() for other in others)}) == 5


def test_copy_is_independent() -> None:
    """Operations applied to a copy leave the original unchanged."""
    system = after(*OLD, Write(1, 0, b"new"), Create("g", 2))
    other = system.copy()
    assert other.pending() == system.pending()
    for operation in (FailedFlush(1), Unlink("f"), FlushAll()):
        other.apply(operation)
    assert system.now().files() == {"f": b"new", "g": b""}
    assert {atom.operation for atom in system.pending()} == {5, 6}
    assert other.tree([]).files() == {"g": b""}
