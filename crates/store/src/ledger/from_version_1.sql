-- Version 2 keeps what a contribution's signature is over, and counts refusals.
ALTER TABLE contributions ADD COLUMN state_digest        TEXT;
ALTER TABLE contributions ADD COLUMN training_samples    INTEGER;
ALTER TABLE contributions ADD COLUMN training_correct    INTEGER;
ALTER TABLE contributions ADD COLUMN training_loss_sum   INTEGER;
ALTER TABLE contributions ADD COLUMN evaluation_samples  INTEGER;
ALTER TABLE contributions ADD COLUMN evaluation_correct  INTEGER;
ALTER TABLE contributions ADD COLUMN evaluation_loss_sum INTEGER;
ALTER TABLE contributions ADD COLUMN elapsed_us          INTEGER;
ALTER TABLE contributions ADD COLUMN payload_bytes       INTEGER;
ALTER TABLE contributions ADD COLUMN shard               INTEGER;
ALTER TABLE contributions ADD COLUMN signature           TEXT;
-- Version 1 did not say which contributions belong to an earlier application of their round.
UPDATE contributions SET accepted = 0
WHERE at_us IS NOT (SELECT at_us FROM rounds WHERE rounds.round = contributions.round);
CREATE TABLE refusals (
    peer        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    times       INTEGER NOT NULL,
    first_at_us INTEGER NOT NULL,
    last_at_us  INTEGER NOT NULL,
    reason      TEXT NOT NULL, -- of the first one
    PRIMARY KEY (peer, kind)
);
