//! What people are told by the status file.

use std::time::{Duration, Instant};

use peerless_protocol::{SignedContribution, StateMeta};

use super::{EventLoop, write_checkpoint};
use crate::engine::describe;
use crate::engine::functions::Functions;
use crate::engine::reporter::Reporter;
use crate::engine::storage::Applied;
use crate::options::PeerError;
use crate::status::{EvaluationStatus, FunctionStatus, PeerStatus, Phase, unix_us};
use crate::transport::Transport;

/// Shortest time between two writes of the status.
const STATUS_EVERY: Duration = Duration::from_millis(20);

impl EventLoop {
    pub(super) async fn finished(&mut self, meta: StateMeta) -> Result<(), PeerError> {
        let reference = meta.state;
        self.adopt(reference);
        let header = self.parts.storage.run(move |worker| worker.adopt(reference).map(|()| worker.header()));
        let header = header.await??;
        write_checkpoint(self.parts.storage.clone()).await?;
        tracing::info!(round = header.steps, digest = %meta.state.digest.short(), "the run is finished");
        let bytes_sent = self.parts.transport.bytes_sent();
        self.parts.reporter.update(|status| {
            status.phase = Phase::Finished;
            status.bytes_sent = bytes_sent;
            status.finish_reason = header.finished;
            status.finished_unix_us.get_or_insert_with(unix_us);
            describe(status, &header, meta.state.digest);
        });
        Ok(())
    }

    pub(super) fn update_status(&mut self, applied: &Applied, cover: &[SignedContribution]) {
        let me = self.parts.node.id();
        let contributions = cover.iter().filter(|signed| signed.contribution.peer == me).count() as u64;
        let backups = u64::from(self.round.backups);
        let neighbours = self.parts.node.neighbours();
        let bytes_sent = self.parts.transport.bytes_sent();
        let refusals = &self.refusals;
        let bill = self.parts.accounts.status();
        let finished = applied.meta.finished;
        let change = |status: &mut PeerStatus| {
            describe(status, &applied.header, applied.meta.state.digest);
            status.rounds_applied += 1;
            status.contributions += contributions;
            status.backup_units += backups;
            status.neighbours = neighbours;
            status.bytes_sent = bytes_sent;
            status.bill = bill;
            refusals.describe(status);
        };
        update_soon(&self.parts.reporter, &mut self.status_written, finished, change);
    }

    pub(super) fn update_functions(&self) {
        let functions = functions_status(&self.parts.functions);
        self.parts.reporter.update(|status| {
            status.functions = functions;
            status.bytes_sent = self.parts.transport.bytes_sent();
            status.bill = self.parts.accounts.status();
            self.refusals.describe(status);
            status.updated_unix_us = unix_us();
        });
    }
}

/// Changes the status, and has it written unless that was done a moment ago.
pub(super) fn update_soon(
    reporter: &Reporter,
    written: &mut Instant,
    at_once: bool,
    change: impl FnOnce(&mut PeerStatus),
) {
    if !at_once && written.elapsed() < STATUS_EVERY {
        return reporter.update_later(change);
    }
    *written = Instant::now();
    reporter.update(|status| {
        change(status);
        status.updated_unix_us = unix_us();
    });
}

/// The functions of a platform as the status shows them.
pub(in crate::engine) fn functions_status(functions: &Functions) -> crate::status::FunctionsStatus {
    let snapshot = functions.snapshot();
    let process =
        |function: &peerless_functions::FunctionSnapshot| FunctionStatus { pid: function.pid, busy: function.busy };
    crate::status::FunctionsStatus {
        processes: snapshot.functions.iter().map(process).collect(),
        invocations: snapshot.counters.invocations,
        cold_starts: snapshot.counters.cold_starts,
        failed: snapshot.counters.failed,
        retried: snapshot.counters.retried,
        hedged: snapshot.counters.hedged,
        data_path: functions.data_path().map(Into::into),
    }
}

/// An evaluation as the status shows it.
pub(in crate::engine) fn evaluation_status(evaluation: &peerless_protocol::Evaluation) -> EvaluationStatus {
    let tally = evaluation.tally;
    EvaluationStatus {
        round: evaluation.round,
        samples: tally.samples,
        correct: tally.correct,
        accuracy: tally.accuracy(),
        loss: tally.mean_loss(),
    }
}
