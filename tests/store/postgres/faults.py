# SPDX-License-Identifier: Apache-2.0
"""Planted faults of the store in PostgreSQL: each breaks one thing that it promises."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from tests.planted import Patch, fault
from waggle_fsstore import OutcomeUnknownError

_TESTS = "tests/store/postgres/test_store.py"
_CONTRACT = "tests/store/postgres/test_contracts.py::TestPostgresStore"

# The package is imported where it is patched: without the extra, the tests are skipped.


@fault(f"{_TESTS}::test_lost_commit_is_made_once")
def repeat_lost_commit_without_looking(patch: Patch) -> None:
    _patch(patch, "writer", "Writer._happened", lambda *_: False)


@fault(f"{_TESTS}::test_lost_commit_is_made_once")
def take_lost_commit_for_made(patch: Patch) -> None:
    _patch(patch, "writer", "Writer._happened", lambda *_: True)


@fault(f"{_TESTS}::test_lost_commit_that_cannot_be_found_is_unknown")
def take_pruned_change_for_one_not_made(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import writer

    statement = writer._OP_OF.replace(b"SELECT oldest,", b"SELECT 0 * oldest,")
    patch.setattr(writer, "_OP_OF", statement)


@fault(f"{_TESTS}::test_commit_waits_for_flush_whatever_database_says")
def obey_database_that_waits_for_no_flush(patch: Patch) -> None:
    _replace(patch, "_CONFIGURE", "IN ('off', 'local')", "IN ('')")


@fault(f"{_CONTRACT}Persistence::test_updates_of_several_handles_are_all_kept")
def count_changes_without_lock(patch: Patch) -> None:
    _replace(patch, "_LOCK", "FOR NO KEY UPDATE", "")


@fault(f"{_TESTS}::test_selected_events_are_those_that_pass_the_filter")
def fold_case_as_the_database_does(patch: Patch) -> None:
    _patch(
        patch,
        "history",
        "_conditions",
        lambda wanted: [("strpos(lower(actor), %s) > 0", wanted.actor.casefold())],
    )


@fault(f"{_TESTS}::test_lost_changes_are_never_skipped")
def use_lost_numbers_again(patch: Patch) -> None:
    _patch(patch, "transaction", "ERA_GAP", 0)


@fault(f"{_TESTS}::test_other_change_with_same_number_is_noticed")
def take_number_for_whole_cursor(patch: Patch) -> None:
    def parse_after(after: int | str) -> tuple[int, str]:
        return (int(after.partition("-")[0]) if isinstance(after, str) else after), ""

    _patch(patch, "history", "parse_after", parse_after)


@fault(f"{_TESTS}::test_unsafe_server_is_refused")
def trust_every_server(patch: Patch) -> None:
    _patch(patch, "writer", "Writer._check", lambda *_: None)


@fault(f"{_TESTS}::test_ended_session_is_replaced")
def give_up_at_lost_connection(patch: Patch) -> None:
    _patch(patch, "connections", "is_transient", lambda _: False)


@fault(f"{_TESTS}::test_secrets_are_never_shown")
def show_whole_url(patch: Patch) -> None:
    _patch(patch, "connections", "location_of", str)


@fault(f"{_TESTS}::test_waiting_threads_share_transaction")
def commit_for_each_thread(patch: Patch) -> None:
    _patch(patch, "writer", "_MAX_GROUP", 1)


@fault(f"{_TESTS}::test_threads_that_save_again_share_transactions")
def commit_for_every_two_threads(patch: Patch) -> None:
    _patch(patch, "writer", "_MAX_GROUP", 2)


@fault(f"{_TESTS}::test_interrupted_thread_leaves_others_to_work")
def stop_where_leader_is_interrupted(patch: Patch) -> None:
    from waggle_fsstore.store.postgres.writer import Writer

    leave = Writer._leave

    def leave_if_done(writer: Any, ticket: Any) -> None:
        if not isinstance(ticket.error, OutcomeUnknownError):
            leave(writer, ticket)

    patch.setattr(Writer, "_leave", leave_if_done)


@fault(f"{_TESTS}::test_thread_behind_full_group_is_served")
def lead_only_first_group(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import writer

    real = writer.Writer._lead

    def lead(self: Any, group: list[Any]) -> None:
        real(self, group)
        for ticket in self._queue:
            ticket.error, ticket.is_done = TimeoutError(), True

    patch.setattr(writer.Writer, "_lead", lead)


@fault(f"{_TESTS}::test_time_of_a_call_is_a_setting")
def open_with_the_usual_time(patch: Patch) -> None:
    patch.setattr("waggle_fsstore.config.database_timeout", lambda: timedelta(seconds=15))


_EACH_ITS_TIME = f"{_TESTS}::test_each_thread_has_its_own_time"


@fault(_EACH_ITS_TIME)
def give_up_all_of_a_group_at_once(patch: Patch) -> None:
    _patch(patch, "writer", "_is_late", lambda *_: False)


@fault(_EACH_ITS_TIME)
def give_each_group_the_time_of_a_call(patch: Patch) -> None:
    from waggle_fsstore.store.postgres.connections import Deadline
    from waggle_fsstore.store.postgres.writer import Writer

    commit = Writer._commit

    def begin_again(writer: Any, group: Any, _: object) -> None:
        commit(writer, group, Deadline(writer._connections.timeout))

    patch.setattr(Writer, "_commit", begin_again)


@fault(f"{_TESTS}::test_child_leaves_connections_of_parent_alone")
def share_connections_with_child(patch: Patch) -> None:
    _patch(patch, "store", "PostgresStore.reset_after_fork", lambda _: None)


@fault(f"{_TESTS}::test_store_closed_during_a_read_leaves_no_connection")
def close_idle_connections_only(patch: Patch) -> None:
    def close(self: Any) -> None:
        self._close_idle()

    _patch(patch, "connections", "Connections.close", close)


@fault(f"{_TESTS}::test_manual_edit_is_change")
def overlook_manual_edits(patch: Patch) -> None:
    def find(transaction: Any, environment_id: str, _: object) -> Any:
        from waggle_fsstore.store.postgres import transaction as module

        row = transaction._rows[environment_id]
        return row and module.decode(row.text, row.id)

    _patch(patch, "transaction", "Transaction.find", find)


def _replace(patch: Patch, statement: str, old: str, new: str) -> None:
    from waggle_fsstore.store.postgres import transaction

    text = getattr(transaction, statement)
    changed = (text.decode() if isinstance(text, bytes) else text).replace(old, new)
    assert changed.encode() != text != changed
    patch.setattr(transaction, statement, changed.encode() if isinstance(text, bytes) else changed)


def _patch(patch: Patch, module: str, name: str, value: Callable[..., object] | object) -> None:
    patch.setattr(f"waggle_fsstore.store.postgres.{module}.{name}", value)


_MAINTENANCE = "tests/store/postgres/test_maintenance.py"


@fault(f"{_MAINTENANCE}::test_refused_restore_changes_nothing")
def keep_changes_of_refused_work(patch: Patch) -> None:
    _patch(patch, "transaction", "Transaction.savepoint", lambda _: lambda: None)


@fault(f"{_MAINTENANCE}::test_damaged_document_is_found_and_repaired")
def compare_no_document_with_its_change(patch: Patch) -> None:
    _patch(patch, "maintenance", "Maintenance._examine", lambda *_: None)


@fault(f"{_MAINTENANCE}::test_history_without_its_end_is_an_error")
def overlook_end_of_history(patch: Patch) -> None:
    _patch(patch, "maintenance", "Maintenance._ends", lambda _: iter(()))


@fault(f"{_MAINTENANCE}::test_old_history_is_pruned")
def prune_without_telling_readers(patch: Patch) -> None:
    _patch(patch, "maintenance", "_SET_OLDEST", b"UPDATE waggle.store SET oldest = 1 + 0 * %s")


@fault(f"{_MAINTENANCE}::test_script_makes_store_for_restricted_roles")
def let_writer_rewrite_history(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import schema

    script = schema.SCRIPT.replace("SELECT, INSERT ON waggle.change", "ALL ON waggle.change")
    patch.setattr(schema, "SCRIPT", script)


@fault(f"{_MAINTENANCE}::test_server_says_how_old_the_history_is")
def take_first_change_for_the_last(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import maintenance

    _patch(patch, "maintenance", "_INFO", maintenance._INFO.replace("seq LIMIT", "seq DESC LIMIT"))


_ERRORS = "tests/store/postgres/test_errors.py"


@fault(f"{_ERRORS}::test_refused_transaction_is_repeated")
def give_up_at_the_first_deadlock(patch: Patch) -> None:
    _patch(patch, "connections", "RETRIED", ())


@fault(f"{_ERRORS}::test_full_disk_of_server_is_told")
def leave_the_operator_without_advice(patch: Patch) -> None:
    _patch(patch, "connections", "_ADVICE", {})


@fault(f"{_ERRORS}::test_wrong_password_is_told_without_it")
def tell_only_codes_of_the_server(patch: Patch) -> None:
    _patch(patch, "connections", "_CODES", {})


@fault(f"{_ERRORS}::test_refused_tls_is_told")
def take_refused_tls_for_a_missing_server(patch: Patch) -> None:
    _patch(patch, "connections", "_NO_TLS", "\0")


@fault(f"{_ERRORS}::test_missing_role_is_told_without_its_name")
def tell_who_connects(patch: Patch) -> None:
    _patch(patch, "connections", "_name_of_role", re.compile("$^"))


@fault(f"{_ERRORS}::test_abandoned_generator_of_psycopg_is_ended")
def close_what_is_left_open_once(patch: Patch) -> None:
    _patch(patch, "connections", "_MAX_BLOCKS", 1)


@fault(f"{_ERRORS}::test_refused_transaction_is_repeated")
def give_up_where_pooler_lost_the_server(patch: Patch) -> None:
    _patch(patch, "connections", "_CONNECTION_CLASS", "\0")


@fault(f"{_ERRORS}::test_session_that_was_idle_too_long_is_replaced")
def give_up_idle_sessions(patch: Patch) -> None:
    from psycopg import errors

    from waggle_fsstore.store.postgres import connections

    kept = tuple(one for one in connections.RETRIED if one is not errors.IdleSessionTimeout)
    patch.setattr(connections, "RETRIED", kept)


@fault(f"{_ERRORS}::test_defaults_of_role_stop_no_writer")
def obey_defaults_of_the_role(patch: Patch) -> None:
    for module in ("connections", "writer"):
        _patch(patch, module, "writing", lambda connection: connection.transaction())


@fault(f"{_ERRORS}::test_lost_machine_is_noticed")
def wait_for_lost_machine(patch: Patch) -> None:
    _patch(patch, "connections", "_NETWORK", {})


_HOSTS = "tests/store/postgres/test_hosts.py"
_UPGRADE = "tests/store/postgres/test_upgrade.py"


@fault(f"{_HOSTS}::test_capacity_counts_live_environments_of_the_host")
def count_live_ones_of_all_hosts(patch: Patch) -> None:
    _replace(patch, "_LIVE", " AND host_id = %s", " AND host_id <> %s || 'x'")


@fault(f"{_HOSTS}::test_environment_keeps_its_host")
def forget_host_in_its_column(patch: Patch) -> None:
    _replace(patch, "_UPSERT", "host_id = excluded.host_id,", "")


@fault(f"{_HOSTS}::test_name_of_another_host_is_refused")
def give_name_to_every_host(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import hosts

    patch.setattr(hosts, "_CLAIMS", hosts._CLAIMS.replace(b"OR (name", b"AND (name"))


@fault(f"{_HOSTS}::test_removed_host_is_refused")
def let_removed_host_beat(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import hosts

    patch.setattr(hosts, "_BEAT", hosts._BEAT.replace("AND removed_at IS NULL", ""))


@fault(f"{_HOSTS}::test_heartbeat_waits_for_no_flush")
def flush_each_heartbeat(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import hosts

    patch.setattr(hosts, "_BEAT", hosts._BEAT.replace("'off', true", "'on', true"))


@fault(f"{_UPGRADE}::test_upgrade_waits_for_writers_of_the_earlier_version")
def upgrade_without_lock_of_store(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import schema

    patch.setattr(schema, "LOCK_STORE", schema.LOCK_STORE.replace("FOR UPDATE", ""))


@fault(f"{_UPGRADE}::test_tables_are_upgraded_once")
def upgrade_at_once(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import schema

    patch.setattr(schema, "LOCK_FOUNDING", "SELECT 1")
    # In place of the lock, a pause in which the others get as far.
    patch.setattr(schema, "LOCK_STORE", "SELECT pg_sleep(0.3)")


@fault(f"{_TESTS}::test_stopped_client_does_not_keep_the_lock")
def wait_for_stopped_client(patch: Patch) -> None:
    patch.setattr("tests.store.postgres.test_store._PATIENCE_S", 4.0)
    _replace(patch, "_CONFIGURE", "idle_in_transaction_session_timeout", "work_mem")


@fault("tests/store/postgres/test_tls.py::test_wrong_certificate_is_told")
def give_advice_about_the_address(patch: Patch) -> None:
    _patch(patch, "connections", "_connection_advice", lambda _: "check the address")


@fault("tests/store/postgres/test_pooler.py::test_settings_do_not_leak")
def set_for_the_session(patch: Patch) -> None:
    _replace(patch, "_CONFIGURE", "LOCAL lock_timeout", "SESSION lock_timeout")


@fault(f"{_TESTS}::test_store_is_founded_once")
def ask_cache_for_store(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import schema

    patch.setattr(schema, "EXISTS", "SELECT to_regclass('waggle.store') IS NOT NULL")


@fault("tests/store/postgres/test_pooler.py::test_statements_are_prepared_without_pooler_only")
def prepare_behind_pooler(patch: Patch) -> None:
    from waggle_fsstore.store.postgres.connections import Connections

    connect = Connections._connect

    def prepare(self: Connections, deadline: Any) -> Any:
        connection = connect(self, deadline)
        connection.prepare_threshold = 2
        return connection

    patch.setattr(Connections, "_connect", prepare)


@fault(f"{_HOSTS}::test_copy_of_the_id_on_another_machine_is_refused")
def take_copy_of_id_for_the_host(patch: Patch) -> None:
    from waggle_fsstore.store.postgres import hosts

    claims = hosts._CLAIMS.replace(b"boot_id NOT IN ('', %(boot_id)s)", b"%(boot_id)s IS NULL")
    patch.setattr(hosts, "_CLAIMS", claims)
