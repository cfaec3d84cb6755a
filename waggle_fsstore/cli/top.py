# SPDX-License-Identifier: Apache-2.0
"""The verb top: a live view of the environments and of the last changes."""

import select
import shutil
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.environment_ids import ShortIds
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.relative_time import short_duration, until_expiry
from waggle_fsstore.cli.store_option import StoreLocation
from waggle_fsstore.cli.table import STATUS, table_lines
from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import HistoryLostError, HistoryPrunedError
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository

_HEADER: Final = ("ID", "NAME", "RUNTIME", STATUS, "AGE", "USED", "EXPIRES", "REASON")
_EVENTS_HEADER: Final = ("SEQ", "AGE", "KIND", "ID", STATUS, "ACTOR", "REASON")

# The share of the screen that the last changes take, and their number.
_EVENTS_SHARE: Final = 3
_MAX_EVENTS: Final = 100

# Codes of ECMA-48 and of xterm: another screen, without a cursor, drawn from its top left.
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_CLEAR_LINE: Final = "\x1b[K"
_CLEAR_BELOW: Final = "\x1b[J"


@click.command(help=HELP["top"])
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="The time between two looks.",
)
@click.pass_obj
def top(location: StoreLocation, interval: float) -> None:
    """Show environments and changes, live."""
    if not (output.is_terminal() and sys.stdin is not None and sys.stdin.isatty()):
        raise click.UsageError("top needs a terminal: use ls, or events --follow")
    with location.open_to_read() as store, _screen() as keyboard:
        changes = _LastChanges(store)
        while True:
            output.write(_picture(store, changes))
            ready, _, _ = select.select([keyboard], [], [], interval)
            # The end of the input too: the terminal is gone.
            if ready and sys.stdin.read(1) in ("q", "Q", ""):
                return


@contextmanager
def _screen() -> Iterator[int]:
    """Show another screen during the block, and take each key at once; yield the keyboard."""
    import termios  # Not on Windows, where the other verbs work.
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    try:
        tty.setcbreak(keyboard)
        output.write(_ENTER)
        yield keyboard
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        output.write(_LEAVE)


class _LastChanges:
    """The last changes of a store: the first look reads a few, a later one what is new."""

    def __init__(self, store: TransactionalRepository) -> None:
        self._store = store
        self._events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self._cursor: int | str = max(0, getattr(store, "last_change", int)() - _MAX_EVENTS)

    def newest(self, count: int) -> list[Event]:
        """Return the newest changes, the last one first."""
        try:
            self._read(self._cursor)
        except HistoryPrunedError as error:
            self._read(error.oldest - 1)
        except HistoryLostError:  # An older state was put back, or no change has this number.
            self._events.clear()
            self._read(0)
        return list(self._events)[: -count - 1 : -1]

    def _read(self, after: int | str) -> None:
        for event in self._store.history(after=after):
            self._events.append(event)
            self._cursor = event.cursor


def _picture(store: TransactionalRepository, changes: _LastChanges) -> str:
    """Return what is drawn: a line about the store, the environments, the last changes."""
    lines = shutil.get_terminal_size().lines
    broken: list[Exception] = []
    stored = store.find_all(on_corrupt=broken.append)
    now = datetime.now(UTC)
    events = changes.newest(max(1, lines // _EVENTS_SHARE - 2))
    ids = ShortIds(one.id for one in stored)
    # Most recently used first: what is idle is at the end.
    found = sorted(stored, key=lambda one: (one.last_used, one.id), reverse=True)
    room = max(1, lines - len(events) - 5)
    shown = [_row(one, ids.of(one.id), now) for one in found[:room]]
    drawn = [_summary(stored, broken), "", *table_lines(_HEADER, shown)]
    drawn += [""] * (room + 3 - len(drawn))
    drawn += table_lines(_EVENTS_HEADER, [_event_row(one, ids, now) for one in events])
    body = "".join(f"{line}{_CLEAR_LINE}\n" for line in drawn[: lines - 1])
    return f"{_HOME}{body}{_CLEAR_BELOW}"


def _summary(stored: Sequence[Environment], broken: Sequence[Exception]) -> str:
    counts = Counter(one.status for one in stored)
    parts = [f"{counts[status]} {status}" for status in Status if counts[status]]
    if broken:
        parts.append(f"{len(broken)} unreadable: see waggle-fsstore fsck")
    return f"{len(stored)} environments: {', '.join(parts) or 'none'}  (q: quit)"


def _row(environment: Environment, shown_id: str, now: datetime) -> Sequence[str]:
    return (
        shown_id,
        environment.name,
        environment.runtime,
        environment.status,
        short_duration(now - environment.created_at),
        short_duration(now - environment.last_used),
        until_expiry(environment, now),
        environment.status_reason,
    )


def _event_row(event: Event, ids: ShortIds, now: datetime) -> Sequence[str]:
    return (
        str(event.seq),
        short_duration(now - event.at),
        event.kind,
        ids.of(event.environment_id),
        event.status or "",
        event.actor,
        event.reason,
    )
