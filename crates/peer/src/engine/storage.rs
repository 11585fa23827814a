//! The store's thread: everything that touches tensors happens there, in the order in which it was
//! asked for, so that the event loop never waits for a pass over a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc as blocking;
use std::time::Duration;

use peerless_protocol::{
    Digest, PayloadRef, RoundPlan, RunSpec, SignedContribution, StateHeader, StateMeta, StateRef, StopReason, Tally,
    UnitSet,
};
use peerless_store::{
    Advanced, Checkpoints, Cover, Outputs, Part, Payload, PayloadFormat, RoundSums, State, StateOrigin, Store,
    StoreError, StoredState, SumsError, UnitGradients,
};
use tokio::sync::oneshot;

use super::blobs::Blobs;
use crate::options::PeerError;

/// Payloads of one round that are kept, as a multiple of one payload: more than any honest round
/// needs (own sums, one contribution of each peer, backups), few enough to protect the memory.
const MAX_PAYLOADS: u64 = 256;

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// Hands work to the store's thread.
#[derive(Clone)]
pub(super) struct Storage {
    jobs: blocking::Sender<Job>,
    /// Where functions write to.
    outputs: Outputs,
}

/// What lives on the store's thread.
pub(super) struct Worker {
    store: Store,
    sums: RoundSums,
    state: State,
    current: StoredState,
    /// The round that sums are formed for.
    round: StateRef,
    /// A state fetched from others that the protocol has not adopted yet.
    fetched: Option<(State, StoredState)>,
    blobs: Arc<Blobs>,
}

/// Forms something from computed units; `Ok(None)` if their round is over.
pub(super) type SumOfOwn<T> = fn(&mut Worker, StateRef, &UnitSet) -> Result<Option<T>, SumsError>;

/// A state of others that is kept now.
pub(super) type TakenIn = (StateMeta, StoredState, Box<StateHeader>);

/// What applying a round gave.
pub(super) struct Applied {
    pub meta: StateMeta,
    pub stored: StoredState,
    pub header: StateHeader,
    pub sum: Duration,
    pub update: Duration,
    pub digest: Duration,
}

/// A state to be written as a checkpoint.
pub(super) struct Snapshot {
    checkpoints: Checkpoints,
    spec: RunSpec,
    state: State,
    digest: Digest,
}

impl Snapshot {
    /// Writes it durably. Blocks.
    pub fn write(&self) -> Result<PathBuf, PeerError> {
        Ok(self.checkpoints.write(&self.spec, &self.state, self.digest).map_err(StoreError::from)?)
    }
}

impl Storage {
    /// Starts the thread; `store` holds `state` as `current`, whose payloads have `format`.
    pub fn start(
        store: Store,
        state: State,
        current: StoredState,
        blobs: Arc<Blobs>,
        format: PayloadFormat,
        gradients: Box<dyn UnitGradients>,
    ) -> Result<Self, PeerError> {
        let limit = MAX_PAYLOADS.saturating_mul(format.bytes() as u64);
        let sums = RoundSums::with_gradients(format, limit, gradients);
        let round = current.reference;
        let outputs = store.tensors.outputs().clone();
        let mut worker = Worker { store, sums, state, current, round, fetched: None, blobs };
        worker.publish_states();
        let (jobs, queue) = blocking::channel::<Job>();
        let work = move || queue.into_iter().for_each(|job| job(&mut worker));
        let thread = std::thread::Builder::new().name("store".into()).spawn(work);
        thread.map_err(|_| PeerError::Thread("store"))?;
        Ok(Self { jobs, outputs })
    }

    /// A file for a function to write a unit's gradient to. Does not wait for the thread, so that a function begins while
    /// that still clears away the round before.
    pub fn unit_output(&self, round: u64, unit: u32) -> PathBuf {
        self.outputs.of_unit(round, unit)
    }

    /// Runs `job` on the thread, after everything asked for before this call. The order is that of the
    /// calls: the job is queued at once, and the future only waits for its result.
    pub fn run<R, F>(&self, job: F) -> impl Future<Output = Result<R, PeerError>> + Send + use<R, F>
    where
        R: Send + 'static,
        F: FnOnce(&mut Worker) -> R + Send + 'static,
    {
        let (reply, result) = oneshot::channel();
        self.post(move |worker| {
            // Whoever asked may be gone; the work is done all the same.
            let _ = reply.send(job(worker));
        });
        async move { result.await.map_err(|_| PeerError::Thread("store")) }
    }

    /// Runs `job` on the thread without waiting.
    pub fn post(&self, job: impl FnOnce(&mut Worker) + Send + 'static) {
        // Fails only when the thread has died, which the next `run` reports.
        let _ = self.jobs.send(Box::new(job));
    }
}

pub(super) fn meta(state: &State, stored: &StoredState) -> StateMeta {
    StateMeta { state: stored.reference, bytes: stored.size, finished: state.header.finished.is_some() }
}

impl Worker {
    fn publish_states(&self) {
        let digests = self.store.tensors.states().map(|stored| stored.reference.digest);
        let files = digests.filter_map(|digest| Some((digest, self.store.tensors.state_file(&digest)?)));
        self.blobs.set_states(files.collect());
    }

    /// Starts the round from `from`, which is the current state or one fetched from others.
    pub fn begin_round(&mut self, from: StateRef) -> Result<(), PeerError> {
        self.adopt(from)?;
        self.round = from;
        let plan = RoundPlan::new(self.store.spec(), from.round);
        self.blobs.clear_payloads();
        self.sums.begin(&plan).map_err(StoreError::from)?;
        self.store.tensors.remove_outputs_before(from.round).map_err(StoreError::from)?;
        Ok(())
    }

    /// Makes a state the current one: the one that is it already, the one fetched last, or another of
    /// those kept.
    pub fn adopt(&mut self, reference: StateRef) -> Result<(), PeerError> {
        if self.current.reference == reference {
            return Ok(());
        }
        if let Some((state, stored)) = self.fetched.take_if(|(_, stored)| stored.reference == reference) {
            (self.state, self.current) = (state, stored);
            return Ok(());
        }
        let kept = self.store.tensors.state(&reference.digest).filter(|stored| stored.reference == reference);
        let stored = kept.cloned().ok_or(PeerError::StateGone { wanted: reference })?;
        self.state = self.store.tensors.load(&reference.digest).map_err(StoreError::from)?;
        self.current = stored;
        Ok(())
    }

    /// Adds a computed gradient. `Ok(false)` if its round is over.
    pub fn add_unit(&mut self, from: StateRef, unit: u32, path: &Path, digest: Digest) -> Result<bool, SumsError> {
        if self.round != from {
            // The file goes with the next clean-up of outputs.
            return Ok(false);
        }
        self.sums.add_unit(unit, path, digest).map(|()| true)
    }

    /// Forms the sum of computed units; `Ok(None)` if their round is over.
    pub fn sum(&mut self, from: StateRef, units: &UnitSet) -> Result<Option<PayloadRef>, SumsError> {
        if self.round != from {
            return Ok(None);
        }
        Ok(self.sums.sum_of(units)?.map(|sum| self.publish(sum)))
    }

    /// Forms the sum of computed units in shards; `Ok(None)` if their round is over.
    pub fn split(&mut self, from: StateRef, units: &UnitSet) -> Result<Option<Vec<PayloadRef>>, SumsError> {
        if self.round != from {
            return Ok(None);
        }
        let shards = self.sums.split(units)?;
        Ok(Some(shards.into_iter().map(|shard| self.publish(shard)).collect()))
    }

    /// Forms one shard of the sum of the round; `Ok(None)` if the round is over.
    pub fn combine(
        &mut self,
        from: StateRef,
        shard: u32,
        cover: &[SignedContribution],
    ) -> Result<Option<PayloadRef>, SumsError> {
        if self.round != from {
            return Ok(None);
        }
        let total = self.sums.combine(shard, &parts(cover))?;
        Ok(Some(self.publish(total)))
    }

    /// Lets other peers fetch a payload.
    fn publish(&self, (digest, payload): (Digest, Arc<Payload>)) -> PayloadRef {
        let bytes = payload.as_bytes().len() as u64;
        self.blobs.add_payload(digest, payload);
        PayloadRef { digest, bytes }
    }

    /// Keeps a payload whose digest the transport has verified.
    pub fn receive(&mut self, digest: Digest, bytes: &[u8]) -> Result<PayloadRef, SumsError> {
        let format = self.sums.format();
        let payload = Payload::decode_verified(bytes, &format.of_length(bytes.len()).unwrap_or(*format))?;
        self.sums.hold(digest, payload)?;
        Ok(PayloadRef { digest, bytes: bytes.len() as u64 })
    }

    /// Forgets payloads.
    pub fn drop_payloads(&mut self, digests: &[Digest]) {
        self.sums.drop_payloads(digests);
    }

    /// Adds a payload that is held to the round's total.
    pub fn accumulate(&mut self, from: StateRef, units: &UnitSet, digest: Digest) -> Result<(), SumsError> {
        if self.round == from { self.sums.accumulate(units, digest) } else { Ok(()) }
    }

    /// Forms the next state.
    pub fn apply(&mut self, from: StateRef, cover: &[SignedContribution]) -> Result<Applied, PeerError> {
        if self.current.reference != from || self.round != from {
            return Err(PeerError::StateGone { wanted: from });
        }
        let (training, evaluation) = totals(cover)?;
        let plan = RoundPlan::new(self.store.spec(), from.round);
        let evaluation = (plan.evaluation_units > 0).then_some(evaluation);
        let advanced =
            self.store.advance(&mut self.state, &mut self.sums, &store_cover(cover), training, evaluation)?;
        let Advanced { stored, sum, update, digest } = advanced;
        self.current = stored.clone();
        self.publish_states();
        let meta = meta(&self.state, &stored);
        Ok(Applied { meta, stored, header: self.state.header.clone(), sum, update, digest })
    }

    /// Keeps a state fetched from others, whose digest is checked; `Ok(None)` if it is not a state, or
    /// of another round than was said. Nothing of it is kept then.
    pub fn take_in(&mut self, wanted: StateRef, bytes: &[u8]) -> Result<Option<TakenIn>, PeerError> {
        let state = self.decode(bytes).filter(|state| state.header.round == wanted.round);
        state.map(|state| self.keep(state)).transpose()
    }

    /// Keeps a state that was pushed here under this digest; `Ok(None)` if it is not that state.
    pub fn take_in_pushed(&mut self, digest: Digest, bytes: &[u8]) -> Result<Option<TakenIn>, PeerError> {
        let taken = self.decode(bytes).map(|state| self.keep(state)).transpose()?;
        Ok(taken.filter(|(meta, ..)| meta.state.digest == digest))
    }

    fn decode(&self, bytes: &[u8]) -> Option<State> {
        State::decode(bytes, self.store.spec()).ok()
    }

    fn keep(&mut self, state: State) -> Result<TakenIn, PeerError> {
        let stored = self.store.adopt(&state, StateOrigin::Fetched)?;
        self.publish_states();
        let (meta, header) = (meta(&state, &stored), Box::new(state.header.clone()));
        self.fetched = Some((state, stored.clone()));
        Ok((meta, stored, header))
    }

    /// The header of the current state.
    pub fn header(&self) -> StateHeader {
        self.state.header.clone()
    }

    /// What a checkpoint of the current state takes, to be written on another thread: flushing it to
    /// the device can take longer than a round.
    pub fn snapshot(&self) -> Result<Snapshot, PeerError> {
        let StateRef { round, digest } = self.current.reference;
        if self.state.header.round != round {
            // A round was applied, but its state could not be stored. The old one still is.
            return Err(PeerError::StateGone { wanted: self.current.reference });
        }
        let (checkpoints, spec) = (self.store.checkpoints.clone(), self.store.spec().clone());
        Ok(Snapshot { checkpoints, spec, state: self.state.clone(), digest })
    }
}

/// The contributions with gradient units as the store speaks of them.
fn parts(cover: &[SignedContribution]) -> Vec<Part> {
    let contributions = cover.iter().map(|signed| &signed.contribution);
    contributions.filter_map(|part| Some((part.units.clone(), part.payload?.digest))).collect()
}

fn store_cover(cover: &[SignedContribution]) -> Cover {
    let mut shards: Vec<(u32, Digest)> = cover
        .iter()
        .filter_map(|signed| Some((signed.contribution.shard?, signed.contribution.payload?.digest)))
        .collect();
    if shards.is_empty() {
        return Cover::Parts(parts(cover));
    }
    shards.sort_unstable();
    Cover::Shards(shards.into_iter().map(|(_, digest)| digest).collect())
}

/// The tallies of a whole round. Every shard has them; they count once.
fn totals(cover: &[SignedContribution]) -> Result<(Tally, Tally), PeerError> {
    let add = |total: Option<(Tally, Tally)>, signed: &SignedContribution| {
        let (training, evaluation) = total?;
        let part = &signed.contribution;
        Some((training.checked_add(part.training)?, evaluation.checked_add(part.evaluation)?))
    };
    let first = cover.iter().filter(|signed| matches!(signed.contribution.shard, None | Some(0)));
    let totals = first.fold(Some(Default::default()), add);
    let round = cover.first().map_or(0, |signed| signed.contribution.from.round);
    totals.ok_or(PeerError::Stopped(StopReason::LossOverflow { round }))
}
