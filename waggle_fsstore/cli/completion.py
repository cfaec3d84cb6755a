# SPDX-License-Identifier: Apache-2.0
"""What the shell offers for an id: those in the store."""

import re
from typing import Final

import typer

from waggle_fsstore.cli.exit_codes import EXPECTED
from waggle_fsstore.wiring import open_repository

# The shells' completion functions evaluate what they are given (zsh) or expand it (bash):
# an id of any other kind could run a command. Such an id must be typed.
_is_harmless: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*").fullmatch


def complete_id(ctx: typer.Context, incomplete: str) -> list[str]:
    """The ids that begin with what was typed so far; none where the store cannot be read."""
    try:
        # Options are parsed but no command runs, so that there is no Target yet.
        with open_repository(ctx.find_root().params.get("store")) as store:
            environments = store.find_all(on_corrupt=lambda _: None)
    except (*EXPECTED, ValueError):
        return []
    ids = (environment.id for environment in environments)
    return [name for name in ids if name.startswith(incomplete) and _is_harmless(name)]


def complete_history(ctx: typer.Context, incomplete: str) -> list[str]:
    """What can follow the verb ``history``."""
    words = {*complete_id(ctx, incomplete), "prune"}
    return sorted(word for word in words if word.startswith(incomplete))
