# SPDX-License-Identifier: Apache-2.0
"""The verbs on events: history, events."""

import errno
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import chain, dropwhile
from typing import Annotated, Final

import typer

from waggle_fsstore.cli import output
from waggle_fsstore.cli.completion import complete_history
from waggle_fsstore.cli.store_option import Target, refusals
from waggle_fsstore.cli.table import STATUS, in_batches, write_table
from waggle_fsstore.domain.duration import parse_duration
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    StoreClosedError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.canonical_json import compact

_HEADER: Final = ("SEQ", "TIME", "KIND", "ID", STATUS, "ACTOR", "REASON")
_FIELDS: Final = tuple(field.name for field in fields(Event))

# Those of a page are aligned, whatever is on the next; one that is followed has one row.
_PAGE: Final = 1_000
# Of a time, an id that the program made, and two statuses: so that most rows fit at once.
_FOLLOWED_WIDTHS: Final = (6, 27, 8, 36, 23)

_After = Annotated[int | None, typer.Option(metavar="SEQ", help="Only those after this change.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON objects, one a line.")]


def history(
    ctx: typer.Context,
    environment_id: Annotated[
        str | None,
        typer.Argument(
            metavar="ID", help="The exact id; all without it.", autocompletion=complete_history
        ),
    ] = None,
    after: _After = None,
    until: Annotated[
        int | None, typer.Option(metavar="SEQ", help="Only those up to this change.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("-n", "--last", metavar="LAST", help="Only the last so many.")
    ] = None,
    json: _Json = False,
) -> None:
    """List what happened, oldest first.

    To all environments or to one, which may be deleted since.
    Off a terminal, tabs separate the columns.
    An id that is a verb of its own follows two dashes: history -- prune.
    """
    if last is not None and last < 1:
        raise typer.BadParameter("is no positive number", param_hint="'-n'")
    target: Target = ctx.obj
    with target.open_to_read() as store:
        with refusals():
            found = store.history(environment_id, after=after or 0, until=until)
        if last is not None:
            found = iter(deque(found, maxlen=last))
        first = next(found, None)
        if first is None and environment_id is not None:
            _refuse_unknown(store, environment_id)
        _write(found if first is None else chain([first], found), json=json)


def events(
    ctx: typer.Context,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with those to come, until Ctrl-C.")
    ] = False,
    after: _After = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Only those from the first one at or after this time, such as "
            "2026-11-22T22:50:01Z, or 10m for so long ago.",
        ),
    ] = None,
    json: _Json = False,
) -> None:
    """List what happened, and with --follow what happens.

    Without --after and --since, --follow begins with what comes next.
    """
    begin = None if since is None else _time(since)
    target: Target = ctx.obj
    with target.open_to_read() as store:
        with refusals():
            if not follow:
                found = store.history(after=after or 0)
            else:
                found = store.watch(after=after if begin is None else after or 0)
                output.when_the_reader_leaves(store.close)
        if begin is not None:
            found = dropwhile(lambda event: event.at < begin, found)
        try:
            _write(found, json=json, follow=follow)
        except StoreClosedError:
            raise BrokenPipeError(errno.EPIPE, "nobody reads") from None


def _refuse_unknown(store: TransactionalRepository, environment_id: str) -> None:
    """Raise :class:`EnvironmentNotFoundError` for an id that never was."""
    try:
        store.find_by_id(environment_id)
    except EnvironmentNotFoundError:
        if next(store.history(environment_id), None) is None:
            raise
    except (CorruptDocumentError, UnsupportedFormatError, OSError):
        pass  # Something is stored under this id.


def _write(found: Iterable[Event], *, json: bool, follow: bool = False) -> None:
    together = 1 if follow else _PAGE
    if json:
        in_batches(map(_line, found), together, lambda page: output.write_json(b"".join(page)))
    else:
        widths = _FOLLOWED_WIDTHS if follow else ()
        write_table(_HEADER, map(_row, found), together=together, widths=widths)


def _row(event: Event) -> Sequence[str]:
    before, after = event.previous_status or "-", event.status or "-"
    return (
        str(event.seq),
        codec.timestamp(event.at),
        event.kind,
        event.environment_id,
        after if before == after else f"{before} -> {after}",
        event.actor,
        event.reason,
    )


def _line(event: Event) -> bytes:
    """All fields of an event, its environment as its document."""
    values = {name: getattr(event, name) for name in _FIELDS}
    values["at"] = codec.timestamp(event.at)
    environment = event.environment
    if environment is not None:
        values["environment"], _ = codec.encode_version(environment, environment.revision)
    return compact(values) + b"\n"


def _time(text: str) -> datetime:
    """The time that a text says, or that was so long ago."""
    try:
        return datetime.now(UTC) - parse_duration(text)
    except ValueError:
        pass
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        raise typer.BadParameter(
            f"{text!r:.100} is neither a time like 2026-11-22T22:50:01Z nor a duration like 10m",
            param_hint="'--since'",
        ) from None
    if time.tzinfo is None:
        raise typer.BadParameter(
            f"{text!r:.100} lacks its offset: append Z for UTC", param_hint="'--since'"
        )
    return time
