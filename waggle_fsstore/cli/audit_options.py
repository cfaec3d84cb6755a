# SPDX-License-Identifier: Apache-2.0
"""The options ``--actor`` and ``--reason`` of every verb that writes."""

from typing import Annotated

import typer

from waggle_fsstore.cli.store_option import usage_errors
from waggle_fsstore.domain.audit import audit

Actor = Annotated[
    str | None,
    typer.Option(metavar="WHO", help="Who made the change. Default: user@host."),
]
Reason = Annotated[str | None, typer.Option(metavar="TEXT", help="Why the change was made.")]


def audit_as(actor: str | None, reason: str | None) -> audit:
    """Return the audit block for a change. A value that no history accepts is a usage error."""
    with usage_errors():
        return audit(actor=actor, reason=reason)
