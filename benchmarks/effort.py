# SPDX-License-Identifier: Apache-2.0
"""The effort: how often each operation is measured, in a full and in a quick run."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Maximum numbers of rounds; the rounds of each part end after ``limit_s`` seconds."""

    limit_s: float
    write_rounds: int
    read_rounds: int
    scan_rounds: int
    #: The long run: the number of documents, of turns of each peer, and of saves in a turn.
    run_documents: int
    run_turns: int
    run_saves: int
    #: Threads: the number of rounds, and of saves in a round by all threads together.
    thread_rounds: int
    thread_saves: int
    batch_rounds: int
    history_lines: int
    history_rounds: int
    import_rounds: int


FULL: Final = Effort(
    limit_s=40.0,
    write_rounds=150,
    read_rounds=100,
    scan_rounds=40,
    run_documents=10_000,
    run_turns=8,
    run_saves=2_500,
    thread_rounds=30,
    thread_saves=400,
    batch_rounds=20,
    history_lines=100_000,
    history_rounds=100,
    import_rounds=25,
)
QUICK: Final = Effort(
    limit_s=1.0,
    write_rounds=6,
    read_rounds=8,
    scan_rounds=4,
    run_documents=1_000,
    run_turns=4,
    run_saves=500,
    thread_rounds=4,
    thread_saves=200,
    batch_rounds=3,
    history_lines=20_000,
    history_rounds=20,
    import_rounds=5,
)
