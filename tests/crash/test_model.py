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


def test_a_new_file_may_be_missing_or_empty_or_full_of_nuls() -> None:
    """Nothing of a file that was never flushed is certain."""
    assert left(Create("f", 1), Write(1, 0, b"new")) == [
        {},
        {"f": b""},
        {"f": b"\0\0\0"},
        {"f": b"new"},
    ]


def test_a_flush_of_a_file_keeps_its_bytes_and_not_its_name() -> None:
    """The name is kept by a flush of the folder."""
    operations: list[Operation] = [Create("f", 1), Write(1, 0, b"new"), Flush(1)]
    assert left(*operations) == [{}, {"f": b"new"}]
    assert left(*operations, Flush(0)) == [{"f": b"new"}]


def test_a_flush_of_a_folder_keeps_names_and_not_bytes() -> None:
    """The classic empty file."""
    assert left(Create("f", 1), Write(1, 0, b"new"), Flush(0)) == [
        {"f": b""},
        {"f": b"\0\0\0"},
        {"f": b"new"},
    ]


def test_a_flush_of_all_keeps_all() -> None:
    """After syncfs there is one state."""
    operations: list[Operation] = [
        MakeFolder("d", 2),
        Create("d/f", 1),
        Write(1, 0, b"new"),
        Unlink("f"),
    ]
    assert left(*OLD, *operations, FlushAll()) == [{"d": None, "d/f": b"new"}]


def test_a_write_is_torn_at_sectors_in_any_order() -> None:
    """Each sector of a write in place survives for itself."""
    start = (Create("f", 1), Write(1, 0, A + A), Flush(1), Flush(0))
    found = {files["f"] for files in left(*start, Write(1, 0, B + B))}
    assert found == {A + A, B + A, A + B, B + B}


def test_a_sector_holds_what_it_held_at_some_moment() -> None:
    """A later write to a sector never survives without an earlier one."""
    assert contents(Write(1, 0, b"N"), Write(1, 2, b"W")) == {b"old", b"Nld", b"NlW"}


def test_a_write_across_a_boundary_is_two_sectors() -> None:
    """The boundary is one of the file, and not of the write."""
    start = (Create("f", 1), Write(1, 0, A + A), Flush(1), Flush(0))
    found = {files["f"] for files in left(*start, Write(1, 510, b"1234"))}
    first, last = A[:510] + b"12", b"34" + A[2:]
    assert found == {A + A, first + A, A + last, first + last}


def test_allocated_blocks_read_as_nul() -> None:
    """A file that was allocated, and written afterwards, has its size with or without bytes."""
    found = contents(Resize(1, 5), Flush(1), Write(1, 3, b"er"))
    assert found == {b"old\0\0", b"older"}


def test_a_cut_may_have_happened_or_not() -> None:
    """A file that was cut off has its old size or the new one."""
    assert contents(Resize(1, 1)) == {b"old", b"o"}


def test_what_was_cut_off_never_comes_back() -> None:
    """A file that was cut off and made longer reads as NUL in between."""
    assert contents(Resize(1, 1), Resize(1, 3)) == {b"old", b"o", b"o\0\0"}


def test_what_was_written_behind_a_cut_needs_the_cut() -> None:
    """The old bytes are not overwritten by what came after they were cut off."""
    found = contents(Resize(1, 1), Write(1, 1, b"NEW"))
    assert found == {b"old", b"o", b"o\0\0\0", b"oNEW"}


def test_a_rename_over_a_name_leads_to_the_old_file_or_the_new() -> None:
    """Within a folder a rename happens as a whole."""
    start = (*OLD, Create("t", 2), Write(2, 0, b"new"), Flush(2), Flush(0))
    assert left(*start, Rename("t", "f")) == [{"f": b"old", "t": b"new"}, {"f": b"new"}]


def test_a_rename_before_the_flush_may_lose_the_bytes() -> None:
    """The classic: rename, and then nothing but NULs under the good old name."""
    found = left(*OLD, Create("t", 2), Write(2, 0, b"new"), Rename("t", "f"))
    assert {"f": b"\0\0\0"} in found
    assert {"f": b""} in found


def test_a_rename_to_another_folder_may_lose_either_end() -> None:
    """Both names lead to one file, or none does."""
    start = (MakeFolder("d", 2), *OLD)
    names = [sorted(files) for files in left(*start, Rename("f", "d/g"))]
    assert sorted(names) == [["d"], ["d", "d/g"], ["d", "d/g", "f"], ["d", "f"]]
    assert [sorted(files) for files in left(*start, Rename("f", "d/g"), Flush(2))] == [
        ["d", "d/g", "f"],
        ["d", "d/g"],
    ]


def test_two_names_of_one_file_are_made_so(tmp_path: Path) -> None:
    """A tree that a crash left is written with its links."""
    system = after(MakeFolder("d", 2), *OLD, Rename("f", "d/g"))
    system.tree([atom for atom in system.pending() if atom.inode == 2]).write(tmp_path)
    assert files_in(tmp_path) == {"d": None, "d/g": b"old", "f": b"old"}
    assert (tmp_path / "f").samefile(tmp_path / "d/g")


def test_a_folder_that_is_lost_takes_all_with_it() -> None:
    """What is durable in a folder is reached through a durable name only."""
    operations: list[Operation] = [
        MakeFolder("d", 2),
        Create("d/f", 1),
        Write(1, 0, b"new"),
        Flush(1),
        Flush(2),
    ]
    assert left(*operations) == [{}, {"d": None, "d/f": b"new"}]


def test_names_change_in_any_order() -> None:
    """Of two removals the second may survive alone."""
    start = (*OLD, Create("g", 2), Flush(2), Flush(0))
    names = [sorted(files) for files in left(*start, Unlink("f"), Unlink("g"))]
    assert sorted(names) == [[], ["f"], ["f", "g"], ["g"]]


def test_an_unlinked_file_takes_later_writes_with_it() -> None:
    """A file is its inode: whoever has it open writes into it, not into its name."""
    assert contents(Unlink("f"), Write(1, 0, b"NEW"), Flush(1)) == {b"NEW", None}
    assert contents(Unlink("f"), Create("f", 2), Flush(0)) == {b""}


def test_a_failed_flush_is_not_made_good_by_a_later_one() -> None:
    """What a flush lost stays uncertain; what is written afterwards does not."""
    start = (Create("f", 1), Write(1, 0, A + A), Flush(1), Flush(0))
    failed = (*start, Write(1, 0, B + B), FailedFlush(1))
    assert {files["f"] for files in left(*failed, Flush(1))} == {A + A, B + A, A + B, B + B}
    again = (*failed, Write(1, 0, C), Flush(1))
    assert {files["f"] for files in left(*again)} == {C + A, C + B}
    assert {files["f"] for files in left(*failed, FlushAll())} == {A + A, B + A, A + B, B + B}


def test_a_process_that_ends_leaves_everything() -> None:
    """What the process saw is what the next one sees, a failed flush or not."""
    system = after(*OLD, Write(1, 0, b"new"), FailedFlush(1), Create("g", 2))
    assert system.now().files() == {"f": b"new", "g": b""}


def test_what_a_crash_left_is_durable() -> None:
    """The next crash finds it all."""
    system = after(*OLD, Write(1, 0, b"new"), Create("g", 2), Rename("g", "h"))
    for tree in (system.tree([]), system.now()):
        again = FileSystem.of(tree)
        assert again.pending() == []
        assert again.tree([]) == tree
        again.apply(Write(1, 0, b"N"))
        again.apply(Flush(1))
        assert (again.tree([]).files()["f"] or b"").startswith(b"N")


def test_what_is_pending_is_told_in_order() -> None:
    """By operation, with the kind and the sector."""
    system = after(*OLD, Write(1, 510, b"1234"), Rename("f", "g"))
    assert system.pending() == [
        Atom(5, DATA, 1, 0),
        Atom(5, DATA, 1, 1),
        Atom(5, SIZE, 1),
        Atom(6, NAME, 0),
    ]


def test_trees_differ_where_anybody_can_tell() -> None:
    """The digest tells by names, bytes and links, and not by the numbers of inodes."""
    tree = Tree({"f": 1, "g": 2}, {1: b"x", 2: b"x"})
    assert tree.digest() == Tree({"f": 8, "g": 9}, {8: b"x", 9: b"x"}).digest()
    others = [
        Tree({"f": 1, "g": 1}, {1: b"x"}),
        Tree({"f": 1, "h": 2}, {1: b"x", 2: b"x"}),
        Tree({"f": 1, "g": 2}, {1: b"x", 2: b"y"}),
        Tree({"f": 1, "g": 2}, {1: b"x"}),
    ]
    assert len({tree.digest(), *(other.digest() for other in others)}) == 5


def test_a_copy_goes_its_own_way() -> None:
    """What is done to a copy is not done to the original."""
    system = after(*OLD, Write(1, 0, b"new"), Create("g", 2))
    other = system.copy()
    assert other.pending() == system.pending()
    for operation in (FailedFlush(1), Unlink("f"), FlushAll()):
        other.apply(operation)
    assert system.now().files() == {"f": b"new", "g": b""}
    assert {atom.operation for atom in system.pending()} == {5, 6}
    assert other.tree([]).files() == {"g": b""}
