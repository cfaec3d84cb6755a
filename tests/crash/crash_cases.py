# SPDX-License-Identifier: Apache-2.0
"""Cases: the states that a crash may leave after each operation of a run."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple
from zlib import crc32

from tests.crash.expectations import CrashPoints, Done, Expected
from tests.crash.file_tree import Tree
from tests.crash.identity import Identity
from tests.crash.model import FileSystem
from tests.crash.operations import Mark, Operation
from tests.crash.sectors import Atom
from tests.crash.surviving_writes import Choice, Effort, choices, some

#: One state in this many is opened as a copy, such as a backup, and the others in place.
_STATES_PER_COPY: Final = 8

#: No power cut: the process ended, and everything that it saw is left.
_KILLED: Final = Choice("killed", frozenset())
_NOTHING: Final = Choice("nothing", frozenset())


class Run(NamedTuple):
    """Recorded operations, and the files and expectations before the first of them."""

    name: str
    system: FileSystem
    operations: list[Operation]
    expected: Expected
    identity: Identity


class Case(NamedTuple):
    """A state left by a crash, what a store has to show on it, and where it is opened.

    ``system`` has the files as the next operations find them: after a power cut everything
    left is durable; where only the process ended, no more is durable than before.
    """

    name: str
    tree: Tree
    system: FileSystem
    expected: Expected
    identity: Identity
    is_power_cut: bool


class Depth(NamedTuple):
    """How hard to try at one level: a crash, a crash in the recovery from it, and so on.

    ``points`` is how many crash points to try, ``None`` for all. The outermost level adds
    those at which something was confirmed, and has the process end at every point. One in
    ``deeper`` states has the recovery from it crash too.
    """

    effort: Effort
    points: int | None
    deeper: int = 1
    is_outermost: bool = False


def cases(run: Run, depth: Depth, *, wanted: str = "") -> Iterator[Case]:
    """Each state once for each thing that has to be shown; or the wanted one, and what it is of."""
    first, confirmed = _confirmed(run)
    sample = set(some(range(first, len(run.operations) + 1), depth.points, run.name))
    if depth.is_outermost:
        sample |= confirmed
    is_durable = not run.system.pending()
    system, expected = run.system.copy(), run.expected
    seen: set[tuple[bytes, tuple[Atom, ...], Identity]] = set()
    for point in range(len(run.operations) + 1):
        if point:
            operation = run.operations[point - 1]
            system.apply(operation)
            if isinstance(operation, Mark):
                expected = expected.after(operation.note)
                seen.clear()
        name = f"{run.name}@{point}/"
        if point < first or not wanted.startswith(name[: len(wanted)]):
            continue
        options: Sequence[Choice] = []
        if point in sample:
            options = [_KILLED, *choices(system.pending(), depth.effort, name)]
            options = some(options, depth.effort.most, name)
        elif depth.is_outermost:
            options = [_KILLED]
        elif point in confirmed and not is_durable:
            options = [_NOTHING]  # What was built upon has to be durable too.
        for case in _cases_at(name, options, system, expected, run.identity):
            key = case.tree.digest(), tuple(case.system.pending()), case.identity
            if f"{wanted} > ".startswith(f"{case.name} > ") if wanted else key not in seen:
                seen.add(key)
                yield case


def goes_deeper(case: Case, depth: Depth) -> bool:
    """Whether the recovery from this state is to crash too."""
    return crc32(case.name.encode()) % depth.deeper == 0


def _confirmed(run: Run) -> tuple[int, set[int]]:
    """The first crash point, and those after it at which something was just confirmed."""
    first = 0
    confirmed: set[int] = set()
    for point, operation in enumerate(run.operations, start=1):
        if isinstance(operation, Mark):
            if isinstance(operation.note, CrashPoints):
                first, confirmed = point, set()
            elif isinstance(operation.note, Done):
                confirmed.add(point)
    return first, confirmed


def _cases_at(
    name: str, options: Sequence[Choice], system: FileSystem, expected: Expected, identity: Identity
) -> Iterator[Case]:
    for choice in options:
        case = f"{name}{choice.name}"
        if choice is _KILLED:
            yield Case(case, system.now(), system.copy(), expected, identity, False)
            continue
        tree = system.tree(choice.survivors)
        is_copy = crc32(case.encode()) % _STATES_PER_COPY == 0
        after = identity.copied() if is_copy else identity.rebooted()
        yield Case(case, tree, FileSystem.of(tree), expected, after, True)
