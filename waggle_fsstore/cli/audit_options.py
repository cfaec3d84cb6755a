# SPDX-License-Identifier: Apache-2.0
"""Who makes a change, and why: the options of every verb that writes."""

from typing import Annotated

import typer

from waggle_fsstore.cli.store_option import refusals
from waggle_fsstore.domain.audit import audit

Actor = Annotated[
    str | None,
    typer.Option(metavar="WHO", help="Who makes the change, for the history; else user@host."),
]
Reason = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Why the change is made, for the history.")
]


def author(actor: str | None, reason: str | None) -> audit:
    """The block to make the change in. What no history keeps is a usage error."""
    with refusals():
        return audit(actor=actor, reason=reason)
