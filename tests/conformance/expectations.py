# SPDX-License-Identifier: Apache-2.0
"""What the conformance tool found, and what of it was expected."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: What the tool holds against a server: its own comparison counts warnings, too.
_BAD: Final = frozenset({"FAILURE", "WARNING"})


@dataclass(frozen=True)
class Check:
    """One thing that a scenario looked at."""

    scenario: str
    name: str
    status: str

    @property
    def is_bad(self) -> bool:
        """Whether it must be expected."""
        return self.status in _BAD

    def __str__(self) -> str:
        return f"{self.scenario}:{self.name}"


def read_checks(results: Path) -> list[Check]:
    """All checks of a run, from the folder that the tool wrote."""
    return [
        Check(_scenario(path.parent.name), check["id"], check["status"])
        for path in sorted(results.glob("*/checks.json"))
        for check in json.loads(path.read_text(encoding="utf-8"))
    ]


def _scenario(folder: str) -> str:
    """The tool names a folder ``server-SCENARIO-TIME``."""
    return re.sub(r"^server-|-\d{4}-\d\d-\d\dT[\dZ-]*$", "", folder)


def entries(expected: str) -> set[str]:
    """The entries of a list of expected failures: ``- SCENARIO:CHECK`` lines."""
    return set(re.findall(r"^\s*- (\S+)", expected, re.MULTILINE))


def unused(expected: str, checks: list[Check]) -> list[str]:
    """The entries that excuse nothing: the tool forgives those whose check it did not come to."""
    return sorted(entries(expected) - {str(check) for check in checks if check.is_bad})


def summary(checks: list[Check]) -> str:
    """A run whose failures are all expected, in two lines."""
    scenarios = {check.scenario for check in checks}
    failed = {check.scenario for check in checks if check.is_bad}
    return (
        f"{len(scenarios - failed)} of {len(scenarios)} scenarios passed, the others failed as "
        f"expected; of their checks {sum(check.status == 'SUCCESS' for check in checks)} passed, "
        f"{sum(check.is_bad for check in checks)} failed as expected\n"
        f"  passed: {' '.join(sorted(scenarios - failed))}"
    )
