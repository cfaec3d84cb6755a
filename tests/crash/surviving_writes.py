# SPDX-License-Identifier: Apache-2.0
"""Which pending writes survive a crash: all systematic choices, or a sample."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple, TypeVar

from tests.crash.sectors import DATA, NAME, SIZE, Atom

T = TypeVar("T")


class Choice(NamedTuple):
    """The surviving writes, and a name that is unique at the crash point."""

    name: str
    survivors: frozenset[Atom]


class Effort(NamedTuple):
    """How many choices to try at a crash point, besides the four plain ones.

    ``systematic`` is how many of the systematic ones, and ``most`` how many of all that
    there are then; ``None`` for all of them.
    """

    systematic: int | None
    random: int
    most: int | None = None


def choices(pending: list[Atom], effort: Effort, seed: str) -> Iterator[Choice]:
    """The plain choices, some or all of the systematic ones, and random ones."""
    names = frozenset(atom for atom in pending if atom.kind == NAME)
    sizes = frozenset(atom for atom in pending if atom.kind == SIZE)
    yield Choice("nothing", frozenset())
    if not pending:
        return
    yield Choice("everything", frozenset(pending))
    # Files without contents: empty, or full of NULs.
    yield Choice("names", names)
    yield Choice("names and sizes", names | sizes)
    systematic = list(_systematic(pending))
    yield from some(systematic, effort.systematic, seed)
    for number in range(effort.random):
        random = Random(f"{seed} {number}")  # noqa: S311  # no secret
        share = random.choice((0.1, 0.5, 0.9))
        kept = frozenset(atom for atom in pending if random.random() < share)
        yield Choice(f"random {number}", kept)


def some(options: Sequence[T], most: int | None, seed: str) -> Sequence[T]:
    """All of them, or a sample."""
    if most is None or most >= len(options):
        return options
    return Random(seed).sample(options, most)  # noqa: S311  # no secret


def _systematic(pending: list[Atom]) -> Iterator[Choice]:
    everything = frozenset(pending)
    data = frozenset(atom for atom in pending if atom.kind == DATA)
    names = frozenset(atom for atom in pending if atom.kind == NAME)
    yield Choice("all but names", everything - names)
    items: dict[tuple[int, str, int], set[Atom]] = {}
    for atom in pending:
        kind = NAME if atom.kind == NAME else DATA  # Bytes and the size that they bring.
        items.setdefault((atom.operation, kind, atom.inode), set()).add(atom)
    before: frozenset[Atom] = frozenset()
    for (operation, kind, inode), item in items.items():
        label = f"{kind} {operation} of {inode}"
        before |= item
        yield Choice(f"only {label}", frozenset(item))
        yield Choice(f"all but {label}", everything - item)
        yield Choice(f"up to {label}", before)
        # As of a file system that keeps the order of names and sizes, and of nothing else.
        yield Choice(f"up to {label}, no data", before - data)
        yield Choice(f"up to {label}, all data", before | data)
