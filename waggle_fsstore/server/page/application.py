# SPDX-License-Identifier: Apache-2.0
"""The page as an application: its paths, the form to log in, and who gets to see what."""

import logging
import math
from typing import Final
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle_fsstore.server.auth import Authentication
from waggle_fsstore.server.page.access import (
    COOKIE,
    OPEN_PATHS,
    STREAM_PATH,
    Access,
    hardened,
    login_id_of,
)
from waggle_fsstore.server.page.logins import LIFETIME_S, Logins
from waggle_fsstore.server.page.source import Source
from waggle_fsstore.server.page.stream import EventStream, Feed
from waggle_fsstore.server.page.templates import STATIC_FILES, compile_all, render, static_file
from waggle_fsstore.server.page.views import Views

#: The paths that are the page's.
PATHS: Final = frozenset({"/", "/environment", "/events", "/event", STREAM_PATH, *OPEN_PATHS})

# A form has one token, of 1,000 characters at most, each of which may be percent-encoded.
_MAX_FORM_BYTES: Final = 4_096

# The URL of a file changes with its contents.
_CACHED: Final = "public, max-age=86400, immutable"

_WRONG: Final = "This token is not valid."
_TOO_MANY: Final = "Too many attempts without a valid token: wait a minute, or give a valid one."

_log: Final = logging.getLogger(__name__)


def with_page(
    app: ASGIApp,
    source: Source,
    authentication: Authentication | None,
    logins: Logins | None = None,
) -> ASGIApp:
    """Return an application that also has the page; all other paths are those of ``app``.

    With ``authentication``, the page needs a token or a login.
    """
    page = page_of(source, authentication, logins or Logins())

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"] in PATHS
        await (page if is_page else app)(scope, receive, send)

    return route


def page_of(source: Source, authentication: Authentication | None, logins: Logins) -> ASGIApp:
    """Return the page alone."""
    compile_all()
    views = Views(source, has_logins=authentication is not None)
    forms = _Forms(authentication, logins)
    feed = Feed(source)

    async def stream(request: Request) -> Response | EventStream:
        if request.method == "HEAD":
            return Response()
        after = request.headers.get("last-event-id", request.query_params.get("after", ""))
        login_id = login_id_of(request.scope)
        needs_login = authentication is not None and "authorization" not in request.headers
        return EventStream(
            feed,
            source.store,
            after,
            lambda: not needs_login or logins.find(login_id) is not None,
        )

    app = Starlette(
        routes=[
            Route("/", views.overview),
            Route("/environment", views.environment),
            Route("/events", views.events),
            Route("/event", views.event),
            Route(STREAM_PATH, stream),
            Route("/login", forms.show_login),
            Route("/login", forms.login, methods=["POST"]),
            Route("/logout", forms.logout, methods=["POST"]),
            Route("/static/{name}", _static),
            Route("/favicon.ico", _no_icon),
        ]
    )
    return hardened(app if authentication is None else Access(app, authentication, logins))


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    headers = {"Cache-Control": _CACHED}
    return Response(static_file(name), media_type=STATIC_FILES[name], headers=headers)


async def _no_icon(_: Request) -> Response:
    """Answer browsers that ask for an icon though no page names one."""
    return Response(status_code=204)


class _Forms:
    """The forms that begin and end a login."""

    def __init__(self, authentication: Authentication | None, logins: Logins) -> None:
        self._authentication = authentication
        self._logins = logins

    async def show_login(self, _: Request) -> Response:
        if self._authentication is None:
            return RedirectResponse("./", status_code=303)
        return _login_form()

    async def login(self, request: Request) -> Response:
        """Exchange a token for a cookie, which is no token."""
        if self._authentication is None:
            return RedirectResponse("./", status_code=303)
        token = self._authentication.token_with(await _token_in(request))
        if token is None:
            wait_s = self._authentication.failures.add(
                request.client.host if request.client else ""
            )
            if wait_s > 0:
                headers = {"Retry-After": str(math.ceil(wait_s))}
                return _login_form(_TOO_MANY, status=429, headers=headers)
            return _login_form(_WRONG, status=401, headers={"WWW-Authenticate": "Bearer"})
        self._logins.end(login_id_of(request.scope))
        response = RedirectResponse("./", status_code=303)
        response.set_cookie(
            COOKIE,
            self._logins.begin(token.name),
            max_age=int(LIFETIME_S),
            secure=is_https(request),
            httponly=True,
            samesite="strict",
        )
        _log.info("%s logged in to the page", token.name or "the holder of the token")
        return response

    async def logout(self, request: Request) -> Response:
        """End the login of the browser."""
        self._logins.end(login_id_of(request.scope))
        response = RedirectResponse("login", status_code=303)
        response.delete_cookie(COOKIE, secure=is_https(request), httponly=True, samesite="strict")
        return response


def is_https(request: Request) -> bool:
    """Return whether a browser sent a form by HTTPS, as it or a proxy before this server says."""
    return (
        request.url.scheme == "https"
        or request.headers.get("origin", "").startswith("https://")
        or request.headers.get("x-forwarded-proto", "").lower() == "https"
    )


async def _token_in(request: Request) -> str:
    """Return the token in a form, "" for anything else."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MAX_FORM_BYTES:
            return ""
    try:
        found = parse_qs(body.decode(errors="replace"), max_num_fields=1)
    except ValueError:
        return ""
    return found.get("token", [""])[0].strip()


def _login_form(
    message: str = "", status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    page = render("login.html", message=message)
    return HTMLResponse(page, status_code=status, headers=headers)
