# SPDX-License-Identifier: Apache-2.0
"""The verb that brings a removed environment back: undelete."""

from typing import Annotated

import typer

from waggle_fsstore.cli import output
from waggle_fsstore.cli.audit_options import Actor, Reason, audit_as
from waggle_fsstore.cli.beside_server import Force, refuse_beside_server
from waggle_fsstore.cli.environment_ids import full_id
from waggle_fsstore.cli.store_option import StoreLocation, document_of
from waggle_fsstore.domain.errors import WorkspaceGoneError


def undelete(
    ctx: typer.Context,
    environment_id: Annotated[
        str, typer.Argument(metavar="ID", help="Id of a removed environment, or unique prefix.")
    ],
    record_only: Annotated[
        bool, typer.Option("--record-only", help="Without its files; its status is error.")
    ] = False,
    json: output.Json = False,
    force: Force = False,
    actor: Actor = None,
    reason: Reason = None,
) -> None:
    """Bring back an environment that expired, with its files."""
    from waggle_fsstore.wiring import open_service  # Few verbs need it.

    location: StoreLocation = ctx.obj
    with audit_as(actor, reason), location.open() as store:
        refuse_beside_server(store, force=force, tool="restore_environment")
        environment_id = full_id(store, environment_id, is_in_history=True)
        with open_service(store) as service:
            try:
                restored = service.undelete(environment_id, record_only=record_only)
            except WorkspaceGoneError as error:
                hint = f"{error.reason}: repeat with --record-only"
                raise WorkspaceGoneError(error.provider, hint) from error
            if json:
                output.write_json(document_of(store, restored))
            elif restored.is_running:
                output.write(f"{service.locate(restored)}\n")
            else:
                output.print_status(f"{environment_id} is in error: {restored.status_reason}")
