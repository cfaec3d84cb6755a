# SPDX-License-Identifier: Apache-2.0
"""The views: what each path of the page answers. All of them only read."""

import logging
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, NamedTuple

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from waggle_fsstore.domain.environment import Environment, Status
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, WaggleError
from waggle_fsstore.domain.event import EventKind
from waggle_fsstore.server.page import trail
from waggle_fsstore.server.page.difference import document
from waggle_fsstore.server.page.query import InvalidQueryError, number_in, trail_in
from waggle_fsstore.server.page.source import Source
from waggle_fsstore.server.page.templates import render

#: The number of environments on a page.
ENVIRONMENTS_PAGE_SIZE: Final = 100

# The number of events on the first page.
_NEWEST: Final = 10

# Views wait for each other, and never take up the threads of calls.
_THREADS: Final = 2

_log: Final = logging.getLogger(__name__)


class EnvironmentRow(NamedTuple):
    """What the list says of an environment; ``maker`` is "" if that is not known."""

    environment: Environment
    host: str
    time_left: timedelta | None
    maker: str

    @property
    def expires(self) -> bool:
        """Whether its idle time counts."""
        return self.environment.status in (Status.RUNNING, Status.ERROR)


class NotFoundError(Exception):
    """What a link names is not kept, or never was."""


class Views:
    """Answers requests, each in a thread."""

    def __init__(self, source: Source, *, has_logins: bool) -> None:
        self._source = source
        self._has_logins = has_logins
        self._threads = CapacityLimiter(_THREADS)

    async def overview(self, request: Request) -> Response:
        """Answer with health, environments and the newest events."""
        return await self._answer(self._overview, request)

    async def environment(self, request: Request) -> Response:
        """Answer with one environment and its events."""
        return await self._answer(self._environment, request)

    async def events(self, request: Request) -> Response:
        """Answer with the audit trail."""
        return await self._answer(self._events, request)

    async def event(self, request: Request) -> Response:
        """Answer with one event, and what it changed."""
        return await self._answer(self._event, request)

    async def _answer(
        self, view: Callable[[Mapping[str, str]], tuple[str, dict[str, Any]]], request: Request
    ) -> Response:
        work = partial(self._page, view, request.query_params)
        return await to_thread.run_sync(work, limiter=self._threads)

    def _page(
        self,
        view: Callable[[Mapping[str, str]], tuple[str, dict[str, Any]]],
        query: Mapping[str, str],
    ) -> Response:
        status = 200
        try:
            template, values = view(query)
        except InvalidQueryError as error:
            status, template, values = 400, "error.html", {"message": str(error)}
        except NotFoundError as error:
            status, template, values = 404, "error.html", {"message": str(error)}
        except (WaggleError, OSError) as error:
            _log.warning("the page cannot be shown: %s", error)
            message = "The store cannot be read now; the log says why."
            status, template, values = 503, "error.html", {"message": message}
        values = {"now": self._source.now(), "has_logins": self._has_logins, **values}
        response = HTMLResponse(render(template, **values), status_code=status)
        self._source.makers.read_on()  # Now, so that it does not delay this view.
        return response

    def _overview(self, query: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        source = self._source
        cursor = source.latest()
        newest = trail.search(source.store, size=_NEWEST)
        stored, unreadable = source.environments()
        # What is used comes first, what is idle last.
        stored.sort(key=lambda one: (one.last_used, one.id), reverse=True)
        pages = max(1, math.ceil(len(stored) / ENVIRONMENTS_PAGE_SIZE))
        number = min(number_in(query, "page", 1), pages)
        first = (number - 1) * ENVIRONMENTS_PAGE_SIZE
        return "overview.html", {
            "rows": self._rows(stored[first : first + ENVIRONMENTS_PAGE_SIZE]),
            "count": len(stored),
            "first": first,
            "number": number,
            "pages": pages,
            "health": source.health(stored, unreadable),
            "newest": newest.entries,
            "cursor": cursor,
        }

    def _rows(self, stored: list[Environment]) -> list[EnvironmentRow]:
        makers = self._source.makers.by_id()
        return [
            EnvironmentRow(
                one,
                self._source.host_of(one),
                self._source.time_left(one),
                makers.get(one.id, ""),
            )
            for one in stored
        ]

    def _environment(self, query: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        wanted, before = trail_in({**query, "environment": query.get("id", "")})
        environment_id = query.get("id", "")
        if not environment_id:
            raise InvalidQueryError("id: the id of an environment is missing")
        cursor = self._source.latest()
        page = trail.search(self._source.store, wanted, before=before)
        found, problem = None, ""
        try:
            found = self._source.find(environment_id)
        except EnvironmentNotFoundError:
            if not page.entries and page.is_full and before is None:
                raise NotFoundError(
                    "No environment has this id, and the history has none."
                ) from None
        except (WaggleError, OSError) as error:
            problem = self._source.describe(error)
        return "environment.html", {
            "id": environment_id,
            "row": None if found is None else self._rows([found])[0],
            "problem": problem,
            "document": document(found),
            "page": page,
            "cursor": cursor,
        }

    def _events(self, query: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        wanted, before = trail_in(query)
        cursor = self._source.latest()
        page = trail.search(self._source.store, wanted, before=before)
        return "events.html", {
            "wanted": wanted,
            "before": before,
            "kinds": [kind.value for kind in EventKind],
            "page": page,
            "parameters": {
                "environment": query.get("environment", ""),
                "actor": wanted.actor,
                "kind": query.get("kind", ""),
                "since": _as_input(wanted.since),
                "until": _as_input(wanted.until),
            },
            # A new event is none of an older page.
            "cursor": cursor if before is None else None,
        }

    def _event(self, query: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
        seq = number_in(query, "seq", 0)
        entry = trail.find(self._source.store, seq)
        if entry is None:
            raise NotFoundError(f"The history has no change {seq}: it may have been pruned.")
        return "event.html", {"entry": entry, "cursor": None}


def _as_input(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%S}"
