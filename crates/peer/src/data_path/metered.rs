//! Records of attempts whose tensors went over the network: with what that costs, and without their secrets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use peerless_functions::{AttemptId, InvocationRecord, InvokeError, Meter, Outcome};

use super::{BucketRequests, Grant, Offer, OutputSize};

/// What an attempt moves, as far as anybody may bill it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moves {
    requests: BucketRequests,
    /// Of the output.
    bytes: u64,
}

impl Moves {
    pub fn of(offer: &Offer) -> Self {
        let bytes = match offer.output.as_ref().map(|output| output.size) {
            Some(OutputSize::Exactly(bytes)) => bytes,
            // Initial parameters, once for each peer: nobody knows yet how long they are.
            Some(OutputSize::AtMost(_)) | None => 0,
        };
        Self { requests: BucketRequests::default(), bytes }
    }

    pub fn granted(self, grant: &dyn Grant) -> Self {
        Self { requests: grant.bucket_requests(), ..self }
    }
}

/// Adds to a record what was moved, and takes the secrets of the task out of it.
pub(super) struct Metered {
    pub meter: Arc<dyn Meter>,
    pub secrets: Vec<String>,
    pub moves: Moves,
    /// Whether the caller went away, and the rights of the attempt with it.
    pub given_up: Arc<AtomicBool>,
}

impl Meter for Metered {
    fn record(&self, mut record: InvocationRecord) {
        if self.given_up.load(Ordering::Relaxed) && matches!(record.outcome, Outcome::Failed(InvokeError::Reported(_)))
        {
            // It could not write what nobody waits for.
            record.outcome = Outcome::Discarded;
        }
        let Moves { requests, bytes } = self.moves;
        let reads = record.metering.reads.unwrap_or(requests.gets);
        let billing = &mut record.metering.billing;
        billing.bucket_puts += requests.prepared_puts;
        // What a function did that gave no report is not known; it is taken to have done all it was asked for.
        if reached_a_function(&record.outcome) {
            billing.bucket_puts += requests.puts;
            billing.bucket_gets += reads;
            billing.tensor_bytes_out += bytes;
        }
        match &mut record.outcome {
            Outcome::Succeeded => billing.bucket_gets += requests.collect_gets,
            Outcome::Discarded => {}
            Outcome::Failed(error) => error.redact(&self.secrets),
        }
        self.meter.record(record);
    }

    fn began(&self, attempt: AttemptId) {
        self.meter.began(attempt);
    }
}

/// Whether the task came to a function, as far as anybody knows.
fn reached_a_function(outcome: &Outcome) -> bool {
    let Outcome::Failed(error) = outcome else { return true };
    match error {
        InvokeError::Died { .. }
        | InvokeError::OutOfMemory { .. }
        | InvokeError::TimedOut { .. }
        | InvokeError::Protocol { .. }
        | InvokeError::Crashed { .. }
        | InvokeError::DeadlinePassed
        | InvokeError::Reported(_) => true,
        InvokeError::Encode(_)
        | InvokeError::Spawn { .. }
        | InvokeError::Unreachable { .. }
        | InvokeError::Throttled { .. }
        | InvokeError::Denied { .. }
        | InvokeError::Missing { .. }
        | InvokeError::Refused { .. }
        | InvokeError::TaskTooLarge { .. }
        | InvokeError::QueueFull { .. }
        | InvokeError::Transfer { .. }
        | InvokeError::ShutDown => false,
    }
}
