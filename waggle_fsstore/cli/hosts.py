# SPDX-License-Identifier: Apache-2.0
"""The verbs on hosts that share a store in PostgreSQL: host ls, host remove."""

from datetime import datetime

import click

from waggle_fsstore.cli import output
from waggle_fsstore.cli.audit_options import audit_as, audit_options
from waggle_fsstore.cli.help_texts import HELP
from waggle_fsstore.cli.relative_time import short_duration
from waggle_fsstore.cli.store_option import StoreLocation
from waggle_fsstore.cli.table import write_table
from waggle_fsstore.domain.environment import Status
from waggle_fsstore.domain.host import Host, Hosts
from waggle_fsstore.domain.repository import TransactionalRepository

_HEADER = ("NAME", "STATE", "SEEN", "URL", "ID")


@click.command("host ls", help=HELP["host ls"])
@output.json_option
@click.pass_obj
def host_ls(location: StoreLocation, json: bool) -> None:
    """List the hosts that share the store."""
    with location.open_to_read() as store:
        hosts = _hosts_of(store)
        now = hosts.now()
        found = hosts.find_all()
    if json:
        output.write_object({"hosts": [_values(host, now) for host in found]})
    else:
        write_table(_HEADER, [_row(host, now) for host in found], is_cut=False)


@click.command("host remove", help=HELP["host remove"])
@click.argument("name", help="The name of the host.")
@output.json_option
@audit_options
@click.pass_obj
def host_remove(
    location: StoreLocation, name: str, json: bool, actor: str | None, reason: str | None
) -> None:
    """Declare a host gone for good."""
    from waggle_fsstore.wiring import open_service  # Few verbs need it.

    with audit_as(actor, reason), location.open() as store:
        _hosts_of(store)
        with open_service(store, as_operator=True) as service:
            host = service.remove_host(name)
            left = sum(
                one.host_id == host.id and one.status is Status.ERROR
                for one in service.find_all(on_corrupt=_ignore)
            )
    if json:
        output.write_object({"removed": host.name, "in_error": left})
    else:
        output.write_lines([f"{host.name} is removed; {left} of its environments are in error"])


def _hosts_of(store: TransactionalRepository) -> Hosts:
    """Return the hosts that share a store; a store of one machine is a usage error."""
    hosts: Hosts | None = getattr(store, "hosts", None)
    if hosts is None:
        raise click.BadParameter("only a store in PostgreSQL has several hosts")
    return hosts


def _state(host: Host, now: datetime) -> str:
    if host.removed_at is not None:
        return "removed"
    return "silent" if host.is_silent(now) else "up"


def _values(host: Host, now: datetime) -> dict[str, object]:
    return {
        "name": host.name,
        "state": _state(host, now),
        "seen_at": host.seen_at,
        "removed_at": host.removed_at,
        "url": host.url,
        "id": host.id,
    }


def _row(host: Host, now: datetime) -> tuple[str, ...]:
    seen = f"{short_duration(now - host.seen_at)} ago"
    return host.name, _state(host, now), seen, host.url, host.id


def _ignore(_: Exception) -> None:
    """Leave an unreadable document out."""
