# SPDX-License-Identifier: Apache-2.0
"""The tools that work inside an environment: programs, packages and files."""

import base64
import binascii
import hashlib
from bisect import bisect_right
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from mcp.server.mcpserver.exceptions import ToolError

from waggle_fsstore.domain.environment import Runtime
from waggle_fsstore.domain.execution import MAX_PACKAGES, Execution
from waggle_fsstore.domain.workspace_file import MAX_FILE_BYTES
from waggle_fsstore.server.arguments import Choice, Text, Texts, WholeNumber
from waggle_fsstore.server.models import ExecutionResult, FileContent, FileInfo, FileList, Written
from waggle_fsstore.server.tool import Call, as_actor
from waggle_fsstore.service.environments import EnvironmentService

#: The longest code of a call, in characters. As in Waggle.
MAX_CODE_CHARACTERS: Final = 512_000

_MAX_PATH_CHARACTERS: Final = 4_096

# How much of a file is returned at once, by default and at most, in bytes.
_READ_BYTES: Final = 256 * 1024
_MAX_READ_BYTES: Final = MAX_FILE_BYTES

_LIST_SIZE: Final = 200
_MAX_LIST_SIZE: Final = 1_000

# A character of UTF-8 that the end of a part has cut begins at most this many bytes before it.
_MAX_CUT_BYTES: Final = 3

Id = Annotated[str, Text(description="The environment_id that create_environment returned.")]
_Path = Annotated[
    str,
    Text(
        description="A path in the environment, relative to its home directory, or absolute.",
        max_length=_MAX_PATH_CHARACTERS,
    ),
]


class Encoding(StrEnum):
    """How the content of a file is given as text."""

    UTF_8 = "utf-8"
    BASE64 = "base64"


class WorkspaceTools:
    """The tools over one service; see :class:`Tools`."""

    def __init__(
        self, service: EnvironmentService, default_timeout: timedelta, max_timeout: timedelta
    ) -> None:
        self._workspaces = service.workspaces
        self._default_timeout = default_timeout
        self._max_timeout = max_timeout

    def execute(
        self,
        call: Call,
        environment_id: Id,
        code: Annotated[
            str, Text(description="The code, run as a file.", max_length=MAX_CODE_CHARACTERS)
        ],
        language: Annotated[
            Runtime | None,
            Choice(description="Default: the runtime of the environment.", values=Runtime),
        ] = None,
        timeout_seconds: Annotated[
            int | None,
            WholeNumber(
                description="After this time everything that the code started is stopped. "
                "Default: 30, at most 300, or what the operator set.",
                low=1,
            ),
        ] = None,
    ) -> ExecutionResult:
        """Run code in an environment."""
        timeout = self._default_timeout
        if timeout_seconds is not None:
            # Longer ones are shortened, as in Waggle.
            longest = self._max_timeout // timedelta(seconds=1)
            timeout = timedelta(seconds=min(timeout_seconds, longest))
        digest = hashlib.sha256(code.encode(errors="replace")).hexdigest()
        call.entry.fields |= {
            "language": language or "",
            "code_bytes": len(code.encode(errors="replace")),
            "code_sha256": digest,
        }
        with as_actor(call):
            result = self._workspaces.execute(
                environment_id,
                code,
                language=language,
                timeout=timeout,
                is_cancelled=lambda: call.cancellation.is_requested,
            )
        return _result(call, result)

    def install_packages(
        self,
        call: Call,
        environment_id: Id,
        packages: Annotated[
            list[str],
            Texts(
                description="Names, such as 'requests' or 'requests>=2,<3' (pip), or 'left-pad' "
                "or 'left-pad@1.3.0' (npm).",
                max_count=MAX_PACKAGES,
            ),
        ],
    ) -> ExecutionResult:
        """Install packages in an environment."""
        call.entry.fields["packages"] = len(packages)
        with as_actor(call):
            try:
                result = self._workspaces.install(
                    environment_id, packages, is_cancelled=lambda: call.cancellation.is_requested
                )
            except ValueError as error:
                raise ToolError(str(error)) from None
        return _result(call, result)

    def write_file(
        self,
        call: Call,
        environment_id: Id,
        path: _Path,
        content: Annotated[
            str, Text(description="The whole content; an existing file is overwritten.")
        ],
        encoding: Annotated[
            Encoding,
            Choice(description="base64 for what is not text.", values=Encoding),
        ] = Encoding.UTF_8,
    ) -> Written:
        """Write a file of an environment."""
        try:
            data = _encoded(content, encoding)
        except ValueError as error:
            raise ToolError(str(error)) from None
        with as_actor(call):
            size = self._workspaces.write(environment_id, path, data)
        call.entry.fields["bytes"] = size
        return Written(status="written", path=path, bytes_written=size)

    def read_file(
        self,
        call: Call,
        environment_id: Id,
        path: _Path,
        offset: Annotated[
            int, WholeNumber(description="The byte to begin with: 'next_offset'.", low=0)
        ] = 0,
        limit: Annotated[
            int,
            WholeNumber(
                description="How many bytes to return at most.", low=4, high=_MAX_READ_BYTES
            ),
        ] = _READ_BYTES,
    ) -> FileContent:
        """Read a file of an environment, or a part of it."""
        with as_actor(call):
            part = self._workspaces.read(environment_id, path, offset=offset, limit=limit)
        is_end = offset + len(part.content) >= part.size
        data, text = _decoded(part.content, is_end=is_end)
        encoding = Encoding.BASE64 if text is None else Encoding.UTF_8
        return FileContent(
            path=path,
            content=base64.b64encode(data).decode() if text is None else text,
            encoding=encoding,
            size=part.size,
            next_offset=None if is_end or not data else offset + len(data),
        )

    def list_files(
        self,
        call: Call,
        environment_id: Id,
        path: _Path = ".",
        limit: Annotated[
            int,
            WholeNumber(description="The maximum number to return.", low=1, high=_MAX_LIST_SIZE),
        ] = _LIST_SIZE,
        after: Annotated[
            str | None, Text(description="The value of 'next' on the previous page.")
        ] = None,
    ) -> FileList:
        """List a directory of an environment."""
        with as_actor(call):
            entries = self._workspaces.entries(environment_id, path)
        start = 0 if after is None else bisect_right(entries, after, key=lambda one: one.name)
        page = entries[start : start + limit]
        return FileList(
            path=path,
            files=[FileInfo.of(entry) for entry in page],
            count=len(entries),
            next=page[-1].name if start + limit < len(entries) else None,
        )


def _result(call: Call, result: Execution) -> ExecutionResult:
    call.entry.fields |= {"exit_code": result.exit_code, "stopped": result.stopped}
    return ExecutionResult.of(result)


def _encoded(content: str, encoding: Encoding) -> bytes:
    """Return the bytes of a content. Raises ``ValueError`` with what is wrong with it."""
    if encoding is Encoding.UTF_8:
        try:
            return content.encode()
        except UnicodeEncodeError:
            raise ValueError("content has a lone surrogate, which no text has") from None
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("content is not base64") from None


def _decoded(data: bytes, *, is_end: bool) -> tuple[bytes, str | None]:
    """Return what to give of a part of a file, and its text, ``None`` if it is no text.

    A character that the end of the part has cut is left for the next part.
    """
    for cut in range(1 if is_end else _MAX_CUT_BYTES + 1):
        whole = data[: len(data) - cut]
        try:
            return whole, whole.decode()
        except UnicodeDecodeError:
            continue
    return data, None
