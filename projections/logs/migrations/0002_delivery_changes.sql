-- What a manual retry needs to know: whether an attempt was to be followed by another, and what happened to a
-- delivery beside its attempts. Every entry of `dlv` is now a row of one of two tables.
--
-- Rows that an older version writes meanwhile say that nothing follows, which is safe: a delivery that lives is found
-- in Redis first.

ALTER TABLE attempt_g1 ADD COLUMN next text NOT NULL DEFAULT 'none';
CREATE OR REPLACE VIEW attempt AS SELECT * FROM attempt_g1;

-- attempt_number is the attempt that was skipped, cancelled or asked for; by is who did it.
CREATE TABLE delivery_change_g1 (
    accepted_at timestamptz NOT NULL,
    partition smallint NOT NULL,
    seq bigint NOT NULL,
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    event_accepted_at timestamptz NOT NULL,
    event_seq bigint NOT NULL,
    destination_id text NOT NULL,
    destination_created bigint NOT NULL,
    attempt_number integer NOT NULL,
    type text NOT NULL,
    by text NOT NULL,
    PRIMARY KEY (accepted_at, partition, seq)
) PARTITION BY RANGE (accepted_at);

CREATE TABLE delivery_change_g1_default PARTITION OF delivery_change_g1 DEFAULT;
CREATE INDEX delivery_change_g1_event ON delivery_change_g1 (event_id);

CREATE VIEW delivery_change AS SELECT * FROM delivery_change_g1;
