//! What the protocol asks for: each effect is a task that tells the loop what it came to.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerless_protocol::{
    Digest, Input, PayloadRef, PeerId, RoundPlan, SignedContribution, StateRef, UnitKind, UnitSet,
};
use peerless_store::{StoreError, SumsError};
use tokio::task::AbortHandle;

use super::{Done, EventLoop};
use crate::engine::clock::RoundClock;
use crate::engine::refusals;
use crate::engine::storage::{Storage, SumOfOwn, Worker};
use crate::options::PeerError;
use crate::status::unix_us;
use crate::transport::Transport;
use crate::transport::download::{Download, fetch_blob};

/// How often lost gradients are computed again for one sum. Once is enough, since they are not put into the database
/// again; others of the round may have been on their way there.
const MAX_LOSSES: u32 = 3;

impl EventLoop {
    /// Runs a task and feeds its result to the protocol.
    pub(super) fn spawn(
        &self,
        task: impl Future<Output = Result<Option<Done>, PeerError>> + Send + 'static,
    ) -> AbortHandle {
        let done = self.done.clone();
        let run = async move {
            let result = match task.await {
                Ok(None) => return,
                Ok(Some(result)) => result,
                Err(error) => Done::Failed(error),
            };
            // The loop is gone only when the process ends.
            let _ = done.send(result);
        };
        tokio::spawn(run).abort_handle()
    }

    pub(super) fn take_payload(&self, from: PeerId, digest: Digest, bytes: Bytes) {
        let place = kibibytes(bytes.len() as u64);
        let Ok(place) = Arc::clone(&self.receiving).try_acquire_many_owned(place) else {
            // The protocol asks for it again if it is needed.
            tracing::debug!(from = %from.short(), "a payload came while too many others wait for the store");
            return;
        };
        let received = self.parts.storage.run(move |worker| worker.receive(digest, &bytes));
        self.spawn(async move {
            let received = received.await?;
            drop(place);
            match received {
                Ok(payload) => Ok(Some(Done::Input(Input::PayloadHeld(payload)))),
                Err(error) => {
                    let refused = |kind| Done::Refused { from, kind, reason: error.to_string() };
                    let refused = refusals::of_payload(&error).map(refused);
                    if refused.is_none() {
                        tracing::warn!(from = %from.short(), %error, "a payload is not used");
                    }
                    Ok(refused)
                }
            }
        });
    }

    pub(super) fn push(&self, to: PeerId, payload: PayloadRef) {
        let Some(bytes) = self.parts.blobs.payload(&payload.digest) else { return };
        if let Err(error) = self.parts.transport.push(to, payload.digest, bytes) {
            tracing::debug!(to = %to.short(), %error, "a payload was not pushed");
        }
    }

    pub(super) fn fetch_payload(&self, from: PeerId, payload: PayloadRef) {
        let transport = Arc::clone(&self.parts.transport);
        let storage = self.parts.storage.clone();
        self.spawn(async move {
            let fetched = fetch_blob(&transport, payload.digest, payload.bytes, &[from]).await;
            let Ok(downloaded) = fetched else { return Ok(None) };
            let received = storage.run(move |worker| worker.receive(payload.digest, &downloaded.bytes)).await?;
            Ok(received.ok().map(|payload| Done::Input(Input::PayloadHeld(payload))))
        });
    }

    pub(super) fn begin_round(&mut self, from: StateRef) {
        self.computing.drain(..).for_each(|task| task.abort());
        self.adopt(from);
        self.round = RoundClock::start();
        let units = RoundPlan::new(self.parts.run.spec(), from.round).total();
        let peers = 1 + self.parts.node.neighbours().count();
        self.parts.accounts.begin_round(units.div_ceil(u32::try_from(peers).unwrap_or(u32::MAX)));
        self.parts.reporter.update(|status| {
            status.training_since_unix_us.get_or_insert_with(unix_us);
        });
        let begun = self.parts.storage.run(move |worker| worker.begin_round(from));
        self.spawn(async move {
            begun.await??;
            Ok(None)
        });
    }

    pub(super) fn adopt(&mut self, state: StateRef) {
        if let Some(stored) = self.fetched.take_if(|stored| stored.reference == state) {
            self.parts.stored = stored;
        }
    }

    pub(super) fn compute(&mut self, from: StateRef, unit: u32, kind: UnitKind) {
        if self.parts.accounts.is_used_up() {
            return;
        }
        if self.parts.stored.reference != from {
            let cause = PeerError::StateGone { wanted: from }.to_string();
            let failed = Done::Input(Input::UnitFailed { from, unit, cause });
            self.spawn(async { Ok(Some(failed)) });
            return;
        }
        let stored = self.parts.stored.clone();
        let storage = self.parts.storage.clone();
        let functions = Arc::clone(&self.parts.functions);
        let task = self.spawn(async move {
            let input = functions.compute(&storage, &stored, unit, kind).await;
            Ok(input.map(Done::Input))
        });
        self.computing.push(task);
    }

    pub(super) fn sum(&self, from: StateRef, units: UnitSet) {
        let summed = self.form(from, &units, Worker::sum);
        self.spawn(async move { Ok(summed.await?.map(|(payload, took)| Done::Summed { from, units, payload, took })) });
    }

    pub(super) fn split(&self, from: StateRef, units: UnitSet) {
        let split = self.form(from, &units, Worker::split);
        self.spawn(async move { Ok(split.await?.map(|(shards, took)| Done::Split { from, units, shards, took })) });
    }

    /// Has sums of own units formed, and timed. `None` if their round is over.
    pub(super) fn form<T: Send + 'static>(
        &self,
        from: StateRef,
        units: &UnitSet,
        sum: SumOfOwn<T>,
    ) -> impl Future<Output = Result<Option<(T, Duration)>, PeerError>> + Send + use<T> {
        let (storage, units) = (self.parts.storage.clone(), units.clone());
        let again = storage.clone();
        let form = move |storage: &Storage| {
            let units = units.clone();
            storage.run(move |worker| {
                let start = Instant::now();
                sum(worker, from, &units).map(|sum| sum.map(|sum| (sum, start.elapsed())))
            })
        };
        let first = form(&storage);
        let (functions, state) = (Arc::clone(&self.parts.functions), self.parts.stored.clone());
        async move {
            let mut formed = first.await?;
            for _ in 0..MAX_LOSSES {
                let Err(SumsError::Lost { units }) = &formed else { break };
                tracing::warn!(round = from.round, units = units.len(), "gradients are lost and computed again");
                functions.compute_again(&again, &state, units).await?;
                formed = form(&again).await?;
            }
            Ok(formed.map_err(StoreError::from)?)
        }
    }

    pub(super) fn combine(&self, from: StateRef, shard: u32, cover: Vec<SignedContribution>) {
        let parts = cover.clone();
        let combined = self.parts.storage.run(move |worker| worker.combine(from, shard, &parts));
        self.spawn(async move {
            match combined.await? {
                Ok(payload) => Ok(payload.map(|payload| Done::Combined { from, shard, payload, cover })),
                Err(error) => Err(peerless_store::StoreError::from(error).into()),
            }
        });
    }

    pub(super) fn accumulate(&self, from: StateRef, units: UnitSet, digest: Digest) {
        self.parts.storage.post(move |worker| {
            if let Err(error) = worker.accumulate(from, &units, digest) {
                // Applying the round will fail with the same error if the payload is needed.
                tracing::warn!(%error, "a payload was not added");
            }
        });
    }

    pub(super) fn apply(&self, from: StateRef, cover: Vec<SignedContribution>) {
        let parts = cover.clone();
        let applied = self.parts.storage.run(move |worker| worker.apply(from, &parts));
        self.spawn(async move {
            let applied = applied.await??;
            Ok(Some(Done::Applied { from, applied: Box::new(applied), cover }))
        });
    }

    pub(super) fn fetch_state(&self, state: StateRef, bytes: u64, donors: Vec<PeerId>) {
        let (transport, partial) = (Arc::clone(&self.parts.transport), Arc::clone(&self.partial));
        let storage = self.parts.storage.clone();
        self.spawn(async move {
            let unavailable = Ok(Some(Done::Input(Input::StateUnavailable(state))));
            let begun = partial.lock().unwrap_or_else(PoisonError::into_inner).take();
            let begun = begun.filter(|download| download.is_of(&state.digest, bytes));
            let mut download = begun.unwrap_or_else(|| Download::new(state.digest, bytes));
            let downloaded = match download.run(&transport, &donors).await {
                Ok(downloaded) => downloaded,
                Err(error) => {
                    tracing::info!(round = state.round, %error, "a state was not fetched");
                    *partial.lock().unwrap_or_else(PoisonError::into_inner) = Some(download);
                    return unavailable;
                }
            };
            match storage.run(move |worker| worker.take_in(state, &downloaded.bytes)).await?? {
                Some((meta, stored)) => Ok(Some(Done::Fetched { meta, stored })),
                None => {
                    tracing::warn!(round = state.round, "what another peer sent is not the state that it announced");
                    unavailable
                }
            }
        });
    }
}

pub(super) fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
