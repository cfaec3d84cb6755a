# SPDX-License-Identifier: Apache-2.0
"""Shell completion of ids, from those in the store."""

import re
from typing import Final

import click
from click.shell_completion import CompletionItem

from waggle_fsstore.cli.exit_codes import EXPECTED
from waggle_fsstore.wiring import open_repository

# The completion functions of the shells evaluate (zsh) or expand (bash) the words they are
# offered, so an id with other characters could run a command. Users have to type such an id.
_is_harmless: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*").fullmatch


def complete_id(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Return the ids that begin with the typed text; none if the store cannot be read."""
    try:
        # Options are parsed but no command runs, so there is no StoreLocation yet.
        with open_repository(ctx.find_root().params.get("store")) as store:
            environments = store.find_all(on_corrupt=lambda _: None)
    except (*EXPECTED, ValueError):
        return []
    ids = (environment.id for environment in environments)
    return [name for name in ids if name.startswith(incomplete) and _is_harmless(name)]


def complete_place(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the ids, each with the colon before a path, after what the shell says of files."""
    ids = complete_id(ctx, param, incomplete)
    return [CompletionItem(incomplete, "file"), *(CompletionItem(f"{one}:") for one in ids)]


def complete_history(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Return the words that can follow the verb ``history``."""
    words = {*complete_id(ctx, param, incomplete), "prune"}
    return sorted(word for word in words if word.startswith(incomplete))
