# SPDX-License-Identifier: Apache-2.0
"""The results of the tools. Clients read the field names and descriptions."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from waggle_fsstore.domain.duration import format_timeout
from waggle_fsstore.domain.environment import Environment, Runtime, Status
from waggle_fsstore.domain.event import Event, EventKind
from waggle_fsstore.domain.execution import Execution, Stop
from waggle_fsstore.domain.workspace_file import FileEntry
from waggle_fsstore.service.bulk_removal import Outcome
from waggle_fsstore.service.error_text import document_in, reason_of


def _inline_enum(values: type[StrEnum]) -> WithJsonSchema:
    """Return the JSON schema of an enum, written out at each use.

    With a ``$ref`` instead, a client takes a third longer to validate a result, and some
    clients do not follow references.
    """
    return WithJsonSchema({"type": "string", "enum": [value.value for value in values]})


RuntimeName: TypeAlias = Annotated[Runtime, _inline_enum(Runtime)]
_StatusName: TypeAlias = Annotated[Status, _inline_enum(Status)]
_EventKindName: TypeAlias = Annotated[EventKind, _inline_enum(EventKind)]


class _Result(BaseModel):
    """A result, whose schema has no description: ``python -OO`` would drop the docstring."""

    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("description", None))


class EnvironmentInfo(_Result):
    """An environment."""

    environment_id: str = Field(description="The id to pass to all other tools.")
    name: str
    runtime: RuntimeName
    status: _StatusName = Field(description="Only a running environment can be used.")
    status_reason: str = Field(description="Why the status is error, or why a removal failed.")
    created_at: datetime
    last_used: datetime
    timeout: str = Field(
        description="The idle timeout, such as 30m0s, or never. An environment that is idle for "
        "longer is removed with its files."
    )
    labels: dict[str, str] = Field(description="Its labels; pip=yes is that of with_pip.")
    ssh_port: int = Field(description="A reserved port (0: none). The server does not use it.")
    workspace: str = Field(
        description="The home directory of the environment, as its programs see it; empty for one "
        "of another host."
    )
    host: str = Field(description="The host that has its files; empty where there is only one.")

    @classmethod
    def of(cls, environment: Environment, workspace: str, host: str) -> Self:
        """Return what a client sees of an environment whose files are in ``workspace``."""
        return cls(
            environment_id=environment.id,
            name=environment.name,
            runtime=environment.runtime,
            status=environment.status,
            status_reason=environment.status_reason,
            created_at=environment.created_at,
            last_used=environment.last_used,
            timeout=format_timeout(environment.timeout),
            labels=environment.labels,
            ssh_port=environment.ssh_port,
            # A path may hold bytes that are not UTF-8; JSON text cannot.
            workspace=workspace.encode(errors="replace").decode(),
            host=host,
        )


class Unreadable(_Result):
    """A record that cannot be read. Other environments are unaffected."""

    document: str = Field(description="The file name of the record.")
    reason: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """Return what a client sees of the error: the file name, without its directory."""
        return cls(document=document_in(error), reason=reason_of(error))


class EnvironmentList(_Result):
    """One page of the environments, sorted by id."""

    environments: list[EnvironmentInfo]
    count: int = Field(description="The number of environments on all pages.")
    next: str | None = Field(
        description="Pass this as 'after' to get the next page; null on the last page."
    )
    unreadable: list[Unreadable] = Field(
        description="Records that cannot be read. Only the operator can fix this."
    )


class DestroyResult(_Result):
    """The outcome of destroying an environment."""

    status: _StatusName
    message: str


class BulkDestroyOutcome(_Result):
    """What became of one of the environments that were to be destroyed."""

    environment_id: str
    status: _StatusName
    message: str


class BulkDestroyResult(_Result):
    """The outcome of destroying all environments with some labels."""

    dry_run: bool = Field(description="Whether nothing was destroyed.")
    environments: list[BulkDestroyOutcome] = Field(description="Those that had the labels.")
    count: int = Field(description="Their number: pass it as 'count' to destroy them.")

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], *, dry_run: bool) -> Self:
        """Return what a client sees of the outcomes."""
        environments = [BulkDestroyOutcome(**outcome._asdict()) for outcome in outcomes]
        return cls(dry_run=dry_run, environments=environments, count=len(environments))


class ExecutionResult(_Result):
    """What came of a program."""

    stdout: str
    stderr: str
    exit_code: int = Field(description="0 for success; -1 if it was stopped.")
    duration_ms: int
    truncated: bool = Field(description="Whether the middle of long output is left out.")
    stopped: Annotated[Stop, _inline_enum(Stop)] = Field(
        description="Why it was stopped, with all that it had started; empty if it was not."
    )

    @classmethod
    def of(cls, execution: Execution) -> Self:
        """Return what a client sees of an execution."""
        return cls(
            stdout=execution.stdout,
            stderr=execution.stderr,
            exit_code=execution.exit_code,
            duration_ms=execution.duration_ms,
            truncated=execution.truncated,
            stopped=execution.stopped,
        )


class Written(_Result):
    """A file that was written."""

    status: str
    path: str
    bytes_written: int


class FileContent(_Result):
    """A file, or a part of it."""

    path: str
    content: str
    encoding: str = Field(description="utf-8, or base64 for what is not text.")
    size: int = Field(description="The size of the whole file, in bytes.")
    next_offset: int | None = Field(
        description="Pass this as 'offset' to get what follows; null at the end."
    )


class FileInfo(_Result):
    """An entry of a directory."""

    name: str
    size: int = Field(description="In bytes.")
    is_dir: bool
    mode: str = Field(description="Such as -rw-r--r--; a link begins with l.")
    modified: datetime

    @classmethod
    def of(cls, entry: FileEntry) -> Self:
        """Return what a client sees of an entry."""
        return cls(**entry._asdict())


class FileList(_Result):
    """One page of a directory, by name."""

    path: str
    files: list[FileInfo]
    count: int = Field(description="The number of entries on all pages.")
    next: str | None = Field(
        description="Pass this as 'after' to get the next page; null on the last page."
    )


class HistoryEntry(_Result):
    """One change to an environment."""

    seq: int = Field(description="The sequence number of the change; later ones are greater.")
    cursor: str = Field(description="Pass this as 'after' to get what follows, now or later.")
    at: datetime
    kind: _EventKindName
    status: _StatusName | None = Field(
        description="The status after the change; null for a deletion."
    )
    previous_status: _StatusName | None
    actor: str
    reason: str

    @classmethod
    def of(cls, event: Event) -> Self:
        """Return what a client sees of an event."""
        return cls(
            seq=event.seq,
            cursor=event.cursor,
            at=event.at,
            kind=event.kind,
            status=event.status,
            previous_status=event.previous_status,
            actor=event.actor,
            reason=event.reason,
        )


class History(_Result):
    """The history of an environment, oldest change first."""

    environment_id: str
    events: list[HistoryEntry]
    count: int = Field(description="The number of all events after 'after', on all pages.")
    next: str | None = Field(
        description="Pass this as 'after' to get the next page; null on the last page."
    )

    @classmethod
    def of(cls, environment_id: str, events: Iterable[Event], limit: int) -> Self:
        """Return the first ``limit`` events, and the number of all of them."""
        entries = [HistoryEntry.of(event) for event in events]
        page, count = entries[:limit], len(entries)
        following = page[-1].cursor if len(page) < count else None
        return cls(environment_id=environment_id, events=page, count=count, next=following)
