//! The ledger's thread: records are written in order, beside the work and never in its way.

use std::path::Path;
use std::thread::JoinHandle;

use peerless_functions::prices::Tariff;
use peerless_protocol::{Digest, Event, RoundPlan, RunSpec, UnitKind};
use peerless_store::{Batch, BillingRecord, EventRecord, InvocationRecord, Ledger, LedgerError, ledger_path};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::options::PeerError;
use crate::status::unix_us;

/// Batches that wait for the disk; a peer whose disk is slower than its rounds waits for it then.
const QUEUE: usize = 256;

/// Takes records and writes them on a thread of its own.
pub(super) struct Journal {
    sender: mpsc::Sender<Batch>,
    /// Number of this life of the process in the ledger.
    session: u64,
    /// Taken when the thread is joined.
    thread: Option<JoinHandle<Result<(), LedgerError>>>,
}

impl Journal {
    /// Opens the ledger in a peer's directory a second time: the store's own connection is on the
    /// thread that the rounds wait for. Begins a session with this tariff.
    pub fn open(directory: &Path, tariff: &Tariff) -> Result<Self, PeerError> {
        let mut ledger = Ledger::open(&ledger_path(directory))?;
        let session = ledger.begin_session(unix_us(), &json!(tariff).to_string())?;
        let (sender, mut batches) = mpsc::channel(QUEUE);
        let write_all = move || {
            while let Some(batch) = batches.blocking_recv() {
                ledger.record(&batch)?;
            }
            Ok(())
        };
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(write_all);
        let thread = thread.map_err(|_| PeerError::Thread("ledger"))?;
        Ok(Self { sender, session, thread: Some(thread) })
    }

    /// Number of the session.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Hands over a batch. It also says that the session goes on.
    ///
    /// # Errors
    /// The error that ended the writing thread, such as a full disk.
    pub async fn record(&mut self, batch: Batch) -> Result<(), PeerError> {
        let batch = Batch { alive: Some((self.session, unix_us())), ..batch };
        if self.sender.send(batch).await.is_ok() {
            return Ok(());
        }
        // The thread has dropped its end of the queue: it has ended, and joining does not wait.
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(Err(error))) => Err(error.into()),
            _ => Err(PeerError::Thread("ledger")),
        }
    }

    /// Writes what is queued and ends the thread.
    pub async fn close(self) -> Result<(), PeerError> {
        drop(self.sender);
        let Some(thread) = self.thread else { return Ok(()) };
        match tokio::task::spawn_blocking(|| thread.join()).await {
            Ok(Ok(result)) => Ok(result?),
            _ => Err(PeerError::Thread("ledger")),
        }
    }
}

/// The ledger's form of an event.
pub(super) fn event_record(event: &Event, round: u64, at_us: u64) -> EventRecord {
    let (kind, detail): (&str, Value) = match event {
        Event::PeerConnected(peer) => ("peer-connected", json!({ "peer": peer })),
        Event::PeerLost(peer) => ("peer-lost", json!({ "peer": peer })),
        Event::PeerSuspected(peer) => ("peer-suspected", json!({ "peer": peer })),
        Event::PeerHeard(peer) => ("peer-heard", json!({ "peer": peer })),
        Event::Backup { unit, instead_of, .. } => ("backup", json!({ "unit": unit, "instead_of": instead_of })),
        Event::UnitFailed { unit, peer, cause, .. } => {
            ("unit-failed", json!({ "unit": unit, "peer": peer, "cause": cause }))
        }
        Event::UnitTime(time) => ("unit-time", json!({ "us": time.us, "from_round": time.from_round })),
        Event::CatchUp { from, to } => ("catch-up", json!({ "from": from, "to": to.round, "digest": to.digest })),
        Event::Divergence { round, own, winner, peer } => {
            ("divergence", json!({ "round": round, "own": own, "winner": winner, "peer": peer }))
        }
        // Counted instead, as there may be any number of them; see `refusals`.
        Event::Refused { from, kind, reason } => {
            ("refused", json!({ "peer": from, "kind": kind.name(), "reason": reason }))
        }
    };
    EventRecord { at_us, round: Some(round), kind: kind.into(), detail: detail.to_string() }
}

/// With which numerics a process of this peer computes: whoever recomputes its units must know.
pub(super) fn numerics_record(fingerprint: Digest, round: u64, at_us: u64) -> EventRecord {
    let detail = json!({ "fingerprint": fingerprint }).to_string();
    EventRecord { at_us, round: Some(round), kind: "numerics".into(), detail }
}

/// The ledger's form of invocations.
pub(super) fn invocation_records(
    records: Vec<peerless_functions::InvocationRecord>,
    spec: &RunSpec,
    session: u64,
) -> Vec<InvocationRecord> {
    use peerless_functions::WorkLabel;
    let kind = |work: WorkLabel| match work {
        WorkLabel::Unit { round, unit } => match RoundPlan::new(spec, round).kind(unit) {
            UnitKind::Gradient => "gradient",
            UnitKind::Evaluation => "evaluation",
        },
        WorkLabel::Initialise => "initialise",
        WorkLabel::Ping => "ping",
    };
    records.into_iter().map(|record| invocation_record(&record, kind(record.work), session)).collect()
}

fn invocation_record(record: &peerless_functions::InvocationRecord, kind: &str, session: u64) -> InvocationRecord {
    use peerless_functions::{Outcome, WorkLabel};
    let (round, unit) = match record.work {
        WorkLabel::Unit { round, unit } => (Some(round), Some(unit)),
        WorkLabel::Initialise | WorkLabel::Ping => (None, None),
    };
    let (outcome, error) = match &record.outcome {
        Outcome::Succeeded => ("ok", None),
        Outcome::Discarded => ("discarded", None),
        Outcome::Failed(error) => (error.class(), Some(error.to_string())),
    };
    let metering = record.metering;
    let billing = metering.billing;
    InvocationRecord {
        id: record.id.invocation,
        round,
        unit,
        kind: kind.into(),
        platform: record.platform.into(),
        function: metering.function.map(|pid| pid.to_string()).unwrap_or_default(),
        cold: metering.cold,
        outcome: outcome.into(),
        attempt: record.id.attempt,
        started_at_us: metering.started_unix_us,
        duration_us: metering.duration_us,
        queue_us: metering.queue_us,
        peak_memory_bytes: metering.peak_memory_bytes,
        bytes_in: metering.bytes_in,
        bytes_out: metering.bytes_out,
        error,
        session: Some(session),
        billing: BillingRecord {
            memory_mb: billing.memory_mb,
            billed_ms: billing.billed_ms,
            init_us: billing.init_us,
            requests: billing.requests,
            tensor_bytes_in: billing.tensor_bytes_in,
            tensor_bytes_out: billing.tensor_bytes_out,
            bucket_puts: billing.bucket_puts,
            bucket_gets: billing.bucket_gets,
        },
    }
}
