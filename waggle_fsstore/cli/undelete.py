# SPDX-License-Identifier: Apache-2.0
"""The verb that brings a removed environment back: undelete."""

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.audit_options import audit_as, audit_options
from waggle_fsstore.cli.beside_server import force_option, refuse_beside_server
from waggle_fsstore.cli.environment_ids import full_id
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.store_option import StoreLocation, document_of
from waggle_fsstore.domain.errors import WorkspaceGoneError


@click.command(help=HELP["undelete"])
@click.argument(
    "environment_id", metavar="ID", help="Id of a removed environment, or unique prefix."
)
@click.option("--record-only", is_flag=True, help="Without its files; its status is error.")
@output.json_option
@force_option
@audit_options
@click.pass_obj
def undelete(
    location: StoreLocation,
    environment_id: str,
    record_only: bool,
    json: bool,
    force: bool,
    actor: str | None,
    reason: str | None,
) -> None:
    """Bring back an environment that expired, with its files."""
    from waggle_fsstore.wiring import open_service  # Few verbs need it.

    with audit_as(actor, reason), location.open() as store:
        refuse_beside_server(store, force=force, tool="restore_environment")
        environment_id = full_id(store, environment_id, is_in_history=True)
        with open_service(store, as_operator=True) as service:
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
