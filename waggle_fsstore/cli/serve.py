# SPDX-License-Identifier: Apache-2.0
"""The verb ``serve``: the MCP server, over HTTP or standard input and output."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.exit_codes import ExitCode
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.store_option import StoreLocation
from waggle_fsstore.config import Settings


@contextmanager
def server_extra() -> Iterator[None]:
    """Exit with a message if an import in the block lacks the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("waggle_fsstore"):
            raise
        output.report_error(
            f"serving needs the extra 'server' ({error.name} is missing): "
            "pip install '/path/to/clone[server]', with the path of your clone of the repository"
        )
        raise click.exceptions.Exit(ExitCode.USAGE) from None


@click.command(help=HELP["serve"])
@click.option(
    "--stdio",
    is_flag=True,
    help="Serve over standard input and output, for a client that starts this program.",
)
@click.option(
    "--init",
    is_flag=True,
    help="Begin a new store even where workspaces of an earlier one are left.",
)
@click.pass_obj
def serve(location: StoreLocation, stdio: bool, init: bool) -> None:
    """Serve environments to AI agents over MCP."""
    settings = Settings.from_env()
    with server_extra():
        from waggle_fsstore.server import http, log
        from waggle_fsstore.server import stdio as standard_io
    log.configure(settings.log_level, settings.log_format)
    # Modules stay in memory. Having the garbage collector visit them would take 50 ms, during
    # which no client is answered.
    gc.freeze()
    if stdio and sys.stdin is None:
        raise click.BadParameter("standard input is closed", param_hint="'--stdio'")
    if stdio:
        standard_io.serve(settings, location.location, may_init=init)
    else:
        http.serve(settings, location.location, may_init=init)
