# SPDX-License-Identifier: Apache-2.0
"""Connections by TLS: a certificate that is right is used, and any other is refused and told.

The servers of the tests have no TLS: a proxy terminates it before them.
"""

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
pytest.importorskip("trustme", reason="needs the package trustme")

import trustme

from tests.store.postgres.servers import Server
from waggle_fsstore import StoreUnavailableError
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment

# https://www.postgresql.org/docs/current/protocol-message-formats.html
_SSL_REQUEST = struct.pack("!ii", 8, 80_877_103)


class Terminator:
    """Accepts connections by TLS, and passes on what is in them to a server."""

    def __init__(self, context: ssl.SSLContext, server: Path) -> None:
        self.handshakes = 0
        self._context = context
        self._server = str(server / ".s.PGSQL.5432")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                accepted, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[accepted], daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError), plain:
            while plain.recv(8) != _SSL_REQUEST:
                plain.sendall(b"N")  # It asks for other encryption first.
            plain.sendall(b"S")
            with (
                self._context.wrap_socket(plain, server_side=True) as client,
                socket.socket(socket.AF_UNIX) as server,
            ):
                self.handshakes += 1
                server.connect(self._server)
                back = threading.Thread(target=_pass_on, args=[server, client], daemon=True)
                back.start()
                _pass_on(client, server)
                back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """Return an authority, whose certificate is in the file ``ca.pem``."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return authority


@pytest.fixture
def terminator(authority: trustme.CA, server: Server) -> Iterator[Terminator]:
    """Return a proxy whose certificate is for ``localhost``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    terminator = Terminator(context, server.directory)
    yield terminator
    terminator.close()


def url_of(terminator: Terminator, server: Server, root: Path, host: str = "localhost") -> str:
    address = f"{host}:{terminator.port}/{server.database}"
    options = f"hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={root}"
    return f"postgresql://waggle@{address}?{options}"


def test_store_works_by_tls(terminator: Terminator, server: Server, tmp_path: Path) -> None:
    """Name and authority of the certificate are checked, and everything is encrypted."""
    url = url_of(terminator, server, tmp_path / "ca.pem")
    with PostgresStore(url, durable=False) as store:
        assert store.save(make_environment(id="a")) == 1
        assert store.find_by_id("a").revision == 1
        assert [event.seq for event in store.history()] == [1]
    assert terminator.handshakes > 0


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_wrong_certificate_is_told(
    terminator: Terminator, server: Server, tmp_path: Path, wrong: str
) -> None:
    """A server that cannot show who it is gets no change, and the error says what to check."""
    root, host = tmp_path / "ca.pem", "localhost"
    if wrong == "authority":
        root = tmp_path / "other.pem"
        trustme.CA().cert_pem.write_to_path(root)
    else:
        host = "db.example"
    with (
        PostgresStore(url_of(terminator, server, root, host), durable=False, timeout=0.5) as store,
        pytest.raises(StoreUnavailableError, match="check sslrootcert, and that the URL has"),
    ):
        store.save(make_environment())
    with PostgresStore(server.url, durable=False) as store:
        assert store.count() == 0
