# SPDX-License-Identifier: Apache-2.0
"""Access to the page: a login or a token opens it, and each response is hardened."""

from http.cookies import CookieError, SimpleCookie
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from waggle_fsstore.server.auth import Authentication, caller_scope
from waggle_fsstore.server.page.logins import Logins

#: The name of the cookie that has the id of a login.
COOKIE: Final = "waggle_login"

#: Paths that need neither login nor token.
OPEN_PATHS: Final = frozenset(
    {"/login", "/logout", "/static/page.css", "/static/page.js", "/favicon.ico"}
)

#: The path of the event stream, which is asked for by a script.
STREAM_PATH: Final = "/stream"

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not no-referrer, with which a form would send the origin "null".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Access:
    """Lets requests with a valid token or login pass; others are sent to the form."""

    def __init__(self, app: ASGIApp, authentication: Authentication, logins: Logins) -> None:
        self._app = app
        self._authentication = authentication
        self._logins = logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        name = self._logins.find(login_id_of(scope))
        if scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
        elif "authorization" in Headers(scope=scope):
            token = self._authentication.token_of(scope)
            if token is None:
                await self._authentication.refuse(scope, receive, send)
            else:
                await self._app(caller_scope(scope, token.name), receive, send)
        elif name is not None:
            await self._app(caller_scope(scope, name), receive, send)
        elif scope["path"] == STREAM_PATH:
            await PlainTextResponse("log in first", status_code=401)(scope, receive, send)
        elif scope["method"] not in ("GET", "HEAD"):
            await self._authentication.refuse(scope, receive, send)
        else:
            await RedirectResponse("login", status_code=303)(scope, receive, send)


def login_id_of(scope: Scope) -> str:
    """Return the id of the login in the cookie of a request, "" without one."""
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load("; ".join(Headers(scope=scope).getlist("cookie")))
    except CookieError:
        return ""
    return cookies[COOKIE].value if COOKIE in cookies else ""


def hardened(app: ASGIApp) -> ASGIApp:
    """Return an application whose responses keep a browser from loading or showing more."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await app(scope, receive, send_with_headers)

    return call
