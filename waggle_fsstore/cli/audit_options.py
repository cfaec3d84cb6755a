# SPDX-License-Identifier: Apache-2.0
"""The options ``--actor`` and ``--reason`` of every verb that writes."""

from collections.abc import Callable
from typing import TypeVar

import click

from waggle_fsstore.cli.store_option import usage_errors
from waggle_fsstore.domain.audit import audit

_Verb = TypeVar("_Verb", bound=Callable[..., object])

#: The option of a verb that uses an environment: the history says what was done, without a reason.
actor_option = click.option(
    "--actor", metavar="WHO", help="Who made the change. Default: user@host."
)


def audit_options(verb: _Verb) -> _Verb:
    """Give a verb both options."""
    verb = click.option("--reason", metavar="TEXT", help="Why the change was made.")(verb)
    return actor_option(verb)


def audit_as(actor: str | None, reason: str | None = None) -> audit:
    """Return the audit block for a change. A value that no history accepts is a usage error."""
    with usage_errors():
        return audit(actor=actor, reason=reason)
