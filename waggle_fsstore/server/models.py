# SPDX-License-Identifier: Apache-2.0
"""What the tools answer with: the names and fields of Waggle."""

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Self, TypeAlias

from pydantic import BaseModel, Field, WithJsonSchema

from waggle_fsstore.domain.duration import format_duration
from waggle_fsstore.domain.environment import Environment, Runtime, Status
from waggle_fsstore.domain.event import Event, EventKind
from waggle_fsstore.service.error_text import document_in, reason_of


def _in_place(values: type[StrEnum]) -> WithJsonSchema:
    """The schema of some words where they are used.

    A reference to one takes the client's check of an answer a third more time, and not
    every client follows it.
    """
    return WithJsonSchema({"type": "string", "enum": [value.value for value in values]})


RuntimeWord: TypeAlias = Annotated[Runtime, _in_place(Runtime)]
_StatusWord: TypeAlias = Annotated[Status, _in_place(Status)]
_KindWord: TypeAlias = Annotated[EventKind, _in_place(EventKind)]


class EnvironmentInfo(BaseModel):
    """One environment."""

    environment_id: str = Field(description="The handle to use in all other calls.")
    name: str
    runtime: RuntimeWord
    status: _StatusWord = Field(description="Only one that is running can be used.")
    status_reason: str = Field(description="Why it is in status error, or could not be removed.")
    created_at: datetime
    last_used: datetime
    timeout: str = Field(description="It is removed after so long without use, such as 30m0s.")
    ssh_port: int = Field(description="The port reserved for it; 0 for none.")
    workspace: str = Field(description="Its folder on the machine of the server.")

    @classmethod
    def of(cls, environment: Environment, workspace: str) -> Self:
        """What a client gets to know of an environment."""
        return cls(
            environment_id=environment.id,
            name=environment.name,
            runtime=environment.runtime,
            status=environment.status,
            status_reason=environment.status_reason,
            created_at=environment.created_at,
            last_used=environment.last_used,
            timeout=format_duration(environment.timeout),
            ssh_port=environment.ssh_port,
            # A path need not be text, and an answer has to be.
            workspace=workspace.encode(errors="replace").decode(),
        )


class Unreadable(BaseModel):
    """A document that cannot be read. It harms no other environment."""

    document: str = Field(description="The name of its file.")
    reason: str

    @classmethod
    def of(cls, error: Exception) -> Self:
        """What a client may know of it: no path."""
        return cls(document=document_in(error), reason=reason_of(error))


class EnvironmentList(BaseModel):
    """A page of the environments, sorted by id."""

    environments: list[EnvironmentInfo]
    count: int = Field(description="How many there are, on all pages.")
    next: str | None = Field(description="Give it as 'after' to get the next page.")
    unreadable: list[Unreadable] = Field(description="Documents that only an operator can mend.")


class DestroyResult(BaseModel):
    """What became of an environment that was to be destroyed."""

    status: _StatusWord
    message: str


class HistoryEntry(BaseModel):
    """One change of an environment."""

    seq: int = Field(description="Its number, which only rises.")
    at: datetime
    kind: _KindWord
    status: _StatusWord | None = Field(
        description="The status that it left; null once it is deleted."
    )
    previous_status: _StatusWord | None
    actor: str
    reason: str

    @classmethod
    def of(cls, event: Event) -> Self:
        """What a client gets to know of an event."""
        return cls(
            seq=event.seq,
            at=event.at,
            kind=event.kind,
            status=event.status,
            previous_status=event.previous_status,
            actor=event.actor,
            reason=event.reason,
        )


class History(BaseModel):
    """What happened to an environment, oldest first."""

    environment_id: str
    events: list[HistoryEntry]
    count: int = Field(description="How many events there are after the one asked for.")

    @classmethod
    def of(cls, environment_id: str, events: Iterable[Event], limit: int) -> Self:
        """The first events, and how many there are."""
        entries = [HistoryEntry.of(event) for event in events]
        return cls(environment_id=environment_id, events=entries[:limit], count=len(entries))
