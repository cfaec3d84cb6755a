# SPDX-License-Identifier: Apache-2.0
"""The results of one run, as they are written down."""

from dataclasses import dataclass, field

from benchmarks.timing import Summary

# Of each entrant, in the order in which they are shown.
Summaries = dict[str, Summary]


@dataclass(kw_only=True)
class Results:
    """All figures of a run and what they hold for. Times are in seconds."""

    name: str
    quick: bool
    machine: dict[str, str]
    durability: dict[str, str]
    remarks: list[str]
    #: By number of documents and operation; "device" among the operations is the bare calls.
    sizes: dict[int, dict[str, Summaries]] = field(default_factory=dict)
    #: A long run of saves, and what it left to the kernel in each turn; by these names.
    run: dict[str, Summaries] = field(default_factory=dict)
    #: A save by one thread and by all at once; by these names.
    threads: dict[str, Summaries] = field(default_factory=dict)
    #: A batch one by one and by ``save_all``; by these names.
    batches: dict[str, Summaries] = field(default_factory=dict)
    #: By operation: a store with a long history, and a new one.
    history: dict[str, Summaries] = field(default_factory=dict)
    #: By the number of saves: the peak of the memory while their history is read, in bytes.
    history_memory: dict[int, int] = field(default_factory=dict)
    #: Processor time of an unsynced save.
    cpu: Summaries = field(default_factory=dict)
    imports: Summaries = field(default_factory=dict)
    forbidden: list[str] = field(default_factory=list)
    #: At 100,000 documents; empty if not asked for.
    large: Summaries = field(default_factory=dict)
