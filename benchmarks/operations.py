# SPDX-License-Identifier: Apache-2.0
"""The operations: what each peer does, on how many documents and how often."""

import gc
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from benchmarks import documents
from benchmarks.device import UNSYNCED, Device, probes, settle
from benchmarks.peers import Entrant, Peer
from benchmarks.timing import Samples, Step, interleave, processor_time
from waggle_fsstore import Environment
from waggle_fsstore.store import codec

SAVE: Final = "save"
SAVE_NEW: Final = "save new"
DELETE: Final = "delete"
FIND: Final = "find_by_id"
FIND_ALL: Final = "find_all"
COUNT: Final = "count"
DEVICE: Final = "device"
CPU: Final = "cpu"

OPERATIONS: Final = (SAVE, SAVE_NEW, DELETE, FIND, FIND_ALL, COUNT)

_BARE_FILES: Final = 10
_CPU_SIZE: Final = 1_000
_CPU_BATCH: Final = 50

_T = TypeVar("_T")


class Effort(NamedTuple):
    """How many rounds of each kind at most, and how many seconds for each kind at a size."""

    writes: int
    reads: int
    scans: int
    limit: float


FULL: Final = Effort(writes=60, reads=60, scans=40, limit=20.0)
QUICK: Final = Effort(writes=6, reads=8, scans=4, limit=1.0)


def measure(folder: Path, entrants: list[Entrant], size: int, effort: Effort) -> dict[str, Samples]:
    """All operations of all entrants, and the device beside them, on ``size`` documents."""
    environments = [documents.make(number) for number in range(size)]
    with _opened(folder, entrants, environments) as peers, _device(folder, size) as device:
        write = _writes(peers, device, environments)
        samples = interleave(
            write,
            [*peers, *(probe.name for probe in probes(device))],
            rounds=effort.writes,
            limit=effort.limit,
            settle=lambda: settle(folder),
        )
        ids = [environment.id for environment in environments]
        samples |= interleave(
            lambda entrant, number: [Step(FIND, peers[entrant].find_by_id, _pick(ids, number, 20))],
            [*peers],
            rounds=effort.reads,
            limit=effort.limit,
        )
        samples |= interleave(
            lambda entrant, _: _scans(peers[entrant]),
            [*peers],
            rounds=effort.scans,
            limit=effort.limit,
        )
        _compare(peers)
    return samples


def measure_cpu(folder: Path, entrants: list[Entrant], effort: Effort) -> Samples:
    """The processor time that this process spends on a save without a flush."""
    environments = [documents.make(number) for number in range(_CPU_SIZE)]
    unsynced = [entrant for entrant in entrants if not entrant.is_synced]
    with _opened(folder, unsynced, environments) as peers, _device(folder, _CPU_SIZE) as device:

        def steps(entrant: str, number: int) -> list[Step]:
            changed = _changed(environments, number, _CPU_BATCH)
            if entrant != UNSYNCED:
                return [Step(CPU, peers[entrant].save, changed)]
            encoded = [codec.encode(environment, number + 1) for environment in changed]
            return [Step(CPU, device.replace_unsynced, encoded)]

        samples = interleave(
            steps,
            [*peers, UNSYNCED],
            rounds=effort.writes,
            limit=effort.limit,
            measure=processor_time,
            settle=lambda: settle(folder),
        )
        _compare(peers)
    return samples[CPU]


@contextmanager
def _opened(
    folder: Path, entrants: list[Entrant], environments: list[Environment]
) -> Iterator[dict[str, Peer]]:
    """All peers, filled. Their files are removed afterwards."""
    roots = [folder / f"peer-{index}" for index in range(len(entrants))]
    try:
        with ExitStack() as open_peers:
            peers = {}
            for entrant, root in zip(entrants, roots, strict=True):
                peers[entrant.name] = entrant.open(root, environments)
                open_peers.callback(peers[entrant.name].close)
            settle(folder)
            # A collection would hit whoever is measured just then.
            gc.collect()
            gc.disable()
            open_peers.callback(gc.enable)
            yield peers
    finally:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _device(folder: Path, number: int) -> Iterator[Device]:
    root = folder / "device"
    encoded = [codec.encode(documents.make(n), 1) for n in range(min(number, _BARE_FILES))]
    try:
        device = Device(root, encoded)
        settle(folder)
        try:
            yield device
        finally:
            device.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _writes(
    peers: dict[str, Peer], device: Device, environments: list[Environment]
) -> Callable[[str, int], list[Step]]:
    size = len(environments)
    bare = {probe.name: probe.call for probe in probes(device)}

    @cache
    def given(number: int) -> tuple[list[Environment], list[bytes], list[Environment]]:
        """What all of them write in this round."""
        changed = _changed(environments, number, 11)
        encoded = [codec.encode(environment, size + number) for environment in changed]
        return changed, encoded, [documents.make(size + number * 6 + n) for n in range(6)]

    def steps(entrant: str, number: int) -> list[Step]:
        changed, encoded, new = given(number)
        if entrant in bare:
            return [Step(DEVICE, bare[entrant], encoded)]
        peer = peers[entrant]
        return [
            Step(SAVE, peer.save, changed),
            Step(SAVE_NEW, peer.save, new),
            Step(DELETE, peer.delete, [environment.id for environment in new]),
        ]

    return steps


def _scans(peer: Peer) -> list[Step]:
    return [
        Step(FIND_ALL, lambda _: peer.find_all(), [None], warm=0),
        Step(COUNT, lambda _: peer.count(), [None] * 6),
    ]


def _changed(environments: list[Environment], number: int, batch: int) -> list[Environment]:
    """Changed versions of some; of others in each round, and never the same version twice."""
    picked = _pick(environments, number, batch)
    first = 1 + number * batch
    return [documents.used(old, first + index) for index, old in enumerate(picked)]


def _pick(items: list[_T], number: int, batch: int) -> list[_T]:
    # A step that shares no factor with the sizes goes through all of them, far from in order.
    return [items[(number * batch + index) * 7_919 % len(items)] for index in range(batch)]


def _compare(peers: dict[str, Peer]) -> None:
    """Refuse figures of peers that did not end up with the same environments."""
    first, *others = peers
    expected = peers[first].find_all()
    for other in others:
        if peers[other].find_all() != expected:
            raise RuntimeError(f"{other} does not hold the same documents as {first}")
