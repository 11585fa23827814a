//! Executes the protocol: feeds it what happens and does what it says.

mod effects;
mod records;
mod reports;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerless_protocol::{
    Digest, Effect, Input, Member, Message, Participant, PayloadRef, PeerId, RefusalKind, SignedContribution,
    StateHeader, StateMeta, StateRef, UnitSet,
};
use peerless_store::{ContributionRecord, EventRecord, StoredState};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::MissedTickBehavior;

use super::accounts::{self, Accounts};
use super::blobs::Blobs;
use super::clock::{Clock, RoundClock};
use super::discovery::Discovery;
use super::exchange::Exchange;
use super::functions::Functions;
use super::journal::{Journal, numerics_record};
use super::refusals::{self, Refusals};
use super::reporter::Reporter;
use super::storage::{Applied, Storage};
use crate::options::PeerError;
use crate::run_directory::RunDirectory;
use crate::status::unix_us;
use crate::transport::PeerTransport;
use crate::transport::download::Download;
use crate::transport::{self, Rejection, Transport};
use effects::kibibytes;
pub(super) use records::{CheckpointEvery, write_checkpoint};
pub(super) use reports::{evaluation_status, functions_status};

/// How often the run directory is searched for peers. They are dialled again by the transport on its
/// own; this only finds new ones.
const DISCOVERY_EVERY: Duration = Duration::from_millis(250);

/// How often the status says what the functions do. On a timer of its own: the protocol's ticks stay away
/// while rounds are short, and right after a round no function ever works.
const FUNCTIONS_EVERY: Duration = Duration::from_millis(100);

/// Most payloads that wait for the store's thread; of shards as many more as they are smaller.
const MAX_RECEIVING: u32 = 32;

/// What a task of the event loop came to.
pub(super) enum Done {
    Input(Input),
    Summed { from: StateRef, units: UnitSet, payload: PayloadRef, took: Duration },
    Split { from: StateRef, units: UnitSet, shards: Vec<PayloadRef>, took: Duration },
    Combined { from: StateRef, shard: u32, payload: PayloadRef, cover: Vec<SignedContribution> },
    Applied { from: StateRef, applied: Box<Applied>, cover: Vec<SignedContribution> },
    Fetched { meta: StateMeta, stored: StoredState, header: Box<StateHeader> },
    Refused { from: PeerId, kind: RefusalKind, reason: String },
    Arrived { from: PeerId, digest: Digest, bytes: Bytes },
    Failed(PeerError),
}

/// What the event loop works with.
pub(super) struct Parts {
    pub node: Participant,
    pub clock: Clock,
    pub transport: Arc<PeerTransport>,
    pub storage: Storage,
    pub functions: Arc<Functions>,
    pub accounts: Arc<Accounts>,
    pub blobs: Arc<Blobs>,
    pub journal: Journal,
    pub reporter: Reporter,
    pub run: RunDirectory,
    pub stored: StoredState,
    pub checkpoint_every: CheckpointEvery,
    /// Length of a payload of the whole vector.
    pub payload_bytes: u64,
    /// The bucket by which sums go from peer to peer, if they do not go directly.
    pub exchange: Option<Exchange>,
    /// Numerics of the functions.
    pub fingerprint: Digest,
}

pub(super) struct EventLoop {
    parts: Parts,
    done: mpsc::UnboundedSender<Done>,
    finished_tasks: mpsc::UnboundedReceiver<Done>,
    /// Units being computed for the round under way.
    computing: Vec<AbortHandle>,
    round: RoundClock,
    events: Vec<EventRecord>,
    /// Contributions that shards were added up from since the last round was written down.
    combined: Vec<ContributionRecord>,
    refusals: Refusals,
    fetched: Option<StoredState>,
    /// What has arrived of a state whose donors went away: others may still have it.
    partial: Arc<Mutex<Option<Download>>>,
    /// Bounds the payloads on their way to the store's thread, in KiB.
    receiving: Arc<Semaphore>,
    checkpointing: Option<JoinHandle<Result<(), PeerError>>>,
    checkpointed: Instant,
    /// The round of the last checkpoint, or of the state that the process began with.
    checkpointed_round: u64,
    status_written: Instant,
    over: Option<Result<(), PeerError>>,
}

impl EventLoop {
    pub fn new(parts: Parts) -> Self {
        // Unbounded, but every message in it answers one effect of the protocol, whose number per
        // round is bounded by units and peers, or one of at most `MAX_RECEIVING` payloads.
        let (done, finished_tasks) = mpsc::unbounded_channel();
        let receiving = kibibytes(parts.payload_bytes).saturating_mul(MAX_RECEIVING);
        let round = parts.node.state().state.round;
        let begun = numerics_record(parts.fingerprint, round, unix_us());
        Self {
            parts,
            done,
            finished_tasks,
            computing: Vec::new(),
            round: RoundClock::start(),
            events: vec![begun],
            combined: Vec::new(),
            refusals: Refusals::default(),
            fetched: None,
            partial: Arc::default(),
            receiving: Arc::new(Semaphore::new(receiving as usize)),
            checkpointing: None,
            checkpointed: Instant::now(),
            checkpointed_round: round,
            status_written: Instant::now(),
            over: None,
        }
    }

    /// Runs until the protocol says that nothing is left to do, or something fails.
    pub async fn run(
        &mut self,
        mut events: transport::Events,
        leave: impl Future<Output = ()> + Send,
    ) -> Result<(), PeerError> {
        tokio::pin!(leave);
        let mut left = false;
        let mut discovery = Discovery::default();
        let mut look = tokio::time::interval(DISCOVERY_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut describe = tokio::time::interval(FUNCTIONS_EVERY);
        describe.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut money = tokio::time::interval(accounts::LOOK_EVERY);
        money.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.feed(Input::Tick).await?;
        while self.over.is_none() {
            if !left && self.parts.accounts.is_used_up() {
                left = true;
                self.leave_for_budget().await?;
                continue;
            }
            let now = self.parts.clock.now();
            let wake = self.parts.node.deadline().unwrap_or(now);
            tokio::select! {
                Some(done) = self.finished_tasks.recv() => self.task_finished(done).await?,
                Some(event) = events.recv() => self.transport_event(event).await?,
                () = tokio::time::sleep_until(self.parts.clock.instant(wake).into()) => self.feed(Input::Tick).await?,
                _ = describe.tick() => self.update_functions(),
                _ = money.tick() => { self.parts.accounts.look(); }
                () = &mut leave, if !left => {
                    left = true;
                    tracing::info!("asked to leave");
                    self.feed(Input::Leave).await?;
                }
                _ = look.tick() => self.dial_found(&mut discovery),
            }
        }
        self.over.take().unwrap_or(Ok(()))
    }

    async fn leave_for_budget(&mut self) -> Result<(), PeerError> {
        let round = self.parts.node.state().state.round;
        tracing::info!(round, "the budget does not pay for more; leaving with a checkpoint");
        self.events.push(self.parts.accounts.used_up_event(round, unix_us()));
        self.feed(Input::Leave).await
    }

    /// Ends the functions, so that what was at work is metered, too.
    pub async fn stop_functions(&mut self) {
        self.computing.drain(..).for_each(|task| task.abort());
        self.parts.functions.shutdown().await;
    }

    /// Ends what is under way and returns the parts for the clean-up.
    pub async fn close(mut self) -> Parts {
        self.computing.drain(..).for_each(|task| task.abort());
        if let Some(task) = self.checkpointing.take()
            && let Ok(Err(error)) = task.await
        {
            tracing::warn!(%error, "the last periodic checkpoint failed");
        }
        self.parts
    }

    fn dial_found(&self, discovery: &mut Discovery) {
        for (peer, addresses) in discovery.look(&self.parts.run, self.parts.node.id()) {
            if self.parts.node.talks_to(&peer) {
                self.parts.transport.dial(peer, addresses);
            }
        }
    }

    async fn feed(&mut self, input: Input) -> Result<(), PeerError> {
        let now = self.parts.clock.now();
        for effect in self.parts.node.handle(now, input) {
            self.perform(effect).await?;
        }
        Ok(())
    }

    async fn task_finished(&mut self, done: Done) -> Result<(), PeerError> {
        match done {
            Done::Input(input) => {
                let state = self.parts.node.state().state;
                if matches!(input, Input::UnitComputed { from, .. } if from == state) {
                    self.round.unit_computed();
                }
                self.feed(input).await
            }
            Done::Summed { from, units, payload, took } => {
                self.round.summed(took);
                self.feed(Input::Summed { from, units, payload }).await
            }
            Done::Split { from, units, shards, took } => {
                self.round.summed(took);
                self.feed(Input::Split { from, units, shards }).await
            }
            Done::Combined { from, shard, payload, cover } => {
                let at_us = unix_us();
                let piece = |signed| ContributionRecord { accepted: false, ..ContributionRecord::of(signed, at_us) };
                self.combined.extend(cover.iter().map(piece));
                self.feed(Input::Combined { from, shard, payload }).await
            }
            Done::Applied { from, applied, cover } => self.applied(from, *applied, &cover).await,
            Done::Fetched { meta, stored, header } => {
                self.fetched = Some(stored);
                self.feed(Input::StateFetched(meta)).await?;
                self.taken(meta, &header).await
            }
            Done::Refused { from, kind, reason } => {
                self.refuse(from, kind, &reason);
                Ok(())
            }
            Done::Arrived { from, digest, bytes } => {
                self.payload_arrived(from, digest, bytes);
                Ok(())
            }
            Done::Failed(error) => Err(error),
        }
    }

    fn refuse(&mut self, from: PeerId, kind: RefusalKind, reason: &str) {
        self.refusals.count(from, kind, reason, unix_us());
    }

    async fn transport_event(&mut self, event: transport::Event) -> Result<(), PeerError> {
        match event {
            transport::Event::Connected { peer, addresses } => {
                self.feed(Input::Connected(Member { peer, addresses })).await
            }
            transport::Event::Disconnected { peer, reason } => {
                tracing::info!(peer = %peer.short(), %reason, "disconnected");
                if let Some(kind) = refusals::of_close(&reason) {
                    self.refuse(peer, kind, &reason.to_string());
                }
                self.feed(Input::Disconnected(peer)).await
            }
            transport::Event::Message { from, bytes } => match Message::decode(&bytes) {
                Ok(message) => {
                    if let Message::Contribution(signed) = &message
                        && let Some(payload) = signed.contribution.payload
                    {
                        self.round.payload_announced(payload.digest);
                        self.read_shared(from, payload);
                    }
                    self.feed(Input::Message { from, message }).await
                }
                Err(error) => {
                    self.refuse(from, refusals::of_message(&error), &error.to_string());
                    Ok(())
                }
            },
            transport::Event::Payload { from, digest, bytes } => {
                if self.parts.node.takes_states() {
                    self.take_state(from, digest, bytes);
                } else {
                    self.payload_arrived(from, digest, bytes);
                }
                Ok(())
            }
            transport::Event::Rejected { peer, address, reason } => {
                if let (Some(peer), Some(kind)) = (peer, refusals::of_rejection(&reason)) {
                    self.refuse(peer, kind, &reason.to_string());
                    return Ok(());
                }
                let peer = peer.map(|peer| peer.short()).unwrap_or_default();
                match reason {
                    // Said for every dial of a peer that is away.
                    Rejection::Unreachable(_) => tracing::debug!(%peer, %address, %reason, "not reachable"),
                    _ => tracing::warn!(%peer, %address, %reason, "a connection was turned away"),
                }
                Ok(())
            }
        }
    }

    async fn perform(&mut self, effect: Effect) -> Result<(), PeerError> {
        match effect {
            Effect::Send { to, message } => self.send(to, &message),
            Effect::Connect(member) => self.parts.transport.dial(member.peer, member.addresses),
            Effect::PushPayload { to, payload } => self.push(to, payload),
            Effect::PushState { to, state } => self.push_state(to, state),
            Effect::FetchPayload { from, payload } => self.fetch_payload(from, payload),
            Effect::BeginRound { from } => self.begin_round(from),
            Effect::Compute { from, unit, kind } => self.compute(from, unit, kind),
            Effect::Sum { from, units } => self.sum(from, units),
            Effect::Split { from, units } => self.split(from, units),
            Effect::Combine { from, shard, cover } => self.combine(from, shard, cover),
            Effect::Accumulate { from, units, payload } => self.accumulate(from, units, payload.digest),
            Effect::Apply { from, cover } => self.apply(from, cover),
            Effect::FetchState { state, bytes, donors } => self.fetch_state(state, bytes, donors),
            Effect::DropPayloads(digests) => self.parts.storage.post(move |worker| worker.drop_payloads(&digests)),
            Effect::Record(event) => self.record(&event),
            Effect::Finished(meta) => self.finished(meta).await?,
            Effect::Exit => self.over = Some(Ok(())),
            Effect::Stop(reason) => self.over = Some(Err(reason.into())),
        }
        Ok(())
    }
}
