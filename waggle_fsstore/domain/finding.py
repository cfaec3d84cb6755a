# SPDX-License-Identifier: Apache-2.0
"""Findings: what is noteworthy about the files of a store, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """How bad a finding is: only an error means that something is lost, broken or unreadable."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found: where, what, and what to do about it.

    ``is_repaired`` says that it was done: then ``remedy`` is what.
    """

    severity: Severity
    path: Path
    problem: str
    remedy: str
    is_repaired: bool = False

    def __str__(self) -> str:
        remedy = f"repaired: {self.remedy}" if self.is_repaired else self.remedy
        return f"{self.severity}: {self.path}: {self.problem} ({remedy})"
