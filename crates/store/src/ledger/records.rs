//! What the ledger records.

use peerless_protocol::{
    Contribution, Digest, PayloadRef, PeerId, RunId, SignedContribution, StateRef, Tally, UnitSet,
};

/// Where a state came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateOrigin {
    /// Made by the model's initialiser.
    Initial,
    /// The result of a round at this peer.
    Applied,
    /// Fetched from other peers.
    Fetched,
    /// Read from a checkpoint.
    Restored,
}

impl StateOrigin {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Applied => "applied",
            Self::Fetched => "fetched",
            Self::Restored => "restored",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Self::Initial, Self::Applied, Self::Fetched, Self::Restored].into_iter().find(|origin| origin.name() == name)
    }
}

/// A state that a peer held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateRecord {
    /// Number and digest.
    pub reference: StateRef,
    /// Where it came from.
    pub origin: StateOrigin,
}

/// Where a round's time went, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoundTimes {
    /// Until this peer's last unit was computed.
    pub compute_us: u64,
    /// Adding gradients and payloads.
    pub sum_us: u64,
    /// Sending and receiving payloads.
    pub transfer_us: u64,
    /// Mean, clipping and optimizer.
    pub update_us: u64,
    /// Hashing and storing the new state.
    pub digest_us: u64,
    /// Waiting for other peers.
    pub wait_us: u64,
}

/// One applied round.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundRecord {
    /// The round.
    pub round: u64,
    /// When it was applied, in microseconds since the Unix epoch.
    pub at_us: u64,
    /// Digest of the state after it.
    pub state_digest: Digest,
    /// Training samples.
    pub training_samples: u64,
    /// Those predicted right.
    pub training_correct: u64,
    /// Mean loss over them; `None` without samples.
    pub training_loss: Option<f64>,
    /// Test samples, right ones and mean loss, if the round evaluated.
    pub evaluation: Option<EvaluationRecord>,
    /// Where the time went.
    pub times: RoundTimes,
    /// Units that this peer's functions computed, backups included.
    pub units_computed: u32,
    /// Those that other peers owned.
    pub backup_units: u32,
}

/// One evaluation of the whole test set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EvaluationRecord {
    /// Test samples.
    pub samples: u64,
    /// Those predicted right.
    pub correct: u64,
    /// Mean loss per sample; `None` without samples.
    pub loss: Option<f64>,
}

impl From<&Tally> for EvaluationRecord {
    fn from(tally: &Tally) -> Self {
        Self { samples: tally.samples, correct: tally.correct, loss: (tally.samples > 0).then(|| tally.mean_loss()) }
    }
}

/// One announcement, with all that its signature is over except the run, which is that of the ledger's
/// directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContributionRecord {
    /// The round.
    pub round: u64,
    /// When the round was applied, in microseconds since the Unix epoch.
    pub at_us: u64,
    /// Who announced it.
    pub peer: PeerId,
    /// Its units.
    pub units: UnitSet,
    /// Samples behind them.
    pub samples: u64,
    /// Digest of the payload; `None` without gradient units.
    pub digest: Option<Digest>,
    /// Whether it was part of the cover that was applied, and the round was not applied again since.
    pub accepted: bool,
    /// What else the signature is over, and the signature; `None` in rows written before ledgers kept it.
    pub proof: Option<ContributionProof>,
}

/// The part of a contribution that only its signature needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContributionProof {
    /// Digest of the state that the units were computed from.
    pub from: Digest,
    /// The part of the flat vector that the sum is about; `None` for all of it.
    pub shard: Option<u32>,
    /// Totals over the training samples.
    pub training: Tally,
    /// Totals over the test samples.
    pub evaluation: Tally,
    /// What the units took at the author, in microseconds.
    pub elapsed_us: u64,
    /// Length of the payload in bytes; 0 without one.
    pub payload_bytes: u64,
    /// The author's Ed25519 signature.
    pub signature: [u8; 64],
}

impl ContributionRecord {
    /// The record of a contribution to a round that was applied at `at_us`.
    pub fn of(signed: &SignedContribution, at_us: u64) -> Self {
        let contribution = &signed.contribution;
        Self {
            round: contribution.from.round,
            at_us,
            peer: contribution.peer,
            units: contribution.units.clone(),
            samples: contribution.training.samples.saturating_add(contribution.evaluation.samples),
            digest: contribution.payload.map(|payload| payload.digest),
            accepted: true,
            proof: Some(ContributionProof {
                from: contribution.from.digest,
                shard: contribution.shard,
                training: contribution.training,
                evaluation: contribution.evaluation,
                elapsed_us: contribution.elapsed_us,
                payload_bytes: contribution.payload.map_or(0, |payload| payload.bytes),
                signature: signed.signature(),
            }),
        }
    }

    /// What the author signed, to be checked; `None` without proof.
    pub fn signed(&self, run: RunId) -> Option<SignedContribution> {
        let proof = self.proof.as_ref()?;
        let contribution = Contribution {
            run,
            peer: self.peer,
            from: StateRef { round: self.round, digest: proof.from },
            units: self.units.clone(),
            shard: proof.shard,
            training: proof.training,
            evaluation: proof.evaluation,
            elapsed_us: proof.elapsed_us,
            payload: self.digest.map(|digest| PayloadRef { digest, bytes: proof.payload_bytes }),
        };
        Some(SignedContribution::from_parts(contribution, proof.signature))
    }
}

/// One invocation of a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InvocationRecord {
    /// Number of the invocation, unique within one life of the peer process.
    pub id: u64,
    /// The round, unless the invocation was for none.
    pub round: Option<u64>,
    /// The unit, unless the invocation was for none.
    pub unit: Option<u32>,
    /// Kind of work, such as `gradient`.
    pub kind: String,
    /// The platform that ran it, such as `process`.
    pub platform: String,
    /// Process id or name of the function.
    pub function: String,
    /// Whether the function had to be started for it.
    pub cold: bool,
    /// `ok`, or the class of failure.
    pub outcome: String,
    /// Counts from 1.
    pub attempt: u32,
    /// When the function was called, in microseconds since the Unix epoch.
    pub started_at_us: u64,
    /// Time from the call to the answer or failure.
    pub duration_us: u64,
    /// Time that the work waited for a function.
    pub queue_us: u64,
    /// Largest resident set of the function so far; 0 where unknown.
    pub peak_memory_bytes: u64,
    /// Bytes of the task; tensors travel by reference.
    pub bytes_in: u64,
    /// Bytes of the report.
    pub bytes_out: u64,
    /// What failed, for people.
    pub error: Option<String>,
    /// The session that it was part of; `None` in rows that were written before ledgers kept sessions.
    pub session: Option<u64>,
    /// What is billed for it; zeros where nothing is.
    pub billing: BillingRecord,
}

/// What the platform bills for an invocation, and the tensors that it moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BillingRecord {
    /// Memory that the function is configured with, in MB of 2^20 bytes.
    pub memory_mb: u32,
    /// Billed time in milliseconds.
    pub billed_ms: u64,
    /// Time to initialise a cold function as the platform reports it, in microseconds.
    pub init_us: u64,
    /// Billed requests.
    pub requests: u32,
    /// Bytes of tensors that the function fetched by reference; 0 for files that it shares with the peer.
    pub tensor_bytes_in: u64,
    /// Bytes of tensors that the function sent.
    pub tensor_bytes_out: u64,
    /// Objects written to a bucket.
    pub bucket_puts: u32,
    /// Objects read from a bucket.
    pub bucket_gets: u32,
}

/// One life of the peer's process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Counts from 1.
    pub number: u64,
    /// When it began, in microseconds since the Unix epoch.
    pub started_at_us: u64,
    /// When it wrote something last.
    pub last_at_us: u64,
    /// The prices that applied, as a JSON document.
    pub tariff: String,
}

/// One attempt at a unit, as far as it takes to count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitAttempt {
    /// The round.
    pub round: u64,
    /// The unit.
    pub unit: u32,
    /// Whether its result was used.
    pub succeeded: bool,
}

/// Something worth remembering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// When, in microseconds since the Unix epoch.
    pub at_us: u64,
    /// The round under way, if any.
    pub round: Option<u64>,
    /// What happened, such as `peer-suspected`.
    pub kind: String,
    /// Particulars, as a JSON document.
    pub detail: String,
}

/// How often a sender's messages of one kind were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalRecord {
    /// The sender.
    pub peer: PeerId,
    /// The kind of refusal, such as `malformed`.
    pub kind: String,
    /// How often since this was last recorded.
    pub times: u64,
    /// When the first and the last of them came, in microseconds since the Unix epoch.
    pub at_us: (u64, u64),
    /// What was wrong with one of them, for people.
    pub reason: String,
}

/// What is recorded together: all of it or, after a crash, nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// A state that this peer holds from now on.
    pub state: Option<(StateRef, StateOrigin)>,
    /// The round that was applied. A round that is applied again after a restart replaces its record.
    pub round: Option<RoundRecord>,
    /// Announcements.
    pub contributions: Vec<ContributionRecord>,
    /// Finished invocations.
    pub invocations: Vec<InvocationRecord>,
    /// Events.
    pub events: Vec<EventRecord>,
    /// Refusals, which are added to those recorded before.
    pub refusals: Vec<RefusalRecord>,
    /// The session under way, and that it is alive now, in microseconds since the Unix epoch.
    pub alive: Option<(u64, u64)>,
}

/// Totals over all invocations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InvocationTotals {
    /// Invocations.
    pub invocations: u64,
    /// Those for which a function had to be started.
    pub cold_starts: u64,
    /// Those that failed; what ended after nobody wanted it any more has not.
    pub failed: u64,
    /// Those that were not the first attempt.
    pub retried: u64,
    /// Sum of their durations.
    pub duration_us: u64,
    /// Largest resident set of any function.
    pub peak_memory_bytes: u64,
}
