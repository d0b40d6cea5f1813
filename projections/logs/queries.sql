-- name: checkpoints
-- How far projection $1 has come, in every stream of every partition.
SELECT stream, partition, ms, seq FROM checkpoint WHERE projection = $1

-- name: lock_checkpoints
-- The same for the partitions $2 and streams $3 (pairs), locked in the one order that all lockers use.
SELECT c.stream, c.partition, c.ms, c.seq
FROM checkpoint c
JOIN unnest($2::smallint[], $3::text[]) AS wanted(partition, stream) USING (partition, stream)
WHERE c.projection = $1
ORDER BY c.partition, c.stream
FOR UPDATE OF c

-- name: move_checkpoints
-- Sets the checkpoints of projection $1 in (partition, stream) to (ms, seq).
UPDATE checkpoint c SET ms = moved.ms, seq = moved.seq
FROM unnest($2::smallint[], $3::text[], $4::bigint[], $5::bigint[]) AS moved(partition, stream, ms, seq)
WHERE c.projection = $1 AND c.partition = moved.partition AND c.stream = moved.stream

-- name: reject
-- Keeps an entry that has no row. It can be there already when checkpoints were set back by hand.
INSERT INTO log_rejected (stream, partition, ms, seq, reason, fields) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING

-- name: reached
-- Whether projection $1 has come to (ms, seq) = ($4, $5) in stream $2 of partition $3.
SELECT (ms, seq) >= ($4::bigint, $5::bigint) FROM checkpoint
WHERE projection = $1 AND stream = $2 AND partition = $3

-- name: events
-- A page of events. {where}, {dir} and {limit} are filled in by query.py from the fragments below.
SELECT e.accepted_at, e.partition, e.seq, e.time, e.tenant_id, e.event_id, e.topic, e.eligible_for_retry,
       e.metadata, e.matched_destination_ids, e.data
FROM event e
WHERE {where}
ORDER BY e.time {dir}, e.accepted_at {dir}, e.partition {dir}, e.seq {dir}
LIMIT {limit}

-- name: measured
-- The first rows of {page} in its order that have at most {bytes} bytes together, and the first one in any case;
-- `found` is how many {page} has. The lengths are read off the heads of stored values, so that what is left out is
-- neither read nor unpacked.
SELECT {columns}, found
FROM (
    SELECT page.*, count(*) OVER () AS found, row_number() OVER place AS number, sum({size}) OVER place AS bytes
    FROM ({page}) AS page
    WINDOW place AS (
        ORDER BY time {dir}, accepted_at {dir}, partition {dir}, seq {dir} ROWS UNBOUNDED PRECEDING
    )
) AS page
WHERE number = 1 OR bytes <= {bytes}
ORDER BY number

-- name: event
-- The newest event with an id; ids are unique only within a tenant and the idempotency window.
SELECT e.accepted_at, e.partition, e.seq, e.time, e.tenant_id, e.event_id, e.topic, e.eligible_for_retry,
       e.metadata, e.matched_destination_ids, convert_to(e.data, 'UTF8') AS data
FROM event e
WHERE {where}
ORDER BY e.accepted_at DESC, e.partition DESC, e.seq DESC
LIMIT 1

-- name: attempts
-- A page of attempts. {response} is the column or NULL.
SELECT a.accepted_at, a.partition, a.seq, a.time, a.tenant_id, a.event_id, a.destination_id,
       a.destination_created, a.destination_type, a.topic, a.status, a.code, a.attempt_number, a.manual,
       {response} AS response_data, a.event_accepted_at, a.event_seq, a.latency_ms
FROM attempt a
WHERE {where}
ORDER BY a.time {dir}, a.accepted_at {dir}, a.partition {dir}, a.seq {dir}
LIMIT {limit}

-- name: with_events
-- The attempts of {page}, each with its event if that is there. {data} is the column or NULL.
SELECT page.*, e.tenant_id AS e_tenant_id, e.time AS e_time, e.topic AS e_topic,
       e.eligible_for_retry, e.metadata, e.matched_destination_ids, {data} AS data
FROM ({page}) AS page
LEFT JOIN event e ON e.accepted_at = page.event_accepted_at AND e.partition = page.partition
    AND e.seq = page.event_seq

-- name: delivery
-- The delivery of the newest event with the id $1 at the destination $2 (of tenant $3; NULL: of any) as the newest of
-- its entries has it, and how far `dlv` is projected by $4: one statement, so both are of one moment.
SELECT d.*, (SELECT count(*) FROM attempt a WHERE a.event_id = $1 AND a.destination_id = $2 AND a.manual
                    AND a.partition = d.partition AND a.event_accepted_at = d.event_accepted_at
                    AND a.event_seq = d.event_seq AND a.destination_created = d.destination_created) AS manual_attempts,
       c.ms AS seen_ms, c.seq AS seen_seq, e.time AS e_time, e.topic AS e_topic, e.eligible_for_retry, e.metadata,
       e.matched_destination_ids, convert_to(e.data, 'UTF8') AS data
FROM (
    SELECT accepted_at, partition, seq, tenant_id, event_id, event_accepted_at, event_seq, destination_id,
           destination_created, attempt_number AS last, next = 'none' AS closed
    FROM attempt WHERE event_id = $1 AND destination_id = $2 AND ($3::text IS NULL OR tenant_id = $3)
    UNION ALL
    SELECT accepted_at, partition, seq, tenant_id, event_id, event_accepted_at, event_seq, destination_id,
           destination_created, attempt_number - 1, type LIKE 'delivery.%'
    FROM delivery_change WHERE event_id = $1 AND destination_id = $2 AND ($3::text IS NULL OR tenant_id = $3)
) AS d
JOIN checkpoint c ON c.projection = $4 AND c.stream = 'dlv' AND c.partition = d.partition
LEFT JOIN event e ON e.accepted_at = d.event_accepted_at AND e.partition = d.partition AND e.seq = d.event_seq
ORDER BY d.event_accepted_at DESC, d.partition DESC, d.event_seq DESC, d.accepted_at DESC, d.seq DESC
LIMIT 1

-- name: undelivered
-- The newest event with the id $1 (of tenant $2; NULL: of any) that did not match the destination $3, and how far `dlv`
-- is projected by $4.
SELECT e.accepted_at AS event_accepted_at, e.partition, e.seq AS event_seq, e.tenant_id, e.event_id, e.time AS e_time,
       e.topic AS e_topic, e.eligible_for_retry, e.metadata, e.matched_destination_ids,
       convert_to(e.data, 'UTF8') AS data, c.ms AS seen_ms, c.seq AS seen_seq, $3 AS destination_id,
       0 AS destination_created, 0 AS last, true AS closed, 0 AS manual_attempts
FROM event e
JOIN checkpoint c ON c.projection = $4 AND c.stream = 'dlv' AND c.partition = e.partition
WHERE e.event_id = $1 AND ($2::text IS NULL OR e.tenant_id = $2) AND NOT $3::text = ANY(e.matched_destination_ids)
ORDER BY e.accepted_at DESC, e.partition DESC, e.seq DESC
LIMIT 1

-- name: tables
-- Columns of the tables and views of this schema.
SELECT table_name, column_name FROM information_schema.columns
WHERE table_schema = current_schema() ORDER BY table_name, ordinal_position

-- name: partition_tables
-- The tables that are partitions of $1 (a table of this schema).
SELECT child.relname FROM pg_inherits
JOIN pg_class child ON child.oid = inhrelid
WHERE inhparent = to_regclass($1)

-- name: migrations
-- What was applied, in order.
SELECT version, name, checksum FROM migration ORDER BY version

-- name: migration_table
-- The one table that no migration makes.
CREATE TABLE IF NOT EXISTS migration (
    version integer PRIMARY KEY,
    name text NOT NULL,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)

-- name: record_migration
INSERT INTO migration (version, name, checksum) VALUES ($1, $2, $3)

-- name: events_at
-- The events at the positions (accepted_at, partition, seq) = ($1, $2, $3), each an array.
SELECT e.accepted_at, e.partition, e.seq, e.time, e.tenant_id, e.event_id, e.topic, e.eligible_for_retry, e.metadata,
       e.data
FROM unnest($1::timestamptz[], $2::smallint[], $3::bigint[]) AS wanted(accepted_at, partition, seq)
JOIN event e USING (accepted_at, partition, seq)

-- name: rejected_events_at
-- The same of those that have no row.
SELECT r.ms, r.partition, r.seq, r.fields
FROM unnest($1::bigint[], $2::smallint[], $3::bigint[]) AS wanted(ms, partition, seq)
JOIN log_rejected r USING (ms, partition, seq)
WHERE r.stream = 'evt'

-- name: claim_identity
-- The rows are of the log $1, if they are of none yet.
INSERT INTO log_identity (namespace_id) VALUES ($1) ON CONFLICT DO NOTHING

-- name: identity
-- The log that the rows are of.
SELECT namespace_id FROM log_identity

-- name: server
-- What the state of the server says about keeping the log.
SELECT current_setting('server_version_num')::integer AS version, current_setting('server_version') AS version_text,
       pg_is_in_recovery() AS standby, current_setting('default_transaction_read_only') = 'on' AS read_only,
       current_setting('fsync') = 'on' AS fsync, current_setting('server_encoding') AS encoding,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms

-- name: rejected
-- How many entries got no row, and the last of them.
SELECT count(*) AS entries, (SELECT (stream, partition, ms, seq)::text FROM log_rejected ORDER BY at DESC LIMIT 1) AS last
FROM log_rejected

-- name: default_rows
-- Whether rows stand in the tables behind those of the days: events, attempts, changes.
SELECT EXISTS (SELECT FROM event_g1_default) OR EXISTS (SELECT FROM attempt_g1_default)
    OR EXISTS (SELECT FROM delivery_change_g1_default)
