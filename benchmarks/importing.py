# SPDX-License-Identifier: Apache-2.0
"""The import: its time compared with that of its dependencies, and the modules it loads."""

import json
import subprocess
import sys
from typing import Final, NamedTuple

from benchmarks.timing import Samples

DEPENDENCIES: Final = "its three dependencies"
EVERYTHING: Final = "all of its public names"

FORBIDDEN: Final = ("asyncio", "click", "mcp", "pytest", "rich", "typer")

# The package imports each name when it is first used, so a bare import would measure nothing.
_STATEMENTS: Final = {
    DEPENDENCIES: "import filelock, orjson, platformdirs",
    EVERYTHING: "from waggle_fsstore import *",
}

_PROGRAM: Final = """
import time
begin = time.perf_counter_ns()
{statement}
spent = time.perf_counter_ns() - begin
import json, sys
print(json.dumps([spent, [name for name in {forbidden} if name in sys.modules]]))
"""


class ImportCost(NamedTuple):
    """The times of each import, in fresh processes, and the forbidden modules that were loaded."""

    samples: Samples
    forbidden: list[str]


def measure(rounds: int) -> ImportCost:
    """Measure both imports in turns, each time in a fresh process, from existing bytecode."""
    samples: Samples = {name: [] for name in _STATEMENTS}
    forbidden: set[str] = set()
    names = list(_STATEMENTS)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            spent, found = _run(_STATEMENTS[name])
            if name == EVERYTHING:
                forbidden.update(found)
            if number > 0:  # The first import may have compiled the bytecode.
                samples[name].append(spent)
    return ImportCost(samples, sorted(forbidden))


def _run(statement: str) -> tuple[int, list[str]]:
    program = _PROGRAM.format(statement=statement, forbidden=FORBIDDEN)
    done = subprocess.run(  # noqa: S603  # This interpreter runs the program above.
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    spent, found = json.loads(done.stdout)
    return int(spent), list(found)
