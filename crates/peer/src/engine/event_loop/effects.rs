//! What the protocol asks for: each effect is a task that tells the loop what it came to.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerless_protocol::{
    Digest, Input, MAX_SHARDS, Message, PayloadRef, PeerId, RefusalKind, RoundPlan, SignedContribution, StateRef,
    UnitKind, UnitSet,
};
use peerless_store::{StoreError, SumsError};
use tokio::task::AbortHandle;

use super::{Done, EventLoop};
use crate::engine::clock::RoundClock;
use crate::engine::refusals;
use crate::engine::storage::{Storage, SumOfOwn, Worker};
use crate::options::PeerError;
use crate::status::unix_us;
use crate::transport::download::{Download, fetch_blob};
use crate::transport::{PeerTransport, Transport};

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

    /// Sends a message. What it announces is in the bucket first, if sums go that way.
    pub(super) fn send(&mut self, to: PeerId, message: &Message) {
        let bytes = Bytes::from(message.encode());
        let payload = match message {
            Message::Contribution(signed) => signed.contribution.payload,
            _ => None,
        };
        let held = payload.and_then(|payload| Some((payload.digest, self.parts.blobs.payload(&payload.digest)?)));
        let written = self.parts.exchange.as_mut().zip(held);
        let Some(written) = written.map(|(exchange, (digest, sum))| exchange.write(digest, sum)) else {
            return send(&self.parts.transport, to, bytes);
        };
        let transport = Arc::clone(&self.parts.transport);
        self.spawn(async move {
            written.await;
            send(&transport, to, bytes);
            Ok(None)
        });
    }

    /// Reads a sum that another peer has announced, if sums go through a bucket.
    pub(super) fn read_shared(&mut self, from: PeerId, payload: PayloadRef) {
        // What is longer is refused when the protocol looks at it.
        let allowed = payload.bytes <= self.parts.payload_bytes;
        let reading = self.parts.exchange.as_mut().filter(|_| allowed);
        let round = self.parts.node.state().state.round;
        let units = RoundPlan::new(self.parts.run.spec(), round).total();
        // As many sums as there are units, and all shards of one, with their totals.
        let limit = (units + 2 * MAX_SHARDS) as usize;
        let Some(reading) = reading.and_then(|exchange| exchange.read(from, payload, limit)) else { return };
        let place = Arc::clone(&self.receiving).try_acquire_many_owned(kibibytes(payload.bytes));
        let Ok(place) = place else { return };
        self.spawn(async move {
            let bytes = reading.await;
            drop(place);
            Ok(bytes.map(|bytes| Done::Arrived { from, digest: payload.digest, bytes }))
        });
    }

    pub(super) fn payload_arrived(&mut self, from: PeerId, digest: Digest, bytes: Bytes) {
        self.round.payload_arrived(&digest);
        self.take_payload(from, digest, bytes);
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

    /// Pushes a sum, unless its receivers read it from a bucket.
    pub(super) fn push(&self, to: PeerId, payload: PayloadRef) {
        if self.parts.exchange.is_some() {
            return;
        }
        let Some(bytes) = self.parts.blobs.payload(&payload.digest) else { return };
        if let Err(error) = self.parts.transport.push(to, payload.digest, bytes) {
            tracing::debug!(to = %to.short(), %error, "a payload was not pushed");
        }
    }

    /// Sends a state to workers, from one copy.
    pub(super) fn push_state(&self, to: Vec<PeerId>, state: StateRef) {
        let (transport, blobs) = (Arc::clone(&self.parts.transport), Arc::clone(&self.parts.blobs));
        // The file is in memory, but may be large.
        tokio::task::spawn_blocking(move || match blobs.state(&state.digest) {
            Ok(bytes) => to.into_iter().for_each(|to| {
                if let Err(error) = transport.push(to, state.digest, bytes.clone()) {
                    tracing::debug!(to = %to.short(), %error, "a state was not pushed");
                }
            }),
            // Whoever needs it asks for it.
            Err(error) => tracing::warn!(round = state.round, %error, "a state was not pushed"),
        });
    }

    /// Takes in a state that the server pushed.
    pub(super) fn take_state(&self, from: PeerId, digest: Digest, bytes: Bytes) {
        let place = kibibytes(bytes.len() as u64);
        let place = Arc::clone(&self.receiving).try_acquire_many_owned(place);
        let (true, Ok(place)) = (self.parts.node.talks_to(&from), place) else {
            // It is asked for again if it is needed.
            tracing::debug!(from = %from.short(), "a state was not taken in");
            return;
        };
        let taken = self.parts.storage.run(move |worker| worker.take_in_pushed(digest, &bytes));
        self.spawn(async move {
            let taken = taken.await?;
            drop(place);
            let wrong = || Done::Refused { from, kind: RefusalKind::Wrong, reason: "a blob that is no state".into() };
            let fetched = taken?.map(|(meta, stored, header)| Done::Fetched { meta, stored, header });
            Ok(Some(fetched.unwrap_or_else(wrong)))
        });
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
        if let Some(exchange) = &mut self.parts.exchange {
            exchange.begin_round();
        }
        let units = RoundPlan::new(self.parts.run.spec(), from.round).total();
        let peers = 1 + self.parts.node.neighbours();
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
                Some((meta, stored, header)) => Ok(Some(Done::Fetched { meta, stored, header })),
                None => {
                    tracing::warn!(round = state.round, "what another peer sent is not the state that it announced");
                    unavailable
                }
            }
        });
    }
}

fn send(transport: &PeerTransport, to: PeerId, message: Bytes) {
    if let Err(error) = transport.send(to, message) {
        tracing::debug!(to = %to.short(), %error, "a message was not sent");
    }
}

pub(super) fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
