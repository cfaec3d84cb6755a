# SPDX-License-Identifier: Apache-2.0
"""The stream of events to browsers: one watcher of the store for all viewers."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Final, Protocol

from anyio import (
    BrokenResourceError,
    CancelScope,
    CapacityLimiter,
    ClosedResourceError,
    EndOfStream,
    WouldBlock,
    create_memory_object_stream,
    create_task_group,
    move_on_after,
    to_thread,
)
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from waggle_fsstore.domain.errors import WaggleError
from waggle_fsstore.domain.event import Event
from waggle_fsstore.domain.repository import TransactionalRepository

#: How many viewers there may be.
MAX_STREAMS: Final = 50

#: When to try again without a free place.
_RETRY_AFTER_S: Final = 30

#: A comment is sent this often: proxies give up on a silent response, and a client that is gone
#: without a word is noticed.
HEARTBEAT_S: Final = 15.0

# How long a viewer may take to receive something.
_SEND_TIMEOUT_S: Final = 30.0

# How soon the watcher notices that the server is ending.
_POLL_S: Final = 0.5

#: How many events may wait for a viewer that is slow, and how many a browser that comes back gets.
MAX_WAITING: Final = 1_000

_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
)

# After how many milliseconds a browser connects again.
_BEGINNING: Final = "retry: 3000\n\n"
_HEARTBEAT: Final = ": heartbeat\n\n"

#: Says that events may be missing: the browser has to load the page again.
RESET: Final = "event: reset\ndata: {}\n\n"

_log: Final = logging.getLogger(__name__)


class Watched(Protocol):
    """What the watcher follows."""

    @property
    def is_ending(self) -> bool:
        """Whether no viewer is to be kept waiting any more."""
        ...

    def watch(self, after: int | str | None, timeout: float) -> Iterator[Event]:
        """Return the new events."""
        ...


class Feed:
    """Passes each event of a store on to all viewers. Watches the store while there are any.

    Used by one event loop only; its thread watches.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._viewers: set[MemoryObjectSendStream[Event]] = set()
        self._lock = asyncio.Lock()
        # Set when the watcher is to end; ``None`` without a watcher.
        self._stop: threading.Event | None = None

    @property
    def is_full(self) -> bool:
        """Whether there are as many viewers as there may be."""
        return len(self._viewers) >= MAX_STREAMS

    @asynccontextmanager
    async def viewer(self) -> AsyncIterator[MemoryObjectReceiveStream[Event]]:
        """Add a viewer for the block; yield what receives each event from then on.

        It ends when the viewer is too slow, and when the store cannot be watched any more. Raises
        what watching raises.
        """
        sender, receiver = create_memory_object_stream[Event](MAX_WAITING)
        self._viewers.add(sender)
        try:
            async with self._lock:
                if self._stop is None:
                    await self._begin()
            yield receiver
        finally:
            self._remove(sender)
            receiver.close()
            if not self._viewers and self._stop is not None:
                self._stop.set()
                self._stop = None

    async def _begin(self) -> None:
        events = await to_thread.run_sync(self._watched.watch, None, _POLL_S)
        self._stop = stop = threading.Event()
        loop = asyncio.get_running_loop()
        target = self._watch
        threading.Thread(
            target=target, args=(events, stop, loop), name="page-events", daemon=True
        ).start()

    def _watch(
        self, events: Iterator[Event], stop: threading.Event, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Pass events on until there are no viewers, the server ends, or watching fails."""
        cursor: int | str | None = None
        with suppress(RuntimeError):  # The loop is closed: the server has ended.
            try:
                while not (stop.is_set() or self._watched.is_ending):
                    for event in events:
                        cursor = event.cursor or event.seq
                        loop.call_soon_threadsafe(self._publish, event, stop)
                        if stop.is_set() or self._watched.is_ending:
                            break
                    else:
                        events = self._continue(events, cursor)
            except (WaggleError, OSError) as error:
                _log.info("the events of the page end: %s", error)
            loop.call_soon_threadsafe(self._end, stop)

    def _continue(self, events: Iterator[Event], cursor: int | str | None) -> Iterator[Event]:
        """Return what watches on after nothing came for a while."""
        return self._watched.watch(cursor, _POLL_S)

    def _publish(self, event: Event, stop: threading.Event) -> None:
        if stop is not self._stop:
            return  # Another watcher has taken over.
        for sender in list(self._viewers):
            try:
                sender.send_nowait(event)
            except (WouldBlock, BrokenResourceError):
                self._remove(sender)

    def _end(self, stop: threading.Event) -> None:
        if stop is self._stop:
            self._stop = None
            for sender in list(self._viewers):
                sender.close()

    def _remove(self, sender: MemoryObjectSendStream[Event]) -> None:
        sender.close()
        self._viewers.discard(sender)
