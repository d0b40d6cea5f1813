-- The log tables of generation 1, the checkpoints they are written under, and what could not be written.
--
-- Runs with the deployment's schema as search_path. `accepted_at` is the millisecond of an entry's position and
-- exact, so (accepted_at, partition, seq) is that position. Values that came from clients are text, never jsonb:
-- they come back byte for byte, and jsonb doubles the cost of a write. Readers go through the views, so that a
-- rebuild can fill tables of the next generation beside these and switch.

CREATE TABLE event_g1 (
    accepted_at timestamptz NOT NULL,
    partition smallint NOT NULL,
    seq bigint NOT NULL,
    time timestamptz NOT NULL,
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    topic text NOT NULL,
    eligible_for_retry boolean NOT NULL,
    metadata text NOT NULL,
    matched_destination_ids text[] NOT NULL,
    data text NOT NULL,
    PRIMARY KEY (accepted_at, partition, seq)
) PARTITION BY RANGE (accepted_at);

CREATE TABLE event_g1_default PARTITION OF event_g1 DEFAULT;
CREATE INDEX event_g1_time ON event_g1 (time);
CREATE INDEX event_g1_tenant_time ON event_g1 (tenant_id, time);
CREATE INDEX event_g1_event ON event_g1 (event_id);

-- event_accepted_at and event_seq are the position of the event, which has the partition of its attempts.
CREATE TABLE attempt_g1 (
    accepted_at timestamptz NOT NULL,
    partition smallint NOT NULL,
    seq bigint NOT NULL,
    time timestamptz NOT NULL,
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    event_accepted_at timestamptz NOT NULL,
    event_seq bigint NOT NULL,
    destination_id text NOT NULL,
    destination_created bigint NOT NULL,
    destination_type text NOT NULL,
    topic text NOT NULL,
    status text NOT NULL,
    code text NOT NULL,
    attempt_number integer NOT NULL,
    manual boolean NOT NULL,
    response_data text,
    PRIMARY KEY (accepted_at, partition, seq)
) PARTITION BY RANGE (accepted_at);

CREATE TABLE attempt_g1_default PARTITION OF attempt_g1 DEFAULT;
CREATE INDEX attempt_g1_time ON attempt_g1 (time);
CREATE INDEX attempt_g1_tenant_time ON attempt_g1 (tenant_id, time);
CREATE INDEX attempt_g1_event ON attempt_g1 (event_id, time);
CREATE INDEX attempt_g1_destination_time ON attempt_g1 (destination_id, time);

CREATE VIEW event AS SELECT * FROM event_g1;
CREATE VIEW attempt AS SELECT * FROM attempt_g1;

-- Entries that do not decode and rows that Postgres refused: `reason` never holds a value, `fields` are the
-- entry's own as a MessagePack map of binary to binary, because they may be anything.
CREATE TABLE log_rejected (
    stream text NOT NULL,
    partition smallint NOT NULL,
    ms bigint NOT NULL,
    seq bigint NOT NULL,
    reason text NOT NULL,
    fields bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream, partition, ms, seq)
);

-- How far a projection has come in each stream; moves in the transaction that writes the rows.
CREATE TABLE checkpoint (
    projection text NOT NULL,
    partition smallint NOT NULL,
    stream text NOT NULL,
    ms bigint NOT NULL DEFAULT 0,
    seq bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (projection, partition, stream)
);

INSERT INTO checkpoint (projection, partition, stream)
SELECT 'log_g1', p, s FROM generate_series(0, 15) AS p, unnest(ARRAY['evt', 'dlv']) AS s;
