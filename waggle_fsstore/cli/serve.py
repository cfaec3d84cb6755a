# SPDX-License-Identifier: Apache-2.0
"""The verb that serves environments to AI agents."""

import gc
import sys
from typing import Annotated

import typer

from waggle_fsstore.cli.store_option import Target
from waggle_fsstore.config import Settings


def serve(
    ctx: typer.Context,
    stdio: Annotated[
        bool,
        typer.Option(
            "--stdio", help="Speak over standard input and output, as a client's own server."
        ),
    ] = False,
) -> None:
    """Serve environments over MCP until stopped, which destroys none.

    Over HTTP at WAGGLE_LISTEN_ADDR (127.0.0.1:8080), path /mcp. Limits and other settings
    are WAGGLE_* variables too: WAGGLE_MAX_ENVIRONMENTS, WAGGLE_DEFAULT_TIMEOUT_MIN and more,
    which docs/configuration.md lists.
    """
    settings = Settings.of()
    target: Target = ctx.obj
    try:
        from waggle_fsstore.server import http, json_log
        from waggle_fsstore.server import stdio as standard_io
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("waggle_fsstore"):
            raise
        raise typer.BadParameter(
            f"serving needs the extra 'server' ({error.name} is missing): "
            "pip install 'waggle-fsstore[server]'"
        ) from None
    json_log.configure()
    # What was imported stays. To look through it for garbage takes 50 ms, in which nobody is
    # answered.
    gc.freeze()
    if stdio and sys.stdin is None:
        raise typer.BadParameter("there is no standard input to serve on", param_hint="'--stdio'")
    if stdio:
        standard_io.serve(settings, target.location)
    else:
        http.serve(settings, target.location)
