# SPDX-License-Identifier: Apache-2.0
"""No program gets out of its sandbox, over a limit, or survives its end."""

import os
from pathlib import Path

import pytest

from tests.provider.sandbox import batch
from tests.provider.sandbox.attacks import ATTACKS, Attack
from tests.provider.sandbox.batch import Result
from tests.provider.sandbox.programs import PROGRAMS, Program
from waggle_fsstore import Runtime

# Found out here, before a fault is planted.
pytestmark = pytest.mark.skipif(bool(batch.why_unavailable()), reason=batch.why_unavailable())

IS_ROOT = os.geteuid() == 0

_results: dict[str, Result] = {}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_attack_is_held(attack: Attack, tmp_path: Path) -> None:
    """A program reaches nothing of the host, and nothing of another environment."""
    if not _results:  # They all run in one execution.
        _results.update(batch.run_attacks(tmp_path))
    result = _results[attack.name]
    assert result.is_held, result.text


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_program_is_held(program: Program, tmp_path: Path) -> None:
    """A program stays within its limits, and nothing that it starts outlives it."""
    if program.needs_full and not batch.IS_FULL:
        pytest.skip("needs WAGGLE_TEST_ATTACKS=full")
    result = batch.run_program(tmp_path, program)
    assert result.is_held, result.text


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
@pytest.mark.longest
def test_attacks_on_plain_user_are_held() -> None:
    """A server without privileges holds all attacks as well."""
    with batch.open_to_all() as directory:
        try:
            results = batch.run_all_as_plain_user(directory)
        except LookupError as error:
            pytest.skip(error.args[0])
    succeeded = {name: result.text for name, result in results.items() if not result.is_held}
    assert succeeded == {}


@pytest.mark.skipif(not IS_ROOT, reason="needs a server that runs as root")
def test_programs_are_not_root(tmp_path: Path) -> None:
    """What a program makes belongs to a user of its own, where root runs the server."""
    shell = batch.environment("a", Runtime.SHELL)
    with batch.opened(tmp_path / "root") as place:
        place.provider.create(shell)
        assert place.execute(shell, "touch made", Runtime.SHELL).exit_code == 0
        status = (place.home(shell) / "made").stat()
    assert status.st_uid >= 524_288
    assert status.st_gid >= 524_288


def test_page_lists_attacks() -> None:
    """The page has each attack that is run without a long wait, and none that failed."""
    page = Path(__file__).parents[3] / "docs" / "attacks.md"
    rows = [line.split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    slow = {program.name for program in PROGRAMS if program.needs_full}
    assert [row[0].removeprefix("| ") for row in rows[2:]] == [
        name for name in batch.NAMES if name not in slow
    ]
    assert all(cell.startswith("held: ") for row in rows[2:] for cell in row[1:])
