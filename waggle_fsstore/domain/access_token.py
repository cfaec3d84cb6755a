# SPDX-License-Identifier: Apache-2.0
"""Access tokens: the secrets that callers of a server present, and the text that lists them."""

import re
from dataclasses import dataclass, field, replace
from typing import Final, Self

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

# The word after a token that may only read.
_READ_ONLY: Final = "read"

# Visible ASCII, which a header can carry. Nothing that is shorter is safe from guessing.
_SECRET: Final = re.compile(r"[!-~]{16,1000}")


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token: the name of its holder, "" for none, and the SHA-256 digest of the secret.

    The secret itself is not kept, so nothing can show it. One that ``is_read_only`` opens the page
    and the metrics, and calls nothing.
    """

    name: str
    digest: bytes = field(repr=False)
    is_read_only: bool = False

    @classmethod
    def parse(cls, secret: str, name: str = "") -> Self:
        """Return the token with this secret. Raises ``ValueError``, which does not show it."""
        if not _SECRET.fullmatch(secret):
            raise ValueError(
                "is not a token of 16 to 1000 characters, all visible ASCII: "
                "make one with 'openssl rand -hex 32'"
            )
        return cls(name, digest_of(secret))


@dataclass(frozen=True, slots=True)
class ClusterToken:
    """The secret that the servers of one store share. It is kept, because they send it.

    It has no representation.
    """

    secret: str = field(repr=False)

    @classmethod
    def parse(cls, secret: str) -> Self:
        """Return the token with this secret, see :meth:`AccessToken.parse`."""
        AccessToken.parse(secret)
        return cls(secret)

    @property
    def received(self) -> AccessToken:
        """The token as the server that receives it compares it."""
        return AccessToken.parse(self.secret)


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 digest of a secret."""
    from hashlib import sha256  # Takes 2 ms, and only servers with tokens need it.

    return sha256(secret.encode()).digest()


def parse_tokens(text: str) -> tuple[AccessToken, ...]:
    """Return the tokens in a text that has one ``NAME TOKEN`` or ``NAME TOKEN read`` a line.

    Blank lines and lines that begin with ``#`` do not count. Raises ``ValueError``, which gives
    the number of the line and shows nothing of it, for any other line, for a name or a token
    that is there twice, and for a text without tokens.
    """
    tokens: list[AccessToken] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[2:] not in ([], [_READ_ONLY]) or len(words) < 2 or not _NAME.fullmatch(words[0]):
            raise ValueError(
                f"line {number} is not NAME TOKEN, with a name of 1 to 64 letters, digits and "
                f".-_, and {_READ_ONLY!r} after a token that may only read"
            )
        try:
            token = AccessToken.parse(words[1], words[0])
        except ValueError as error:
            raise ValueError(f"the second word of line {number} {error}") from None
        if any(token.name == one.name or token.digest == one.digest for one in tokens):
            raise ValueError(f"line {number} repeats a name or a token: give each holder its own")
        tokens.append(replace(token, is_read_only=len(words) > 2))
    if not tokens:
        raise ValueError("there is no token: write one NAME TOKEN a line")
    return tuple(tokens)
