-- The ledger of one peer: what happened, when, and what it cost. Times are microseconds; points in
-- time count from the Unix epoch. Digests and peers are hexadecimal.

CREATE TABLE schema (version INTEGER NOT NULL);

-- States that this peer held, by the number of the round that starts from them.
CREATE TABLE states (
    round  INTEGER PRIMARY KEY,
    digest TEXT NOT NULL,
    origin TEXT NOT NULL -- initial, applied, fetched or restored
);

-- Rounds that this peer applied; round r turned state r into state r + 1.
CREATE TABLE rounds (
    round              INTEGER PRIMARY KEY,
    at_us              INTEGER NOT NULL,
    state_digest       TEXT NOT NULL, -- of state r + 1
    training_samples   INTEGER NOT NULL,
    training_correct   INTEGER NOT NULL,
    training_loss      REAL, -- mean per sample
    evaluation_samples INTEGER,
    evaluation_correct INTEGER,
    evaluation_loss    REAL,
    compute_us         INTEGER NOT NULL,
    sum_us             INTEGER NOT NULL,
    transfer_us        INTEGER NOT NULL,
    update_us          INTEGER NOT NULL,
    digest_us          INTEGER NOT NULL,
    wait_us            INTEGER NOT NULL,
    units_computed     INTEGER NOT NULL, -- by this peer's functions, backups included
    backup_units       INTEGER NOT NULL
);

-- Announcements that rounds were applied from. The columns from state_digest on are null in rows of
-- version 1.
CREATE TABLE contributions (
    round    INTEGER NOT NULL,
    at_us    INTEGER NOT NULL,
    peer     TEXT NOT NULL,
    units    TEXT NOT NULL, -- such as 0-3,7
    samples  INTEGER NOT NULL,
    digest   TEXT, -- of the payload; null without gradient units
    accepted INTEGER NOT NULL, -- 0 once the round was applied again, and for what was added up to a shard here
    state_digest        TEXT, -- of state round
    training_samples    INTEGER,
    training_correct    INTEGER,
    training_loss_sum   INTEGER, -- in steps of 2^-40
    evaluation_samples  INTEGER,
    evaluation_correct  INTEGER,
    evaluation_loss_sum INTEGER,
    elapsed_us          INTEGER,
    payload_bytes       INTEGER, -- 0 without a payload
    shard               INTEGER, -- null for the whole vector
    signature           TEXT -- Ed25519, by peer, over all of the above and the run
);
CREATE INDEX contributions_of_round ON contributions (round);

-- Every invocation of a function, also failed and superfluous ones.
CREATE TABLE invocations (
    id                INTEGER NOT NULL, -- unique within one life of the peer process
    round             INTEGER,
    unit              INTEGER,
    kind              TEXT NOT NULL,
    platform          TEXT NOT NULL,
    function          TEXT NOT NULL, -- pid or name
    cold              INTEGER NOT NULL,
    outcome           TEXT NOT NULL, -- ok, or the class of failure
    attempt           INTEGER NOT NULL,
    started_at_us     INTEGER NOT NULL,
    duration_us       INTEGER NOT NULL,
    queue_us          INTEGER NOT NULL,
    peak_memory_bytes INTEGER NOT NULL,
    bytes_in          INTEGER NOT NULL,
    bytes_out         INTEGER NOT NULL,
    error             TEXT
);
CREATE INDEX invocations_of_round ON invocations (round);

CREATE TABLE events (
    at_us  INTEGER NOT NULL,
    round  INTEGER,
    kind   TEXT NOT NULL,
    detail TEXT NOT NULL CHECK (json_valid(detail))
);

-- What was received and not used, by sender and kind.
CREATE TABLE refusals (
    peer        TEXT NOT NULL,
    kind        TEXT NOT NULL,
    times       INTEGER NOT NULL,
    first_at_us INTEGER NOT NULL,
    last_at_us  INTEGER NOT NULL,
    reason      TEXT NOT NULL, -- of the first one
    PRIMARY KEY (peer, kind)
);
