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

# How long the watcher waits for a change that is committed to be published.
_PUBLISH_TRIES: Final = 20
_PUBLISH_POLL_S: Final = 0.05

_THREADS: Final = 2

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
    """What the watcher follows. Both methods read files."""

    @property
    def is_ending(self) -> bool:
        """Whether no viewer is to be kept waiting any more."""
        ...

    def latest(self) -> int:
        """Return the number of the last change."""
        ...

    def watch(self, after: int | str, timeout: float) -> Iterator[Event]:
        """Return the events after a cursor, until none has come for ``timeout`` seconds."""
        ...


class Feed:
    """Passes each event of a store on to all viewers. Watches the store while there are any.

    Used by one event loop only; its thread watches.
    """

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._viewers: set[MemoryObjectSendStream[Event]] = set()
        self._lock = asyncio.Lock()
        #: For what reads files, so that no call of a tool waits for viewers.
        self.threads = CapacityLimiter(_THREADS)
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
        what reading the store raises.
        """
        sender, receiver = create_memory_object_stream[Event](MAX_WAITING)
        self._viewers.add(sender)
        try:
            async with self._lock:
                if self._stop is None:
                    await self._begin()
            yield receiver
        finally:
            sender.close()
            receiver.close()
            self._viewers.discard(sender)
            if not self._viewers and self._stop is not None:
                self._stop.set()
                self._stop = None

    async def _begin(self) -> None:
        last = await to_thread.run_sync(self._watched.latest, limiter=self.threads)
        self._stop = stop = threading.Event()
        arguments = (last, stop, asyncio.get_running_loop())
        threading.Thread(
            target=self._watch, args=arguments, name="page-events", daemon=True
        ).start()

    def _watch(
        self, cursor: int | str, stop: threading.Event, loop: asyncio.AbstractEventLoop
    ) -> None:
        """Pass events on until there are no viewers, the server ends, or watching fails."""

        def is_over() -> bool:
            return stop.is_set() or self._watched.is_ending

        with suppress(RuntimeError):  # The loop is closed: the server has ended.
            try:
                while not is_over():
                    for event in self._begin_watching(cursor, stop):
                        cursor = event.cursor or event.seq
                        loop.call_soon_threadsafe(self._publish, event, stop)
                        if is_over():
                            break
            except (WaggleError, OSError, ValueError) as error:
                _log.info("browsers have to connect again: %s", error)
            loop.call_soon_threadsafe(self._end, stop)

    def _begin_watching(self, cursor: int | str, stop: threading.Event) -> Iterator[Event]:
        """Watch from a cursor on; wait a second for the last change to be published."""
        for _ in range(_PUBLISH_TRIES):
            try:
                return self._watched.watch(cursor, _POLL_S)
            except WaggleError:
                raise
            except ValueError:  # It is the number of a change that a writer is just storing.
                stop.wait(_PUBLISH_POLL_S)
        return self._watched.watch(cursor, _POLL_S)

    def _publish(self, event: Event, stop: threading.Event) -> None:
        if stop is not self._stop:
            return  # Another watcher has taken over.
        for sender in self._viewers:
            try:
                sender.send_nowait(event)
            except WouldBlock:
                sender.close()  # What it missed comes when it connects again.
            except (BrokenResourceError, ClosedResourceError):
                pass  # It is just leaving.

    def _end(self, stop: threading.Event) -> None:
        if stop is self._stop:
            self._stop = None
            for sender in self._viewers:
                sender.close()


class EventStream:
    """The response to a viewer. ``after`` is the cursor of the last event that it has seen.

    Ends when ``is_allowed`` returns false, which is noticed with the next event or heartbeat.
    """

    def __init__(
        self,
        feed: Feed,
        store: TransactionalRepository,
        after: str,
        is_allowed: Callable[[], bool],
    ) -> None:
        self._feed = feed
        self._store = store
        self._after = after
        self._is_allowed = is_allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if self._feed.is_full:
            await _refuse(scope, receive, send)
            return
        try:
            async with self._feed.viewer() as events, create_task_group() as tasks:
                tasks.start_soon(_cancel_when_gone, receive, tasks.cancel_scope)
                await self._send_all(events, _Sender(send))
                tasks.cancel_scope.cancel()
        except (WaggleError, OSError) as error:
            _log.info("the events of the page cannot be read: %s", error)
            await _refuse(scope, receive, send)

    async def _send_all(self, events: MemoryObjectReceiveStream[Event], sender: "_Sender") -> None:
        missed = await to_thread.run_sync(
            missed_events, self._store, self._after, limiter=self._feed.threads
        )
        await sender.begin()
        await sender.send(RESET if missed is None else "".join(map(event_text, missed)))
        last = missed[-1].seq if missed else 0
        while sender.is_received:
            event = None
            try:
                with move_on_after(HEARTBEAT_S):
                    event = await events.receive()
            except EndOfStream:
                break
            if not self._is_allowed():
                break
            if event is None:
                await sender.send(_HEARTBEAT)
            elif event.seq > last:
                await sender.send(event_text(event))
        await sender.end()


class _Sender:
    """Sends text to a client, until that takes too long."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_received = True

    async def begin(self) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": list(_HEADERS)}
        await self._send(start)
        await self.send(_BEGINNING)

    async def send(self, text: str, *, is_last: bool = False) -> None:
        if not self.is_received:
            return
        body = {"type": "http.response.body", "body": text.encode(), "more_body": not is_last}
        with move_on_after(_SEND_TIMEOUT_S) as scope:
            await self._send(body)
        self.is_received = not scope.cancelled_caught

    async def end(self) -> None:
        await self.send("", is_last=True)


async def _cancel_when_gone(receive: Receive, scope: CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"Retry-After": str(_RETRY_AFTER_S)}
    body = {"error": "no more streams now: wait, and reload the page to see what is new"}
    await JSONResponse(body, status_code=503, headers=headers)(scope, receive, send)


def missed_events(store: TransactionalRepository, after: str) -> list[Event] | None:
    """Return the events after a cursor, none for "", ``None`` if they cannot be given."""
    if not after:
        return []
    try:
        events = list(islice(store.history(after=after), MAX_WAITING + 1))
    except (WaggleError, OSError, ValueError):
        return None
    return events if len(events) <= MAX_WAITING else None


def event_text(event: Event) -> str:
    """Return an event as the stream has it, with its cursor as the id."""
    data = {
        "seq": event.seq,
        "at": event.at.isoformat(),
        "kind": event.kind,
        "environment_id": event.environment_id,
        "status": event.status,
        "actor": event.actor,
        "reason": event.reason,
    }
    return f"id: {event.cursor or event.seq}\ndata: {json.dumps(data)}\n\n"
