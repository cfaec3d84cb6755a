# SPDX-License-Identifier: Apache-2.0
"""The results of the conformance tool, compared with the expected failures."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Statuses that must be expected: the tool's own comparison counts warnings too.
_BAD: Final = frozenset({"FAILURE", "WARNING"})


@dataclass(frozen=True)
class Check:
    """One check of a scenario."""

    scenario: str
    name: str
    status: str

    @property
    def is_bad(self) -> bool:
        """Whether the check must be listed as an expected failure."""
        return self.status in _BAD

    def __str__(self) -> str:
        return f"{self.scenario}:{self.name}"


def read_checks(results: Path) -> list[Check]:
    """Return all checks of a run, from the directory that the tool wrote."""
    return [
        Check(_scenario(path.parent.name), check["id"], check["status"])
        for path in sorted(results.glob("*/checks.json"))
        for check in json.loads(path.read_text(encoding="utf-8"))
    ]


def _scenario(directory: str) -> str:
    """Return the scenario of a directory, which the tool names ``server-SCENARIO-TIME``."""
    return re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\dZ-]*$", "", directory)


def entries(expected: str) -> set[str]:
    """Return the entries of a list of expected failures: its ``- SCENARIO:CHECK`` lines."""
    return set(re.findall(r"^\s*- (\S+)", expected, re.MULTILINE))


def unused(expected: str, checks: list[Check]) -> list[str]:
    """Return the entries whose check did not fail. The tool accepts those that never ran."""
    return sorted(entries(expected) - {str(check) for check in checks if check.is_bad})


def summary(checks: list[Check]) -> str:
    """Return two lines about a run whose failures are all expected."""
    scenarios = {check.scenario for check in checks}
    failed = {check.scenario for check in checks if check.is_bad}
    return (
        f"{len(scenarios - failed)} of {len(scenarios)} scenarios passed, the others failed as "
        f"expected; of their checks {sum(check.status == 'SUCCESS' for check in checks)} passed, "
        f"{sum(check.is_bad for check in checks)} failed as expected\n"
        f"  passed: {' '.join(sorted(scenarios - failed))}"
    )
