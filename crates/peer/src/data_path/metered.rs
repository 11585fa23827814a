//! Records of attempts whose tensors went over the network: with what that costs, and without their secrets.

use std::sync::Arc;

use peerless_functions::{InvocationRecord, InvokeError, Meter, Outcome};

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
}

impl Meter for Metered {
    fn record(&self, mut record: InvocationRecord) {
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

    fn began(&self, invocation: u64, attempt: u32) {
        self.meter.began(invocation, attempt);
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
