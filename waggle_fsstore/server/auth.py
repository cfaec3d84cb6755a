# SPDX-License-Identifier: Apache-2.0
"""Authentication over HTTP: which token a request has, and what one without any gets."""

import hmac
import logging
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle_fsstore.domain.access_token import AccessToken, digest_of
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.server.hosts import HEALTH_PATHS

_MAX_FAILURES: Final = 10
_FAILURES_WINDOW_S: Final = 60.0

#: The number of addresses whose failures are remembered, less than 1 MB in all.
_MAX_ADDRESSES: Final = 1_000

#: Where the name of a request's token is in its scope.
_CALLER: Final = "waggle_fsstore.caller"

#: Where the actor of a request from another server of the store is in its scope, "" if it has none.
_ACTOR: Final = "waggle_fsstore.actor"

#: The header that names the actor of a call which another server passes on, percent-encoded.
ACTOR_HEADER: Final = "Waggle-Actor"

_MAX_ACTOR_LENGTH: Final = 200

#: Where a token that may only read is enough, beside the page.
_READABLE: Final = frozenset({"/metrics"})

_UNAUTHORIZED: Final = (
    "this server needs a token: send the header 'Authorization: Bearer TOKEN', with a token from "
    "its operator (WAGGLE_AUTH_TOKEN)"
)
_READ_ONLY: Final = (
    "this token may only read: it opens the page and the metrics; ask the operator for another one"
)
_TOO_MANY: Final = "too many requests without a valid token: wait, or send a valid one"

_log: Final = logging.getLogger(__name__)


def caller_of(request: Any) -> str:
    """Return the name of the token that a request came with, "" if there is none."""
    # Over standard input there is no request.
    name: str = getattr(request, "scope", {}).get(_CALLER, "")
    return name


def caller_scope(scope: Scope, name: str) -> Scope:
    """Return the scope of a request that comes with a token of this name."""
    return {**scope, _CALLER: name}


def forwarded_actor_of(request: Any) -> str:
    """Return the actor for whom another server of the store passes a call on, "" if none does."""
    actor: str = getattr(request, "scope", {}).get(_ACTOR, "")
    return actor


def is_forwarded(request: Any) -> bool:
    """Return whether another server passes this call on, or the caller says that one does."""
    scope = getattr(request, "scope", None)
    return scope is not None and (_ACTOR in scope or ACTOR_HEADER in Headers(scope=scope))


class Authentication:
    """Refuses requests without a valid token, before anything of their body is read.

    Health paths need no token: they reveal nothing. A request with the cluster token says for whom
    it is made. Where ``is_optional``, requests without a valid token pass too.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Sequence[AccessToken],
        clock: Callable[[], float] = monotonic,
        *,
        cluster_token: AccessToken | None = None,
        is_optional: bool = False,
    ) -> None:
        self._app = app
        self._tokens = tokens
        self._cluster_token = cluster_token
        self._is_optional = is_optional
        #: Shared by all that check tokens of this server.
        self.failures = Failures(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        secret = _secret(headers)
        token = self._find(secret)
        if token is not None and token.is_read_only and scope["path"] not in _READABLE:
            await JSONResponse({"error": _READ_ONLY}, status_code=403)(scope, receive, send)
        elif token is not None:
            await self._app(caller_scope(scope, token.name), receive, send)
        elif self._is_of_cluster(secret):
            await self._app({**scope, _ACTOR: _actor(headers)}, receive, send)
        elif self._is_optional:
            await self._app(scope, receive, send)
        else:
            await self.refuse(scope, receive, send)

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that has no valid token, and count it."""
        address, _ = scope.get("client") or ("", 0)
        await _refusal(self.failures.add(address))(scope, receive, send)

    def token_of(self, scope: Scope) -> AccessToken | None:
        """Return the token that a request came with, ``None`` if it has no valid one."""
        return self._find(_secret(Headers(scope=scope)))

    def token_with(self, secret: str) -> AccessToken | None:
        """Return the token with a secret, ``None`` if there is none."""
        return self._find(secret)

    def _find(self, secret: str) -> AccessToken | None:
        """Return the token with a secret. How long this takes says nothing about the tokens."""
        digest, found = digest_of(secret), None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        return found

    def _is_of_cluster(self, secret: str) -> bool:
        token = self._cluster_token
        return token is not None and hmac.compare_digest(token.digest, digest_of(secret))


class Failures:
    """The recent failures of each address, of which only the last ``_MAX_ADDRESSES`` count."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, address: str) -> float:
        """Add a failure. Return for how many seconds the address has to wait: mostly 0."""
        now = self._clock()
        times = self._times.setdefault(address, deque(maxlen=_MAX_FAILURES))
        self._times.move_to_end(address)
        if len(self._times) > _MAX_ADDRESSES:
            self._times.popitem(last=False)
        if len(times) == _MAX_FAILURES and (wait := times[0] + _FAILURES_WINDOW_S - now) > 0:
            return wait
        times.append(now)
        if len(times) == _MAX_FAILURES and now - times[0] < _FAILURES_WINDOW_S:
            _log.warning("%d requests from %s had no valid token", _MAX_FAILURES, address)
        return 0


def _secret(headers: Headers) -> str:
    """Return the secret in the header of a request, "" if there is no such header."""
    match [value.split() for value in headers.getlist("authorization")]:
        case [[scheme, secret]] if scheme.lower() == "bearer":
            return secret
    return ""


def _actor(headers: Headers) -> str:
    """Return the actor that a header names, shortened and printable."""
    actor = unquote(headers.get(ACTOR_HEADER, ""))[:_MAX_ACTOR_LENGTH]
    return printable(actor)


def printable(text: str) -> str:
    """Return a text with question marks in place of what cannot be printed."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _refusal(wait_s: float) -> JSONResponse:
    if wait_s > 0:
        headers = {"Retry-After": str(math.ceil(wait_s))}
        return JSONResponse({"error": _TOO_MANY}, status_code=429, headers=headers)
    headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse({"error": _UNAUTHORIZED}, status_code=401, headers=headers)
