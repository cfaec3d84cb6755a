# SPDX-License-Identifier: Apache-2.0
"""Findings of a check: problems with the files of a store, and their remedies."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """How bad a finding is; an error means lost, broken or unreadable data."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem: the file, what is wrong with it, and what to do about it.

    Where ``is_repaired``, ``remedy`` is what was done.
    """

    severity: Severity
    path: Path
    problem: str
    remedy: str
    is_repaired: bool = False

    def __str__(self) -> str:
        remedy = f"repaired: {self.remedy}" if self.is_repaired else self.remedy
        return f"{self.severity}: {self.path}: {self.problem} ({remedy})"
