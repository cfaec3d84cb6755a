# SPDX-License-Identifier: Apache-2.0
"""Lines: where reading may begin, and which lines it may skip."""

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from waggle_fsstore.store.journal import lines
from waggle_fsstore.store.journal.selection import of_id

# The number of changes of a line and its size; or a checkpoint, or blanks.
SHAPES = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 4_000)) | st.sampled_from(["checkpoint", "blanks"]),
    max_size=25,
)


def line(seqs: range, size: int = 10) -> bytes:
    return lines.encode(lines.CHANGES, [{"seq": seq, "id": "x" * size} for seq in seqs])


@given(SHAPES, st.integers(0, 90), st.integers(0, 20_000))
def test_start_after_precedes_all_later_changes(
    shapes: list[tuple[int, int] | str], seq: int, blanks: int
) -> None:
    """For any lines, it is the start of a line, and all changes after the number follow it."""
    texts, last = [], 0
    for shape in shapes:
        if shape == "checkpoint":
            texts.append(lines.encode(lines.CHECKPOINT, {"through": last}))
        elif isinstance(shape, str):
            texts.append(b" " * 9_000 + b"\n")
        else:
            texts.append(line(range(last + 1, last + 1 + shape[0]), shape[1]))
            last += shape[0]
    data = b"".join(texts) + b" " * blanks
    start = lines.start_after(data, seq)
    assert start in {0, *accumulate(map(len, texts))}
    wanted = [one for one in lines.scan(data)[0] if one.changes and one.changes[-1]["seq"] > seq]
    assert not wanted or start <= wanted[0].start


def test_start_after_skips_nearly_all_earlier_lines() -> None:
    """Among 1,000 lines, it is less than 20 lines before the first later change."""
    data = b"".join(line(range(seq, seq + 1), 500) for seq in range(1, 1_001)) + b" " * 50_000
    for seq in range(1, 1_001):
        begin = lines.start_after(data, seq)
        skipped = data[:begin].count(b"\n")
        assert seq - 20 <= skipped <= seq


def test_start_after_precedes_damaged_lines() -> None:
    """Damaged lines are not skipped, so that a scan from there reports them."""
    data = bytearray(b"".join(line(range(seq, seq + 1), 500) for seq in range(1, 101)))
    third = len(data) // 3
    data[third : 2 * third] = b"x" * third
    start = lines.start_after(bytes(data), 90)
    assert start < third
    assert len(lines.scan(bytes(data), start)[1]) == 1


@given(st.lists(st.sampled_from(["mine", "other", "hidden", "blank", "bad"]), max_size=12))
def test_scan_for_an_id_finds_its_lines_and_all_damage(kinds: list[str]) -> None:
    """A scan for one id finds what a full scan finds of it, and reports the same damage."""
    texts = {
        "mine": lines.encode(lines.CHANGES, [{"seq": 1, "id": "mine"}]),
        "other": lines.encode(lines.CHANGES, [{"seq": 1, "id": "other"}]),
        "hidden": lines.encode(lines.CHANGES, [{"seq": 1, "id": '"id":"mine"'}]),
        "blank": b"   \n",
        "bad": b'{"crc":"00000000","changes":[]}\n',
    }
    data = b"".join(texts[kind] for kind in kinds)
    for end in (len(data), len(data) - 3):
        good, bad = lines.scan(data[:end])
        some, as_bad = lines.scan(data[:end], only=of_id("mine"))
        assert as_bad == bad
        mine = [one for one in good if one.changes[0]["id"] == "mine"]
        assert [one for one in some if one.changes[0]["id"] == "mine"] == mine
        assert bad or some == mine
