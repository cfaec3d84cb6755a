-- SPDX-License-Identifier: Apache-2.0
-- The tables of format 1, as the version that made them wrote it.
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
    document        json   NOT NULL
);
CREATE INDEX document_live ON waggle.document (id)
    WHERE status IN ('creating', 'running', 'destroying');
CREATE INDEX document_key ON waggle.document (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE waggle.change (
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
INSERT INTO waggle.store (format, last, era) SELECT 1, 0, (SELECT system_identifier FROM pg_control_system())::text || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8);
