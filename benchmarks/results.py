# SPDX-License-Identifier: Apache-2.0
"""The results of one run, as they are saved."""

from dataclasses import dataclass, field

from benchmarks.timing import Summary

# By entrant, in the order of the report.
Summaries = dict[str, Summary]


@dataclass(kw_only=True)
class Results:
    """All figures of a run, and the machine they apply to. Times are in seconds."""

    name: str
    quick: bool
    machine: dict[str, str]
    durability: dict[str, str]
    remarks: list[str]
    #: By number of documents and operation; the operation "device" has the bare system calls.
    sizes: dict[int, dict[str, Summaries]] = field(default_factory=dict)
    #: By name: a long run of saves, and the unwritten data that each turn left to the kernel.
    run: dict[str, Summaries] = field(default_factory=dict)
    #: By name: a save by one thread, and by all threads concurrently.
    threads: dict[str, Summaries] = field(default_factory=dict)
    #: By name: a batch saved one by one, and by ``save_all``.
    batches: dict[str, Summaries] = field(default_factory=dict)
    #: By operation: a store with a long history, and a new one.
    history: dict[str, Summaries] = field(default_factory=dict)
    #: By number of saves: the peak memory while their history is read, in bytes.
    history_memory: dict[int, int] = field(default_factory=dict)
    #: Processor time of an unsynced save.
    cpu: Summaries = field(default_factory=dict)
    imports: Summaries = field(default_factory=dict)
    forbidden: list[str] = field(default_factory=list)
    #: By operation: reads of a thousand documents, with and without a change before them.
    reads: dict[str, Summaries] = field(default_factory=dict)
    #: By operation: several processes at once, and a new one.
    processes: dict[str, Summaries] = field(default_factory=dict)
    #: By operation: small libraries, with a thousand documents.
    light: dict[str, Summaries] = field(default_factory=dict)
