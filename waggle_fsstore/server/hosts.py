# SPDX-License-Identifier: Apache-2.0
"""Host names and origins: by which names, and from which web pages, clients may call."""

import re
from ipaddress import ip_address
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle_fsstore.config import Settings

#: The paths for monitoring, which calls a server by whatever address it has.
HEALTH_PATHS: Final = ("/healthz", "/readyz")

_LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")

# Addresses to listen at, not to connect to.
_WILDCARDS: Final = ("", "0.0.0.0", "::")  # noqa: S104

# Clients leave out the default port of the scheme.
_DEFAULT_PORTS: Final = ("80", "443")

_HOST: Final = re.compile(r"(?P<name>\[[^\]]*\]|[^:\[\]]+)(?::(?P<port>\d*))?", re.ASCII)


class Host(NamedTuple):
    """A host name or address in the form in which it is compared, and its port, "" for none."""

    name: str
    port: str

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the host of a URL or of a header, ``None`` if the text is none."""
        found = _HOST.fullmatch(text)
        if found is None:
            return None
        name = found["name"].lower()
        try:
            # An address has several spellings.
            address = ip_address(name.strip("[]"))
            name = f"[{address}]" if address.version == 6 else str(address)
        except ValueError:
            name = name.removesuffix(".")
        return cls(name, found["port"] or "")


class AllowedHosts:
    """The loopback names, the configured ones, and the one that the server listens at.

    Those that are configured include the one by which other hosts call this one.
    """

    def __init__(self, settings: Settings) -> None:
        names = [*_LOOPBACK_NAMES, *configured_hosts(settings)]
        if settings.host not in _WILDCARDS:
            names.append(settings.host)
        self._hosts = {Host.parse(in_brackets(name)) for name in names}

    def allows(self, text: str) -> bool:
        """Return whether clients may call the server by this host name, with or without a port."""
        host = Host.parse(text)
        if host is None:
            return False
        ports = [host.port] if host.port else _DEFAULT_PORTS
        return any(Host(host.name, port) in self._hosts for port in ("", *ports))


class Guard:
    """Refuses requests to a host name or from an origin that is not allowed.

    This protects against a web page that makes a browser call this server by another name
    (https://en.wikipedia.org/wiki/DNS_rebinding). Health paths answer to every name: they
    reveal nothing.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._hosts = AllowedHosts(settings)
        self._origins = settings.allowed_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        refusal = self._refusal(scope) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        if scope["path"] not in HEALTH_PATHS and not self._hosts.allows(headers.get("host", "")):
            return PlainTextResponse(_text("Host", "WAGGLE_ALLOWED_HOSTS"), status_code=421)
        origin = headers.get("origin")
        if origin is not None and not self._allows_origin(origin):
            return PlainTextResponse(_text("Origin", "WAGGLE_ALLOWED_ORIGINS"), status_code=403)
        return None

    def _allows_origin(self, origin: str) -> bool:
        scheme, _, host = origin.partition("://")
        is_known = scheme in ("http", "https") and self._hosts.allows(host)
        return is_known or origin.lower() in self._origins


def _text(header: str, setting: str) -> str:
    return f"Invalid {header} header: this server answers only what the operator allows ({setting})"


def in_brackets(host: str) -> str:
    """Return the host as it is written in a URL: an IPv6 address is put in brackets."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


def configured_hosts(settings: Settings) -> tuple[str, ...]:
    """Return the allowed hosts, and at the end that of ``WAGGLE_HOST_URL``, if there is one."""
    own = urlsplit(settings.host_url).netloc
    return (*settings.allowed_hosts, own) if own else settings.allowed_hosts


def url_host(settings: Settings, port: int) -> str:
    """Return host and port of a URL that reaches the server and is allowed."""
    is_wildcard = settings.host in _WILDCARDS
    host = in_brackets(configured_hosts(settings)[0] if is_wildcard else settings.host)
    parsed = Host.parse(host)
    return host if parsed and parsed.port else f"{host}:{port}"
