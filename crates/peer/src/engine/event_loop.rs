//! Executes the protocol: feeds it what happens and does what it says.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peerless_protocol::{
    Digest, Effect, Event, Input, Member, Message, Node, PayloadRef, PeerId, RefusalKind, RoundPlan,
    SignedContribution, StateMeta, StateRef, UnitKind, UnitSet,
};
use peerless_store::{
    Batch, ContributionRecord, EventRecord, RoundRecord, StateOrigin, StoreError, StoredState, SumsError,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::MissedTickBehavior;

use super::accounts::{self, Accounts};
use super::blobs::Blobs;
use super::clock::{Clock, RoundClock};
use super::discovery::Discovery;
use super::functions::Functions;
use super::journal::{Journal, event_record, invocation_records, numerics_record};
use super::refusals::{self, Refusals};
use super::reporter::Reporter;
use super::storage::{Applied, Storage, SumOfOwn, Worker};
use crate::options::PeerError;
use crate::run_directory::RunDirectory;
use crate::status::{DivergenceStatus, EvaluationStatus, FunctionStatus, Phase, unix_us};
use crate::transport::PeerTransport;
use crate::transport::download::{Download, fetch_blob};
use crate::transport::{self, Rejection, Transport};

/// How often the run directory is searched for peers. They are dialled again by the transport on its
/// own; this only finds new ones.
const DISCOVERY_EVERY: Duration = Duration::from_millis(250);

/// How often the status says what the functions do. On a timer of its own: the protocol's ticks stay away
/// while rounds are short, and right after a round no function ever works.
const FUNCTIONS_EVERY: Duration = Duration::from_millis(100);

/// Shortest time between two writes of the status.
const STATUS_EVERY: Duration = Duration::from_millis(20);

/// Most payloads that wait for the store's thread; of shards as many more as they are smaller.
const MAX_RECEIVING: u32 = 32;

/// Most events that wait to be written; more are only logged.
const MAX_EVENTS: usize = 4096;

/// How often lost gradients are computed again for one sum. Once is enough, since they are not put into the database
/// again; others of the round may have been on their way there.
const MAX_LOSSES: u32 = 3;

/// What a task of the event loop came to.
pub(super) enum Done {
    Input(Input),
    Summed { from: StateRef, units: UnitSet, payload: PayloadRef, took: Duration },
    Split { from: StateRef, units: UnitSet, shards: Vec<PayloadRef>, took: Duration },
    Combined { from: StateRef, shard: u32, payload: PayloadRef, cover: Vec<SignedContribution> },
    Applied { from: StateRef, applied: Box<Applied>, cover: Vec<SignedContribution> },
    Fetched { meta: StateMeta, stored: StoredState },
    Refused { from: PeerId, kind: RefusalKind, reason: String },
    Failed(PeerError),
}

/// What the event loop works with.
pub(super) struct Parts {
    pub node: Node,
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
    pub checkpoint_every: Duration,
    /// Length of a payload of the whole vector.
    pub payload_bytes: u64,
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
    status_written: Instant,
    over: Option<Result<(), PeerError>>,
}

impl EventLoop {
    pub fn new(parts: Parts) -> Self {
        // Unbounded, but every message in it answers one effect of the protocol, whose number per
        // round is bounded by units and peers, or one of at most `MAX_RECEIVING` payloads.
        let (done, finished_tasks) = mpsc::unbounded_channel();
        let receiving = kibibytes(parts.payload_bytes).saturating_mul(MAX_RECEIVING);
        let begun = numerics_record(parts.fingerprint, parts.node.state().state.round, unix_us());
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
            self.parts.transport.dial(peer, addresses);
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
            Done::Fetched { meta, stored } => {
                self.fetched = Some(stored);
                self.feed(Input::StateFetched(meta)).await
            }
            Done::Refused { from, kind, reason } => {
                self.refuse(from, kind, &reason);
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
                    }
                    self.feed(Input::Message { from, message }).await
                }
                Err(error) => {
                    self.refuse(from, refusals::of_message(&error), &error.to_string());
                    Ok(())
                }
            },
            transport::Event::Payload { from, digest, bytes } => {
                self.round.payload_arrived(&digest);
                self.take_payload(from, digest, bytes);
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
            Effect::Send { to, message } => {
                if let Err(error) = self.parts.transport.send(to, Bytes::from(message.encode())) {
                    tracing::debug!(to = %to.short(), %error, "a message was not sent");
                }
            }
            Effect::Connect(member) => self.parts.transport.dial(member.peer, member.addresses),
            Effect::PushPayload { to, payload } => self.push(to, payload),
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

    /// Runs a task and feeds its result to the protocol.
    fn spawn(&self, task: impl Future<Output = Result<Option<Done>, PeerError>> + Send + 'static) -> AbortHandle {
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

    fn take_payload(&self, from: PeerId, digest: Digest, bytes: Bytes) {
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

    fn push(&self, to: PeerId, payload: PayloadRef) {
        let Some(bytes) = self.parts.blobs.payload(&payload.digest) else { return };
        if let Err(error) = self.parts.transport.push(to, payload.digest, bytes) {
            tracing::debug!(to = %to.short(), %error, "a payload was not pushed");
        }
    }

    fn fetch_payload(&self, from: PeerId, payload: PayloadRef) {
        let transport = Arc::clone(&self.parts.transport);
        let storage = self.parts.storage.clone();
        self.spawn(async move {
            let fetched = fetch_blob(&transport, payload.digest, payload.bytes, &[from]).await;
            let Ok(downloaded) = fetched else { return Ok(None) };
            let received = storage.run(move |worker| worker.receive(payload.digest, &downloaded.bytes)).await?;
            Ok(received.ok().map(|payload| Done::Input(Input::PayloadHeld(payload))))
        });
    }

    fn begin_round(&mut self, from: StateRef) {
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

    fn adopt(&mut self, state: StateRef) {
        if let Some(stored) = self.fetched.take_if(|stored| stored.reference == state) {
            self.parts.stored = stored;
        }
    }

    fn compute(&mut self, from: StateRef, unit: u32, kind: UnitKind) {
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

    fn sum(&self, from: StateRef, units: UnitSet) {
        let summed = self.form(from, &units, Worker::sum);
        self.spawn(async move { Ok(summed.await?.map(|(payload, took)| Done::Summed { from, units, payload, took })) });
    }

    fn split(&self, from: StateRef, units: UnitSet) {
        let split = self.form(from, &units, Worker::split);
        self.spawn(async move { Ok(split.await?.map(|(shards, took)| Done::Split { from, units, shards, took })) });
    }

    /// Has sums of own units formed, and timed. `None` if their round is over.
    fn form<T: Send + 'static>(
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

    fn combine(&self, from: StateRef, shard: u32, cover: Vec<SignedContribution>) {
        let parts = cover.clone();
        let combined = self.parts.storage.run(move |worker| worker.combine(from, shard, &parts));
        self.spawn(async move {
            match combined.await? {
                Ok(payload) => Ok(payload.map(|payload| Done::Combined { from, shard, payload, cover })),
                Err(error) => Err(peerless_store::StoreError::from(error).into()),
            }
        });
    }

    fn accumulate(&self, from: StateRef, units: UnitSet, digest: Digest) {
        self.parts.storage.post(move |worker| {
            if let Err(error) = worker.accumulate(from, &units, digest) {
                // Applying the round will fail with the same error if the payload is needed.
                tracing::warn!(%error, "a payload was not added");
            }
        });
    }

    fn apply(&self, from: StateRef, cover: Vec<SignedContribution>) {
        let parts = cover.clone();
        let applied = self.parts.storage.run(move |worker| worker.apply(from, &parts));
        self.spawn(async move {
            let applied = applied.await??;
            Ok(Some(Done::Applied { from, applied: Box::new(applied), cover }))
        });
    }

    async fn applied(
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

    /// Invocations and events that wait to be written.
    fn pending(&mut self) -> Batch {
        let records = self.parts.accounts.take_records();
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

    async fn checkpoint_if_due(&mut self) -> Result<(), PeerError> {
        if self.checkpointed.elapsed() < self.parts.checkpoint_every {
            return Ok(());
        }
        if let Some(previous) = self.checkpointing.take_if(|task| task.is_finished()) {
            previous.await.map_err(|_| PeerError::Thread("checkpoint"))??;
        }
        if self.checkpointing.is_none() {
            self.checkpointed = Instant::now();
            let storage = self.parts.storage.clone();
            self.checkpointing = Some(tokio::spawn(write_checkpoint(storage)));
        }
        Ok(())
    }

    fn fetch_state(&self, state: StateRef, bytes: u64, donors: Vec<PeerId>) {
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

    async fn finished(&mut self, meta: StateMeta) -> Result<(), PeerError> {
        let reference = meta.state;
        self.adopt(reference);
        let header = self.parts.storage.run(move |worker| worker.adopt(reference).map(|()| worker.header()));
        let header = header.await??;
        write_checkpoint(self.parts.storage.clone()).await?;
        tracing::info!(round = header.steps, digest = %meta.state.digest.short(), "the run is finished");
        self.parts.reporter.update(|status| {
            status.phase = Phase::Finished;
            status.finish_reason = header.finished;
            status.finished_unix_us.get_or_insert_with(unix_us);
            super::describe(status, &header, meta.state.digest);
        });
        Ok(())
    }

    fn update_status(&mut self, applied: &Applied, cover: &[SignedContribution]) {
        let me = self.parts.node.id();
        let contributions = cover.iter().filter(|signed| signed.contribution.peer == me).count() as u64;
        let backups = u64::from(self.round.backups);
        let neighbours = self.parts.node.neighbours().count();
        let refusals = &self.refusals;
        let bill = self.parts.accounts.status();
        let reporter = &self.parts.reporter;
        let change = |status: &mut crate::status::PeerStatus| {
            super::describe(status, &applied.header, applied.meta.state.digest);
            status.rounds_applied += 1;
            status.contributions += contributions;
            status.backup_units += backups;
            status.neighbours = neighbours;
            status.bill = bill;
            refusals.describe(status);
        };
        if self.status_written.elapsed() >= STATUS_EVERY || applied.meta.finished {
            self.status_written = Instant::now();
            reporter.update(|status| {
                change(status);
                status.updated_unix_us = unix_us();
            });
        } else {
            reporter.update_later(change);
        }
    }

    fn update_functions(&self) {
        let functions = functions_status(&self.parts.functions);
        self.parts.reporter.update(|status| {
            status.functions = functions;
            status.bill = self.parts.accounts.status();
            self.refusals.describe(status);
            status.updated_unix_us = unix_us();
        });
    }

    fn record(&mut self, event: &Event) {
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

fn kibibytes(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// Writes a durable checkpoint of the current state.
pub(super) async fn write_checkpoint(storage: Storage) -> Result<(), PeerError> {
    let snapshot = storage.run(|worker| worker.snapshot()).await??;
    let written = tokio::task::spawn_blocking(move || snapshot.write()).await;
    let path = written.map_err(|_| PeerError::Thread("checkpoint"))??;
    tracing::debug!(path = %path.display(), "checkpoint written");
    Ok(())
}

/// The functions of a platform as the status shows them.
pub(super) fn functions_status(functions: &Functions) -> crate::status::FunctionsStatus {
    let snapshot = functions.snapshot();
    let process =
        |function: &peerless_functions::FunctionSnapshot| FunctionStatus { pid: function.pid, busy: function.busy };
    crate::status::FunctionsStatus {
        processes: snapshot.functions.iter().map(process).collect(),
        invocations: snapshot.counters.invocations,
        cold_starts: snapshot.counters.cold_starts,
        failed: snapshot.counters.failed,
        retried: snapshot.counters.retried,
        data_path: functions.data_path().map(Into::into),
    }
}

/// An evaluation as the status shows it.
pub(super) fn evaluation_status(evaluation: &peerless_protocol::Evaluation) -> EvaluationStatus {
    let tally = evaluation.tally;
    EvaluationStatus {
        round: evaluation.round,
        samples: tally.samples,
        correct: tally.correct,
        accuracy: tally.accuracy(),
        loss: tally.mean_loss(),
    }
}
