-- Version 3 keeps what a bill needs.
ALTER TABLE invocations ADD COLUMN session          INTEGER;
ALTER TABLE invocations ADD COLUMN memory_mb        INTEGER;
ALTER TABLE invocations ADD COLUMN billed_ms        INTEGER;
ALTER TABLE invocations ADD COLUMN init_us          INTEGER;
ALTER TABLE invocations ADD COLUMN requests         INTEGER;
ALTER TABLE invocations ADD COLUMN tensor_bytes_in  INTEGER;
ALTER TABLE invocations ADD COLUMN tensor_bytes_out INTEGER;
ALTER TABLE invocations ADD COLUMN bucket_puts      INTEGER;
ALTER TABLE invocations ADD COLUMN bucket_gets      INTEGER;
CREATE TABLE sessions (
    number        INTEGER PRIMARY KEY,
    started_at_us INTEGER NOT NULL,
    last_at_us    INTEGER NOT NULL, -- when it wrote something last
    tariff        TEXT NOT NULL CHECK (json_valid(tariff)) -- the prices that applied
);
