# SPDX-License-Identifier: Apache-2.0
"""The verb ``ui``: the page of a store without a server."""

import gc

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.serve import server_extra
from waggle_fsstore.cli.store_option import StoreLocation, require_persistent
from waggle_fsstore.config import Settings


@click.command(help=HELP["ui"])
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=0,
    help="The port to listen at. Default: any that is free.",
)
@click.pass_obj
def ui(location: StoreLocation, port: int) -> None:
    """Show a store in a browser, without a server."""
    settings = Settings.from_env()
    with server_extra():
        from waggle_fsstore.server import log
        from waggle_fsstore.server.page.alone import serve_page
    log.configure(settings.log_level, settings.log_format)
    gc.freeze()  # As in serve: the collector would visit all modules during a view.
    with require_persistent(location.open_to_read(recovers=False)) as store:
        serve_page(store, settings, port, lambda url: output.write_lines([url]))
