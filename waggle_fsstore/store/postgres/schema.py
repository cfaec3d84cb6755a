# SPDX-License-Identifier: Apache-2.0
"""The tables of a store in PostgreSQL, and the statements that make them."""

from typing import Final

#: The format of the tables. A program refuses a higher one, and upgrades a lower one.
FORMAT: Final = 2

#: The cluster and the timeline that a session writes to. A promoted standby has a new timeline.
#: ``pg_control_checkpoint`` would still name the old one for a while.
ERA: Final = (
    "(SELECT system_identifier FROM pg_control_system())::text || '/' || "
    "left(pg_walfile_name(pg_current_wal_lsn()), 8)"
)

#: How many numbers a new era skips: more than a lost part of the old one can have used.
ERA_GAP: Final = 1_000_000_000

#: One founder or upgrader at a time. It asks whether the store exists first: IF NOT EXISTS locks
#: the tables, and would deadlock with a writer. ``to_regclass`` could answer from a cache that is
#: older than the lock, in a session that has looked before.
LOCK_FOUNDING: Final = "SELECT pg_advisory_xact_lock(7756417102)"
EXISTS: Final = """
SELECT EXISTS (
    SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'waggle' AND c.relname = 'store'
)
"""

#: No change can be under way while the tables change.
LOCK_STORE: Final = "SELECT format FROM waggle.store FOR UPDATE"

_HOSTS: Final = """\
CREATE TABLE waggle.host (              -- the hosts whose servers use the store
    id         text PRIMARY KEY,
    name       text NOT NULL,
    url        text NOT NULL,
    boot_id    text NOT NULL,           -- of the machine whose servers it has now
    seen_at    timestamptz NOT NULL,    -- when a server of it was last heard of
    removed_at timestamptz
);
CREATE UNIQUE INDEX host_name ON waggle.host (name) WHERE removed_at IS NULL;
CREATE INDEX document_live ON waggle.document (host_id)
    WHERE status IN ('creating', 'running', 'destroying');
"""

#: Documents are of type ``json``, which keeps their very text; ``jsonb`` and ``->>`` refuse an
#: escaped NUL. What a statement compares therefore has a column.
TABLES: Final = f"""
CREATE SCHEMA IF NOT EXISTS waggle;
CREATE TABLE waggle.store (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    format integer NOT NULL,
    last   bigint  NOT NULL,            -- number of the last change; each writer locks this row
    oldest bigint  NOT NULL DEFAULT 1,  -- number of the first change that is kept
    era    text    NOT NULL             -- cluster and timeline in which "last" was counted
) WITH (fillfactor = 20);
CREATE TABLE waggle.document (
    id              text COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 200),
    revision        bigint NOT NULL,
    status          text   NOT NULL,
    idempotency_key text,
    document        json   NOT NULL,
    host_id         text   NOT NULL DEFAULT ''
);
CREATE INDEX document_key ON waggle.document (idempotency_key) WHERE idempotency_key IS NOT NULL;
{_HOSTS}CREATE TABLE waggle.change (
    seq          bigint PRIMARY KEY,
    at           timestamptz NOT NULL,
    actor        text NOT NULL,
    reason       text NOT NULL,
    kind         text NOT NULL CHECK (kind IN ('created', 'updated', 'deleted', 'external')),
    id           text COLLATE "C" NOT NULL,
    was_revision bigint NOT NULL,
    was_status   text,
    op           uuid NOT NULL,         -- of the transaction: tells whether it was committed
    document     json
);
CREATE INDEX change_id ON waggle.change (id, seq);
CREATE VIEW waggle.audit AS
    SELECT seq, at, actor, kind, id, was_revision, was_status, reason FROM waggle.change;
CREATE VIEW waggle.lost AS  -- documents that are not what their last change left
    SELECT COALESCE(d.id, c.id) AS id, d.revision, c.seq AS last_change, c.kind
    FROM waggle.document d FULL JOIN (
        SELECT DISTINCT ON (id) id, seq, kind, document FROM waggle.change ORDER BY id, seq DESC
    ) c USING (id)
    WHERE CASE
        WHEN d.id IS NULL THEN c.kind <> 'deleted'
        WHEN c.seq IS NULL THEN d.revision >= (SELECT oldest FROM waggle.store)
        ELSE c.kind = 'deleted' OR c.seq <> d.revision
            OR c.document::text <> d.document::text
    END;
INSERT INTO waggle.store (format, last, era) SELECT {FORMAT}, 0, {ERA};
"""  # noqa: S608  # Made of constants.

#: How tables of an earlier format get the next one.
UPGRADES: Final = {
    1: "".join(
        (
            "ALTER TABLE waggle.document ADD COLUMN host_id text NOT NULL DEFAULT '';\n",
            "DROP INDEX waggle.document_live;\n",
            _HOSTS,
            "UPDATE waggle.store SET format = 2;\n",
        )
    ),
}

_GRANT_HOSTS: Final = "GRANT SELECT, INSERT, UPDATE ON waggle.host TO waggle_writer;"

#: What an operator runs where programs may not make tables, with two roles as an example.
SCRIPT: Final = f"""\
-- Makes a store of waggle-fsstore in this database: psql -v ON_ERROR_STOP=1 --single-transaction
{LOCK_FOUNDING};
{TABLES.strip()}

-- A program that uses the store (an example; its role cannot rewrite the history):
--   CREATE ROLE waggle_writer LOGIN;
--   GRANT USAGE ON SCHEMA waggle TO waggle_writer;
--   GRANT SELECT, INSERT, UPDATE, DELETE ON waggle.document TO waggle_writer;
--   GRANT SELECT, INSERT ON waggle.change TO waggle_writer;
--   GRANT SELECT, UPDATE ON waggle.store TO waggle_writer;
--   {_GRANT_HOSTS}
--   GRANT SELECT ON waggle.lost TO waggle_writer;
-- An auditor, who sees who changed what, but no document:
--   CREATE ROLE waggle_auditor LOGIN;
--   GRANT USAGE ON SCHEMA waggle TO waggle_auditor;
--   GRANT SELECT ON waggle.audit, waggle.lost TO waggle_auditor;
"""


def upgrade_script(found: int) -> str:
    """Return what the owner of tables of an earlier format runs. Raises ``ValueError``."""
    if found not in UPGRADES:
        raise ValueError(f"{found} is no earlier format of the tables: {FORMAT} is the present one")
    steps = "".join(UPGRADES[number] for number in range(found, FORMAT))
    return f"""\
-- Upgrades a store of waggle-fsstore: psql -v ON_ERROR_STOP=1 --single-transaction
{LOCK_FOUNDING};
{LOCK_STORE};
{steps}
-- For the role of programs (the name is an example):
--   {_GRANT_HOSTS}
"""
