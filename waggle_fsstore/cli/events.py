# SPDX-License-Identifier: Apache-2.0
"""The verbs on events: history, events."""

import errno
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from itertools import chain, dropwhile
from typing import Final

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.completion import complete_history
from waggle_fsstore.cli.environment_ids import ShortIds, full_id
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.parse import parse_time, whole_number
from waggle_fsstore.cli.relative_time import short_duration
from waggle_fsstore.cli.store_option import StoreLocation, usage_errors
from waggle_fsstore.cli.table import STATUS, in_batches, no_trunc_option, write_table
from waggle_fsstore.domain.errors import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    StoreClosedError,
    UnsupportedFormatError,
)
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.store.format import canonical_json, codec
from waggle_fsstore.store.format.canonical_json import compact

_HEADER: Final = ("SEQ", "TIME", "KIND", "ID", STATUS, "ACTOR", "REASON")
_TERMINAL_HEADER: Final = ("SEQ", "AGE", "KIND", "ID", STATUS, "ACTOR", "REASON")
_FIELDS: Final = tuple(field.name for field in fields(Event))

# The columns of a page are aligned. With --follow, a page is a single row.
_PAGE_SIZE: Final = 1_000
# Wide enough for a time, a short id and two statuses, so that most rows are aligned.
_FOLLOW_WIDTHS: Final = (6, 8, 7, 8, 23)

_after_option = click.option(
    "--after", metavar="CURSOR", help="Only events after this one: its cursor or SEQ."
)
_json_option = click.option("--json", is_flag=True, help="Print one JSON object per line.")


@click.command(help=HELP["history"])
@click.argument(
    "environment_id",
    metavar="ID",
    required=False,
    help="Id, or a unique prefix of it. Default: all.",
    shell_complete=complete_history,
)
@_after_option
@click.option("--until", metavar="SEQ", type=whole_number, help="Only events up to this change.")
@click.option("-n", "--last", metavar="LAST", type=whole_number, help="Only the last LAST events.")
@_json_option
@no_trunc_option
@click.pass_obj
def history(
    location: StoreLocation,
    environment_id: str | None,
    after: str | None,
    until: int | None,
    last: int | None,
    json: bool,
    no_trunc: bool,
) -> None:
    """List the changes to one environment, or to all."""
    if last is not None and last < 1:
        raise click.BadParameter("must be at least 1", param_hint="'-n'")
    with location.open_to_read() as store:
        if environment_id is not None:
            environment_id = full_id(store, environment_id, is_in_history=True)
        with usage_errors():
            found = store.history(environment_id, after=after or 0, until=until)
        if last is not None:
            found = iter(deque(found, maxlen=last))
        first = next(found, None)
        if first is None and environment_id is not None:
            _require_known_id(store, environment_id)
        found = found if first is None else chain([first], found)
        _write(found, store, json=json, no_trunc=no_trunc)


@click.command(help=HELP["events"])
@click.option("--follow", "-f", is_flag=True, help="Wait for new events, until Ctrl-C.")
@_after_option
@click.option(
    "--since",
    metavar="TIME",
    help="Start at the first event at or after TIME, such as 2026-11-22T22:50:01Z, or 10m for "
    "ten minutes ago.",
)
@_json_option
@no_trunc_option
@click.pass_obj
def events(
    location: StoreLocation,
    follow: bool,
    after: str | None,
    since: str | None,
    json: bool,
    no_trunc: bool,
) -> None:
    """List all changes; with --follow, new ones as they happen."""
    begin = None if since is None else parse_time(since)
    with location.open_to_read() as store:
        with usage_errors():
            if not follow:
                found = store.history(after=after or 0)
            else:
                found = store.watch(after=after if begin is None else after or 0)
                output.on_broken_pipe(store.close)
        if begin is not None:
            found = dropwhile(lambda event: event.at < begin, found)
        try:
            _write(found, store, json=json, no_trunc=no_trunc, follow=follow)
        except StoreClosedError:
            raise BrokenPipeError(errno.EPIPE, "the reader of standard output is gone") from None


def _require_known_id(store: TransactionalRepository, environment_id: str) -> None:
    """Raise :class:`EnvironmentNotFoundError` for an id that was never stored."""
    try:
        store.find_by_id(environment_id)
    except EnvironmentNotFoundError:
        if next(store.history(environment_id), None) is None:
            raise
    except (CorruptDocumentError, UnsupportedFormatError, OSError):
        pass  # Something is stored under this id.


def _write(
    found: Iterable[Event],
    store: TransactionalRepository,
    *,
    json: bool,
    no_trunc: bool,
    follow: bool = False,
) -> None:
    page_size = 1 if follow else _PAGE_SIZE
    if json:
        in_batches(map(_line, found), page_size, lambda page: output.write_json(b"".join(page)))
    elif not output.is_terminal():
        write_table(_HEADER, map(_row, found), page_size=page_size)
    else:
        ids = ShortIds(one.id for one in store.find_all(on_corrupt=lambda _: None))
        shorten = (lambda whole: whole) if no_trunc else ids.of
        write_table(
            _HEADER if follow else _TERMINAL_HEADER,
            (_terminal_row(event, shorten(event.environment_id), follow) for event in found),
            page_size=page_size,
            widths=_FOLLOW_WIDTHS if follow else (),
            is_cut=not no_trunc,
        )


def _terminal_row(event: Event, shown_id: str, follow: bool) -> Sequence[str]:
    seq, _, kind, _, *others = _row(event)
    age = short_duration(datetime.now(UTC) - event.at)
    time = f"{event.at.astimezone():%H:%M:%S}" if follow else age
    return (seq, time, kind, shown_id, *others)


def _row(event: Event) -> Sequence[str]:
    before, after = event.previous_status or "-", event.status or "-"
    return (
        str(event.seq),
        canonical_json.timestamp(event.at),
        event.kind,
        event.environment_id,
        after if before == after else f"{before} -> {after}",
        event.actor,
        event.reason,
    )


def _line(event: Event) -> bytes:
    """Return the event as a line of JSON, with its environment as a document."""
    values = {name: getattr(event, name) for name in _FIELDS}
    values["at"] = canonical_json.timestamp(event.at)
    environment = event.environment
    if environment is not None:
        values["environment"], _ = codec.encode_version(environment, environment.revision)
    return compact(values) + b"\n"
