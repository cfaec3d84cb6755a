# SPDX-License-Identifier: Apache-2.0
"""The reads: from memory and for the first time, with and without a change in between.

The peers keep nothing in memory but pages, so for them a first read is a read of another
document. Signatures of files prove something two seconds after a change at the earliest: the
part without changes begins after a pause.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Final

from benchmarks import documents
from benchmarks.effort import Effort
from benchmarks.peers import Entrant, Peer, compare, open_peers
from benchmarks.timing import Samples, Step, interleave
from waggle_fsstore import Environment, FileStore

SIZE: Final = 1_000

FIND_AGAIN: Final = "find_by_id, again"
FIND_OTHER: Final = "find_by_id, another document"
FIND_FIRST: Final = "find_by_id, first"
FIND_SAVED: Final = "find_by_id, just saved"
FIND_CHANGED: Final = "find_by_id, changed by another"
LIST_FIRST: Final = "find_all, first"
LIST_AGAIN: Final = "find_all, again"
LIST_CHANGED: Final = "find_all, after a change by another"
COUNT_AGAIN: Final = "count, unchanged"
COUNT_CHANGED: Final = "count, after a change by another"

_SETTLING_TIME_S: Final = 2.5
_BATCH: Final = 24

#: What is done between the reads that are measured.
_ASIDE: Final = "aside"


def measure(directory: Path, entrants: list[Entrant], effort: Effort) -> dict[str, Samples]:
    """Measure the reads of all entrants."""
    environments = [documents.make(number) for number in range(SIZE)]
    ids = [environment.id for environment in environments]
    with open_peers(directory, entrants, environments) as peers, ExitStack() as stack:
        others: dict[str, Peer] = {}
        for name, peer in peers.items():
            others[name] = peer
            if isinstance(peer, FileStore):
                others[name] = stack.enter_context(FileStore(peer.path))
        time.sleep(_SETTLING_TIME_S)
        for peer in peers.values():
            _warm(peer, ids)
        samples = interleave(
            lambda entrant, number: _unchanged(peers[entrant], ids, number),
            [*peers],
            rounds=effort.read_rounds,
            limit_s=effort.limit_s,
        )
        samples |= interleave(
            lambda entrant, number: _changed(
                peers[entrant], others[entrant], documents.changed(environments, number, _BATCH)
            ),
            [*peers],
            rounds=effort.read_rounds,
            limit_s=effort.limit_s,
        )
        compare(peers)
    del samples[_ASIDE]
    return samples


def _warm(peer: Peer, ids: list[str]) -> None:
    """Let a peer keep what it may: a store keeps a document that is found twice."""
    peer.find_all()
    peer.count()
    for environment_id in ids + ids:
        peer.find_by_id(environment_id)


def _unchanged(peer: Peer, ids: list[str], number: int) -> list[Step]:
    fresh = FileStore(peer.path) if isinstance(peer, FileStore) else peer
    return [
        Step(_ASIDE, _ignoring(fresh.count), [None], warm=0),
        Step(FIND_FIRST, fresh.find_by_id, documents.pick(ids, number, _BATCH)),
        Step(LIST_FIRST, _ignoring(fresh.find_all), [None], warm=0),
        # A store has a watch then, of which a user can have about 128.
        Step(_ASIDE, _ignoring(fresh.close if fresh is not peer else int), [None], warm=0),
        Step(FIND_AGAIN, peer.find_by_id, [ids[number % SIZE]] * _BATCH),
        Step(FIND_OTHER, peer.find_by_id, documents.pick(ids, number, _BATCH)),
        Step(LIST_AGAIN, _ignoring(peer.find_all), [None] * 3),
        Step(COUNT_AGAIN, _ignoring(peer.count), [None] * _BATCH),
    ]


def _changed(peer: Peer, other: Peer, changed: list[Environment]) -> list[Step]:
    """Return reads that each follow a save, by another object where there can be one."""
    left = iter(changed)
    reads: list[tuple[str, Peer, Callable[[Environment], object]]] = [
        (FIND_SAVED, peer, lambda one: peer.find_by_id(one.id)),
        (FIND_CHANGED, other, lambda one: peer.find_by_id(one.id)),
        (LIST_CHANGED, other, lambda _: peer.find_all()),
        (COUNT_CHANGED, other, lambda _: peer.count()),
    ]
    return [
        step
        for operation, saver, read in reads
        for environment in islice(left, len(changed) // len(reads))
        for step in (
            Step(_ASIDE, saver.save, [environment], warm=0),
            Step(operation, read, [environment], warm=0),
        )
    ]


def _ignoring(call: Callable[[], object]) -> Callable[[object], object]:
    return lambda _: call()
