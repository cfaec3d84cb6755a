# SPDX-License-Identifier: Apache-2.0
"""The operations that each peer is measured in."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from benchmarks import documents
from benchmarks.device import UNSYNCED, Device, open_device, probes, settle
from benchmarks.effort import Effort
from benchmarks.peers import Entrant, Peer, compare, open_peers
from benchmarks.timing import Samples, Step, interleave, processor_time
from waggle_fsstore import Environment
from waggle_fsstore.store.format import codec

SAVE: Final = "save"
SAVE_NEW: Final = "save new"
DELETE: Final = "delete"
FIND: Final = "find_by_id"
FIND_ALL: Final = "find_all"
COUNT: Final = "count"
DEVICE: Final = "device"
CPU: Final = "cpu"

OPERATIONS: Final = (SAVE, SAVE_NEW, DELETE, FIND, FIND_ALL, COUNT)

_CPU_SIZE: Final = 1_000
_CPU_BATCH: Final = 50


def measure(
    directory: Path, entrants: list[Entrant], size: int, effort: Effort
) -> dict[str, Samples]:
    """Measure all operations of all entrants and of the device, with ``size`` documents."""
    environments = [documents.make(number) for number in range(size)]
    with (
        open_peers(directory, entrants, environments) as peers,
        open_device(directory, size) as device,
    ):
        write = _writes(peers, device, environments)
        samples = interleave(
            write,
            [*peers, *(probe.name for probe in probes(device))],
            rounds=effort.write_rounds,
            limit_s=effort.limit_s,
            settle=lambda: settle(directory),
        )
        ids = [environment.id for environment in environments]
        samples |= interleave(
            lambda entrant, number: [
                Step(FIND, peers[entrant].find_by_id, documents.pick(ids, number, 20))
            ],
            [*peers],
            rounds=effort.read_rounds,
            limit_s=effort.limit_s,
        )
        samples |= interleave(
            lambda entrant, _: _scans(peers[entrant]),
            [*peers],
            rounds=effort.scan_rounds,
            limit_s=effort.limit_s,
        )
        compare(peers)
    return samples


def measure_cpu(directory: Path, entrants: list[Entrant], effort: Effort) -> Samples:
    """Measure the processor time of this process for a save without sync."""
    environments = [documents.make(number) for number in range(_CPU_SIZE)]
    unsynced = [entrant for entrant in entrants if not entrant.is_synced]
    with (
        open_peers(directory, unsynced, environments) as peers,
        open_device(directory, _CPU_SIZE) as device,
    ):

        def steps(entrant: str, number: int) -> list[Step]:
            changed = documents.changed(environments, number, _CPU_BATCH)
            if entrant != UNSYNCED:
                return [Step(CPU, peers[entrant].save, changed)]
            encoded = [codec.encode(environment, number + 1) for environment in changed]
            return [Step(CPU, device.replace_unsynced, encoded)]

        samples = interleave(
            steps,
            [*peers, UNSYNCED],
            rounds=effort.write_rounds,
            limit_s=effort.limit_s,
            measure=processor_time,
            settle=lambda: settle(directory),
        )
        compare(peers)
    return samples[CPU]


def _writes(
    peers: dict[str, Peer], device: Device, environments: list[Environment]
) -> Callable[[str, int], list[Step]]:
    size = len(environments)
    bare = {probe.name: probe.call for probe in probes(device)}

    @cache
    def round_data(number: int) -> tuple[list[Environment], list[bytes], list[Environment]]:
        """Return what every entrant writes in this round."""
        changed = documents.changed(environments, number, 11)
        encoded = [codec.encode(environment, size + number) for environment in changed]
        return changed, encoded, [documents.make(size + number * 6 + n) for n in range(6)]

    def steps(entrant: str, number: int) -> list[Step]:
        changed, encoded, new = round_data(number)
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
