# SPDX-License-Identifier: Apache-2.0
"""Connections: clients that send no request, or half of one, lock out nobody."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from waggle_fsstore.server import connections
from waggle_fsstore.server.connections import Connection
from waggle_fsstore.server.http import server_config

REQUEST = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"

#: How long a test waits for what should take no time.
TIMEOUT_S = 5


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def ask(self) -> bytes:
        """Send a request and return the answer, b"" from a closed connection."""
        self.send(REQUEST)
        return await self.answer()

    async def answer(self) -> bytes:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.reader.read(1000)

    async def is_closed(self) -> bool:
        """Wait until the server has closed the connection."""
        async with asyncio.timeout(TIMEOUT_S):
            try:
                return await self.reader.read() == b""
            except ConnectionResetError:  # The server had not read all that was sent.
                return True


class Site:
    """A server of connections, whose answers wait until they may go."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.calls = 0
        self._state = ServerState()
        self._config = server_config(self)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Callable[[], Awaitable[Client]]]:
        """Yield a function that connects a client."""
        self._config.load()
        loop = asyncio.get_running_loop()
        accepted: list[Connection] = []
        clients: list[Client] = []

        def accept() -> Connection:
            accepted.append(Connection(self._config, self._state, {}))
            return accepted[-1]

        async def connect() -> Client:
            clients.append(Client(*await asyncio.open_connection(*address)))
            while len(accepted) < len(clients) or accepted[-1].client is None:
                await asyncio.sleep(0)
            return clients[-1]

        server = await loop.create_server(accept, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        try:
            yield connect
        finally:
            server.close()
            for client in clients:
                client.writer.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        while (await receive()).get("more_body"):
            pass
        self.calls += 1
        await self.may_answer.wait()
        headers = [(b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST / HTT",
        REQUEST[:-4],
        REQUEST[:-1],
        REQUEST[:-2].replace(b"Content-Length: 2", b"Transfer-Encoding: chunked") + b"1\r\n{\r\n",
    ],
    ids=["nothing", "a line", "a head", "a body", "a chunk"],
)
@pytest.mark.parametrize("is_first", [True, False], ids=["first", "second"])
def test_half_open_connection_is_closed(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, is_first: bool
) -> None:
    """A request that does not arrive whole in time ends its connection."""
    monkeypatch.setattr(connections, "_REQUEST_TIMEOUT_S", 0.05)

    async def wait() -> bool:
        site = Site()
        async with site.serving() as connect:
            client = await connect()
            if not is_first:
                assert (await client.ask()).endswith(b"ok")
                # Until its first byte a second request may take as long as it likes.
            client.send(sent if is_first else sent or REQUEST[:1])
            return await client.is_closed()

    assert asyncio.run(wait())


def test_slow_request_gets_no_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client cannot hold its connection by one byte now and then."""
    monkeypatch.setattr(connections, "_REQUEST_TIMEOUT_S", 0.05)

    async def drip() -> bool:
        async with Site().serving() as connect:
            client = await connect()
            closing = asyncio.create_task(client.is_closed())
            client.send(b"POST / HTTP/1.1\r\nX: ")
            while not closing.done():
                client.send(b"x")
                await asyncio.sleep(0.01)
            return await closing

    assert asyncio.run(drip())


def test_call_in_progress_has_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may take longer than a request may."""
    monkeypatch.setattr(connections, "_REQUEST_TIMEOUT_S", 0.05)

    async def ask() -> bytes:
        site = Site()
        site.may_answer.clear()
        async with site.serving() as connect:
            client = await connect()
            asyncio.get_running_loop().call_later(0.1, site.may_answer.set)
            return await client.ask()

    assert asyncio.run(ask()).endswith(b"ok")


def test_longest_idle_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of too many connections the one closes that has been idle for the longest time."""
    monkeypatch.setattr(connections, "_MAX_CONNECTIONS", 3)

    async def connect_too_often() -> None:
        async with Site().serving() as connect:
            first, second, third = [await connect() for _ in range(3)]
            assert (await first.ask()).endswith(b"ok")
            second.send(b"POST")
            fourth = await connect()
            assert await second.is_closed()
            fifth = await connect()
            assert await third.is_closed()
            for client in (first, fourth, fifth):
                assert (await client.ask()).endswith(b"ok")

    asyncio.run(connect_too_often())


def test_busy_connections_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection closes if all the others have a call in progress."""
    monkeypatch.setattr(connections, "_MAX_CONNECTIONS", 2)

    async def connect_too_often() -> None:
        site = Site()
        site.may_answer.clear()
        async with site.serving() as connect:
            busy = [await connect() for _ in range(2)]
            answers = [asyncio.create_task(client.ask()) for client in busy]
            while site.calls < 2:
                await asyncio.sleep(0)
            assert await (await connect()).is_closed()
            site.may_answer.set()
            for answer in answers:
                assert (await answer).endswith(b"ok")
            assert (await (await connect()).ask()).endswith(b"ok")

    asyncio.run(connect_too_often())


def test_idle_connection_outlasts_its_client() -> None:
    """The client is the one that closes, so that no request gets lost."""
    config = server_config(Site())
    assert config.timeout_keep_alive > 600
    assert config.http is Connection
