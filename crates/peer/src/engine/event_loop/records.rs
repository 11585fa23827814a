//! What is written down: rounds, contributions, invocations and events in the ledger, states as checkpoints.

use std::time::{Duration, Instant};

use peerless_protocol::{Event, Input, RoundPlan, SignedContribution, StateHeader, StateMeta, StateRef};
use peerless_store::{Batch, ContributionRecord, RoundRecord, StateOrigin};

use super::EventLoop;
use super::reports::update_soon;
use crate::engine::describe;
use crate::engine::journal::{event_record, invocation_records};
use crate::engine::storage::{Applied, Storage};
use crate::options::PeerError;
use crate::status::{DivergenceStatus, unix_us};
use crate::transport::Transport;

/// Most events that wait to be written; more are only logged.
const MAX_EVENTS: usize = 4096;

/// When a checkpoint is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum CheckpointEvery {
    Time(Duration),
    Rounds(u64),
}

impl EventLoop {
    pub(super) async fn applied(
        &mut self,
        from: StateRef,
        applied: Applied,
        cover: &[SignedContribution],
    ) -> Result<(), PeerError> {
        let times = self.round.times(applied.sum, applied.update, applied.digest);
        let (units_computed, backup_units) = (self.round.units, self.round.backups);
        if self.parts.node.state().state == from {
            self.parts.stored = applied.stored.clone();
            self.update_status(&applied, cover);
        } else {
            // Another state came from others in the meantime and is what this peer works with.
            tracing::debug!(round = applied.meta.state.round, "a round was applied that had been caught up with");
        }
        // The protocol goes on first: the next round's units start before this one is written down.
        self.feed(Input::Applied { from, meta: applied.meta }).await?;
        let header = &applied.header;
        let at_us = unix_us();
        let evaluated = header.evaluation.filter(|evaluation| evaluation.round + 1 == header.round);
        let training = RoundPlan::new(self.parts.run.spec(), header.round - 1).gradient_units > 0;
        let tally = if training { header.training } else { Default::default() };
        let round = RoundRecord {
            round: header.round - 1,
            at_us,
            state_digest: applied.meta.state.digest,
            training_samples: tally.samples,
            training_correct: tally.correct,
            training_loss: (tally.samples > 0).then(|| tally.mean_loss()),
            evaluation: evaluated.map(|evaluation| (&evaluation.tally).into()),
            times,
            units_computed,
            backup_units,
        };
        let accepted = cover.iter().map(|signed| ContributionRecord::of(signed, at_us));
        let batch = Batch {
            state: Some((applied.meta.state, StateOrigin::Applied)),
            round: Some(round),
            contributions: self.combined.drain(..).chain(accepted).collect(),
            ..self.pending()
        };
        self.parts.journal.record(batch).await?;
        self.checkpoint_if_due().await
    }

    /// A worker has a state from its server: says so, and writes down what it did for the round before.
    pub(super) async fn taken(&mut self, meta: StateMeta, header: &StateHeader) -> Result<(), PeerError> {
        if !self.parts.node.takes_states() || self.parts.node.state() != meta || meta.finished {
            return Ok(());
        }
        let bill = self.parts.accounts.status();
        let neighbours = self.parts.node.neighbours();
        let bytes_sent = self.parts.transport.bytes_sent();
        update_soon(&self.parts.reporter, &mut self.status_written, false, |status| {
            describe(status, header, meta.state.digest);
            status.neighbours = neighbours;
            status.bytes_sent = bytes_sent;
            status.bill = bill;
        });
        self.flush().await
    }

    /// Invocations and events that wait to be written.
    pub(super) fn pending(&mut self) -> Batch {
        let records = self.parts.accounts.take_records();
        let round = self.parts.node.state().state.round;
        let exchanged = self.parts.exchange.as_ref().and_then(|exchange| exchange.record(round, unix_us()));
        if let Some(exchanged) = exchanged {
            self.parts.accounts.exchanged(&exchanged);
            self.events.push(exchanged);
        }
        Batch {
            invocations: invocation_records(records, self.parts.run.spec(), self.parts.journal.session()),
            events: std::mem::take(&mut self.events),
            refusals: self.refusals.take_records(),
            ..Batch::default()
        }
    }

    /// Writes down what has gathered since the last round.
    pub async fn flush(&mut self) -> Result<(), PeerError> {
        self.parts.reporter.update_later(|status| self.refusals.describe(status));
        let batch = self.pending();
        self.parts.journal.record(batch).await
    }

    pub(super) async fn checkpoint_if_due(&mut self) -> Result<(), PeerError> {
        let round = self.parts.node.state().state.round;
        let due = match self.parts.checkpoint_every {
            CheckpointEvery::Time(time) => self.checkpointed.elapsed() >= time,
            CheckpointEvery::Rounds(rounds) => round.saturating_sub(self.checkpointed_round) >= rounds,
        };
        if !due {
            return Ok(());
        }
        if let Some(previous) = self.checkpointing.take_if(|task| task.is_finished()) {
            previous.await.map_err(|_| PeerError::Thread("checkpoint"))??;
        }
        if self.checkpointing.is_none() {
            (self.checkpointed, self.checkpointed_round) = (Instant::now(), round);
            let storage = self.parts.storage.clone();
            self.checkpointing = Some(tokio::spawn(write_checkpoint(storage)));
        }
        Ok(())
    }

    pub(super) fn record(&mut self, event: &Event) {
        match event {
            Event::Refused { from, kind, reason } => return self.refuse(*from, *kind, reason),
            Event::Backup { .. } => self.round.backups += 1,
            Event::Divergence { round, own, winner, peer } => {
                tracing::error!(round, %own, %winner, other = %peer, "peers hold different states for one round");
                let last = DivergenceStatus { round: *round, own: *own, winner: *winner, peer: *peer };
                self.parts.reporter.update(|status| {
                    status.divergences += 1;
                    status.last_divergence = Some(last);
                });
            }
            _ => {}
        }
        tracing::info!(round = self.parts.node.state().state.round, event = ?event);
        let round = self.parts.node.state().state.round;
        if self.events.len() < MAX_EVENTS {
            self.events.push(event_record(event, round, unix_us()));
        }
    }
}

/// Writes a durable checkpoint of the current state.
pub(in crate::engine) async fn write_checkpoint(storage: Storage) -> Result<(), PeerError> {
    let snapshot = storage.run(|worker| worker.snapshot()).await??;
    let written = tokio::task::spawn_blocking(move || snapshot.write()).await;
    let path = written.map_err(|_| PeerError::Thread("checkpoint"))??;
    tracing::debug!(path = %path.display(), "checkpoint written");
    Ok(())
}
