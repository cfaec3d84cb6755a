# SPDX-License-Identifier: Apache-2.0
"""The evaluation of the conformance tool's results."""

import json
from pathlib import Path

from tests.conformance.expectations import Check, entries, read_checks, summary, unused

_EXPECTED = Path(__file__).parent / "expected-failures.yaml"

_CHECKS = [
    Check("ping", "ping", "SUCCESS"),
    Check("tools-call-audio", "tools-call-audio", "FAILURE"),
    Check("tools-call-audio", "wire-schema-valid", "SUCCESS"),
    Check("server-sse-polling", "server-sse-retry-field", "WARNING"),
]


def test_results_name_their_scenario(tmp_path: Path) -> None:
    """The scenario is the name of the directory, without the parts that the tool adds."""
    directory = tmp_path / "server-server-sse-polling-2026-11-23T04-01-43-389Z"
    directory.mkdir()
    checks = [{"id": "server-sse-retry-field", "status": "WARNING"}]
    (directory / "checks.json").write_text(json.dumps(checks))
    assert read_checks(tmp_path) == [_CHECKS[3]]


def test_unused_entries_are_reported() -> None:
    """An entry is used if its check failed or warned, not if it passed or never ran."""
    used = "server:\n  # why\n  - tools-call-audio:tools-call-audio # why\n"
    assert unused(used + "  - server-sse-polling:server-sse-retry-field\n", _CHECKS) == []
    assert unused(used + "  - ping:ping\n  - gone:gone\n", _CHECKS) == ["gone:gone", "ping:ping"]


def test_summary_counts_scenarios_and_checks() -> None:
    """A scenario passed if none of its checks failed or warned."""
    assert summary(_CHECKS) == (
        "1 of 3 scenarios passed, the others failed as expected; of their checks 2 passed, "
        "2 failed as expected\n  passed: ping"
    )


def test_only_single_checks_are_excused() -> None:
    """No entry excuses a whole scenario: its other checks must pass."""
    listed = entries(_EXPECTED.read_text(encoding="utf-8"))
    assert listed
    assert [entry for entry in listed if ":" not in entry] == []
