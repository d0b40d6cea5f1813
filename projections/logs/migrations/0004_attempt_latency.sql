-- How long an attempt took, from sending to the answer or the error, in milliseconds; null for attempts that were
-- recorded before it was kept.

ALTER TABLE attempt_g1 ADD COLUMN latency_ms integer;
CREATE OR REPLACE VIEW attempt AS SELECT * FROM attempt_g1;
