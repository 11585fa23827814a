//! A running peer: the protocol's effects on a real machine.

mod accounts;
mod blobs;
mod clock;
mod discovery;
mod event_loop;
pub(crate) mod exchange;
mod functions;
mod gradients;
mod journal;
mod refusals;
mod reporter;
mod role;
mod storage;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use peerless_functions::{Burst, Fallback, FunctionPlatform, Hedging, ProcessPool};
use peerless_protocol::{Config, Digest, PeerId, RunSpec, StateHeader};
use peerless_store::{
    Batch, EventRecord, GradientFiles, Opened, PayloadFormat, Resumed, State, StateOrigin, Store, StoreError,
    StoredState,
};

use crate::data_path::{DataPath, OverNetwork};
use crate::identity::Identity;
use crate::options::{PeerError, PeerOptions, PeerSummary};
use crate::status::{FunctionsStatus, PeerStatus, Phase, STATUS_VERSION, TopologyName, unix_us};
use crate::transport::{self, Admission, Config as TransportConfig, Transport};
use accounts::Accounts;
use blobs::Blobs;
use clock::Clock;
use event_loop::{EventLoop, Parts, evaluation_status, functions_status, write_checkpoint};
use exchange::Exchange;
use functions::{Functions, Prepared};
use journal::{Journal, invocation_records};
use reporter::Reporter;
use role::Role;
use storage::{Storage, meta};

/// Room that a fetched state may need beyond one of this peer's: counters in its header grow.
const STATE_SLACK_BYTES: u64 = 4096;

/// Most peers connected at a time.
const MAX_PEERS: usize = 256;

/// Runs a peer until the run is over, `leave` resolves, or it cannot go on.
///
/// # Errors
/// [`PeerError`]; the state on disk is valid and the same directory can be started again.
pub async fn run_peer(options: PeerOptions, leave: impl Future<Output = ()> + Send) -> Result<PeerSummary, PeerError> {
    let directory = options.run.peer_directory(&options.name)?;
    let identity = Identity::load_or_generate(&directory.join("identity.key"))?;
    let role = Role::of(&options.topology, &identity.peer_id());
    role.forget_what_is_not_durable(&directory);
    let spec = options.run.spec().clone();
    let (store_directory, tensors) = (directory.clone(), tensor_directory(&directory));
    let opened = tokio::task::spawn_blocking(move || Store::open(&store_directory, &tensors, &spec)).await;
    // Only now that the store's lock is held may the status be written: it may be another process's.
    let opened = opened.map_err(|_| PeerError::Thread("store"))??;
    let (reporter, writer) = Reporter::start(directory.clone(), starting(&options, identity.peer_id()))?;
    let outcome = run_opened(options, role, &identity, &directory, opened, &reporter, leave).await;
    reporter.update(|status| {
        status.updated_unix_us = unix_us();
        match &outcome {
            Ok(()) if status.phase != Phase::Finished => status.phase = Phase::Left,
            Ok(()) => {}
            Err(error) => {
                status.phase = Phase::Failed;
                status.error = Some(error.to_string());
            }
        }
    });
    let status = reporter.status();
    drop(reporter);
    writer.finish().await;
    outcome.map(|()| PeerSummary { peer: identity.peer_id(), phase: status.phase, status })
}

async fn run_opened(
    mut options: PeerOptions,
    role: Role,
    identity: &Identity,
    directory: &Path,
    opened: Opened,
    reporter: &Reporter,
    leave: impl Future<Output = ()> + Send,
) -> Result<(), PeerError> {
    let Opened { mut store, resumed, skipped } = opened;
    skipped.iter().for_each(
        |file| tracing::warn!(path = %file.path.display(), reason = file.reason, "a damaged file is passed over"),
    );
    let spec = options.run.spec().clone();
    let temporary = temporary_directory(directory);
    options.allow(store.tensors.states_directory(), store.tensors.outputs().directory(), &temporary);
    options.keep_warm();
    let database = gradients::Database::new(&options, identity.peer_id())?;
    let Platforms { platform, names, data_path } = platforms(&options, &identity.peer_id(), &database).await?;
    let of_bill = (names, platform.concurrency());
    let accounts = Accounts::open(directory, options.tariff.clone(), options.budget, of_bill)?;
    let accounts = Arc::new(accounts);
    reporter.update(|status| status.bill = accounts.status());
    if accounts.is_used_up() {
        tracing::info!("the budget was used up before");
        platform.shutdown().await;
        return keep_newest(store, resumed, directory).await;
    }
    let journal = Journal::open(directory, accounts.tariff())?;
    let functions = Arc::new(Functions::new(platform, data_path, spec.clone(), identity.peer_id(), accounts.clone()));
    let output = store.tensors.outputs().of_initial_parameters();
    let prepared = tokio::select! {
        biased;
        () = accounts.until_used_up() => None,
        prepared = functions.prepare(&output) => Some(prepared),
    };
    let prepared = match prepared {
        Some(Ok(prepared)) => prepared,
        // What it took so far is written down, whatever came of it.
        Some(Err(error)) => {
            functions.shutdown().await;
            if let Err(unrecorded) = record_early(journal, &accounts, &spec, Vec::new()).await {
                tracing::warn!(error = %unrecorded, "what the functions did is not in the ledger");
            }
            return Err(error);
        }
        None => {
            functions.shutdown().await;
            let round = resumed.as_ref().map_or(0, |resumed| resumed.state.header.round);
            let kept = keep_newest(store, resumed, directory).await;
            let events = vec![accounts.used_up_event(round, unix_us())];
            let recorded = record_early(journal, &accounts, &spec, events).await;
            reporter.update(|status| status.bill = accounts.status());
            return kept.and(recorded);
        }
    };
    let fingerprint = prepared.fingerprint;
    tracing::info!(fingerprint = %fingerprint, "numerics fingerprint of this peer's functions");
    let resuming = resumed.is_some();
    let (state, stored) = match resumed {
        Some(resumed) => (resumed.state, resumed.stored),
        None => initial_state(&mut store, prepared)?,
    };
    tracing::info!(round = state.header.round, digest = %stored.reference.digest.short(), "state");
    let blobs = Arc::new(Blobs::default());
    let clock = Clock::start();
    let format = payload_format(&spec, &state)?;
    let gradients = database.open(format, resuming, reporter).await?;
    let max_state_bytes = stored.size + STATE_SLACK_BYTES;
    let transport_config = TransportConfig {
        identity: identity.clone(),
        run: spec.id(),
        admission: Admission { secret: Some(options.run.secret().clone()), ..Admission::default() },
        listen: options.listen,
        advertise: options.advertise.clone(),
        max_blob_bytes: max_state_bytes.max(format.bytes() as u64),
        max_peers: MAX_PEERS,
        seed: u64::from(std::process::id()),
    };
    let (transport, events) = transport::bind(transport_config, &options.relays, blobs.clone()).await?;
    let transport = Arc::new(transport);
    let addresses = transport.addresses();
    let spec_id = spec.id();
    let node_config = Config {
        spec,
        key: identity.signing_key().clone(),
        functions: u32::try_from(functions.concurrency()).unwrap_or(u32::MAX),
        payload: format.shape(),
        max_state_bytes,
        expected_peers: options.expected_peers,
        gather_at_most: role.gather_at_most(resuming),
        membership: role.membership(),
        crowd: role.crowd(),
    };
    let node = role.participant(node_config, meta(&state, &stored), addresses.clone(), clock.now());
    options.bootstrap.iter().for_each(|(peer, known)| transport.dial(*peer, known.clone()));
    reporter.update(|status| {
        status.phase = if state.header.finished.is_some() { Phase::Finished } else { Phase::Training };
        status.finished_unix_us = state.header.finished.map(|_| unix_us());
        status.fingerprint = Some(fingerprint);
        status.addresses = addresses;
        status.finish_reason = state.header.finished;
        describe(status, &state.header, stored.reference.digest);
        status.updated_unix_us = unix_us();
    });
    let exchange = options.exchange.open(&spec_id, identity.peer_id()).await?.map(Exchange::new);
    let storage = Storage::start(store, state, stored.clone(), blobs.clone(), format, gradients)?;
    let parts = Parts {
        node,
        clock,
        transport,
        storage,
        functions,
        accounts,
        blobs,
        journal,
        reporter: reporter.clone(),
        run: options.run,
        stored,
        checkpoint_every: role.checkpoint_every(options.checkpoint_every),
        payload_bytes: format.shape().bytes(None),
        exchange,
        fingerprint,
    };
    let mut event_loop = EventLoop::new(parts);
    let outcome = event_loop.run(events, leave).await;
    event_loop.stop_functions().await;
    let flushed = event_loop.flush().await;
    let keeps_state = role.keeps_its_state_after(&outcome);
    let closed = close(event_loop, tensor_directory(directory), keeps_state).await;
    outcome.and(flushed).and(closed)
}

fn payload_format(spec: &RunSpec, state: &State) -> Result<PayloadFormat, PeerError> {
    Ok(PayloadFormat::new(spec, &state.header.layout).map_err(|error| StoreError::Apply(error.into()))?)
}

/// What runs a peer's functions.
struct Platforms {
    /// All of it as one.
    platform: Arc<dyn FunctionPlatform>,
    /// What the platforms are called in bills.
    names: Vec<&'static str>,
    /// The way to tensors of functions elsewhere.
    data_path: Option<Arc<dyn DataPath>>,
}

async fn platforms(options: &PeerOptions, me: &PeerId, database: &gradients::Database) -> Result<Platforms, PeerError> {
    let platform = options.functions.platform()?;
    let mut names = vec![platform.name()];
    if platform.shares_files() {
        return Ok(Platforms { platform: hedged(platform, options.hedge == Some(true)), names, data_path: None });
    }
    let config = options.data_path.as_ref().ok_or(PeerError::NoDataPath { platform: platform.name() })?;
    let data_path = database.in_front_of(config.open(&options.run.spec().id(), me).await?);
    let platform = OverNetwork::new(platform, Arc::clone(&data_path), config.lifetime());
    // Around the way to tensors, so that each of two attempts has rights of its own; within the fall-back, so that it
    // learns from one platform alone.
    let platform = hedged(Arc::new(platform), options.hedge != Some(false));
    let data_path = Some(data_path);
    let Some(local) = &options.fallback else { return Ok(Platforms { platform, names, data_path }) };
    let local: Arc<dyn FunctionPlatform> = Arc::new(ProcessPool::new(local.clone())?);
    names.push(local.name());
    let platform: Arc<dyn FunctionPlatform> = match options.burst {
        true => Arc::new(Burst::new(hedged(local, options.hedge == Some(true)), platform)),
        false => Arc::new(Fallback::new(platform, local)),
    };
    Ok(Platforms { platform, names, data_path })
}

fn hedged(platform: Arc<dyn FunctionPlatform>, hedge: bool) -> Arc<dyn FunctionPlatform> {
    if hedge { Arc::new(Hedging::new(platform)) } else { platform }
}

/// Writes down what a session came to that ended before its first round.
async fn record_early(
    mut journal: Journal,
    accounts: &Accounts,
    spec: &RunSpec,
    events: Vec<EventRecord>,
) -> Result<(), PeerError> {
    let invocations = invocation_records(accounts.take_records(), spec, journal.session());
    journal.record(Batch { invocations, events, ..Batch::default() }).await?;
    journal.close().await
}

/// Ends without having begun: the newest state goes from shared memory into a checkpoint.
async fn keep_newest(store: Store, resumed: Option<Resumed>, directory: &Path) -> Result<(), PeerError> {
    let Some(Resumed { state, stored, .. }) = resumed else { return Ok(()) };
    let format = payload_format(store.spec(), &state)?;
    let storage = Storage::start(store, state, stored, Arc::default(), format, Box::new(GradientFiles::new(format)))?;
    write_checkpoint(storage.clone()).await?;
    let tensors = tensor_directory(directory);
    storage.run(move |_| remove_tensors(&tensors)).await
}

/// A folder for functions' temporary files, without those of earlier processes. If it cannot be made, functions have
/// none, which few need.
fn temporary_directory(directory: &Path) -> PathBuf {
    let path = directory.join("functions-tmp");
    let _ = std::fs::remove_dir_all(&path);
    if let Err(error) = std::fs::create_dir(&path) {
        tracing::warn!(path = %path.display(), %error, "functions have no folder for temporary files");
    }
    path.canonicalize().unwrap_or(path)
}

fn remove_tensors(tensors: &Path) {
    if let Err(error) = std::fs::remove_dir_all(tensors) {
        tracing::warn!(path = %tensors.display(), %error, "the tensor files were not removed");
    }
}

/// Frees the shared memory of a peer that was killed, which a peer that ends does by itself. Its
/// checkpoints stay. Does nothing for a peer that lives.
///
/// # Errors
/// When the peer's lock cannot be looked at.
pub fn release_tensors(peer_directory: &Path) -> std::io::Result<()> {
    let tensors = tensor_directory(peer_directory);
    if !tensors.is_dir() {
        return Ok(());
    }
    let lock = std::fs::File::open(peer_directory.join("store.lock"))?;
    match lock.try_lock() {
        Ok(()) => std::fs::remove_dir_all(tensors),
        Err(std::fs::TryLockError::WouldBlock) => Ok(()),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Ends in order: the goodbye to others, the last checkpoint if the state is to be kept, the ledger.
async fn close(event_loop: EventLoop, tensors: PathBuf, keeps_state: bool) -> Result<(), PeerError> {
    let mut parts = event_loop.close().await;
    parts.reporter.update(|status| status.functions = functions_status(&parts.functions));
    parts.transport.shutdown().await;
    if let Some(exchange) = parts.exchange.take() {
        exchange.close().await;
    }
    let mut checkpointed = if keeps_state { write_checkpoint(parts.storage.clone()).await } else { Ok(()) };
    if checkpointed.is_ok() {
        // The newest state is in a checkpoint; memory that no process owns must not outlive the run.
        // Done on the store's thread, which still holds the locks.
        checkpointed = parts.storage.run(move |_| remove_tensors(&tensors)).await;
    }
    drop(parts.storage);
    // The machine was paid until now.
    let recorded = parts.journal.record(Batch::default()).await;
    parts.reporter.update(|status| status.bill = parts.accounts.status());
    let closed = parts.journal.close().await;
    checkpointed.and(recorded).and(closed)
}

fn initial_state(store: &mut Store, prepared: Prepared) -> Result<(State, StoredState), PeerError> {
    let initial = State::initial(store.spec(), prepared.layout, prepared.vector);
    let state = initial.map_err(|error| StoreError::Apply(error.into()))?;
    let stored = store.adopt(&state, StateOrigin::Initial)?;
    Ok((state, stored))
}

fn starting(options: &PeerOptions, peer: PeerId) -> PeerStatus {
    PeerStatus {
        version: STATUS_VERSION,
        run: options.run.spec().id(),
        peer,
        name: options.name.clone(),
        pid: std::process::id(),
        phase: Phase::Starting,
        topology: TopologyName::from(&options.topology),
        steps: 0,
        round: 0,
        state_digest: Digest([0; 32]),
        fingerprint: None,
        addresses: Vec::new(),
        relays: options.relays.clone(),
        neighbours: 0,
        training_loss: None,
        evaluation: None,
        finish_reason: None,
        rounds_applied: 0,
        contributions: 0,
        backup_units: 0,
        bytes_sent: 0,
        divergences: 0,
        last_divergence: None,
        refused: 0,
        refusals: Vec::new(),
        functions: FunctionsStatus::default(),
        gradient_store: None,
        bill: None,
        error: None,
        updated_unix_us: unix_us(),
        training_since_unix_us: None,
        finished_unix_us: None,
    }
}

/// Copies what a state's header tells into a status.
fn describe(status: &mut PeerStatus, header: &StateHeader, digest: Digest) {
    status.steps = header.steps;
    status.round = header.round;
    status.state_digest = digest;
    status.training_loss = (header.training.samples > 0).then(|| header.training.mean_loss());
    status.evaluation = header.evaluation.as_ref().map(evaluation_status);
}

/// Where the tensors of the peer with this directory are: in shared memory where there is any, since they are rewritten every
/// round and functions read them from there. Named after the peer's directory, so that a restarted
/// peer finds them.
pub fn tensor_directory(peer_directory: &Path) -> PathBuf {
    let shared = Path::new("/dev/shm");
    let real = peer_directory.canonicalize().unwrap_or_else(|_| peer_directory.into());
    let name = format!("peerless-{}", &Digest::of(real.as_os_str().as_encoded_bytes()).to_string()[..32]);
    if shared.is_dir() { shared.join(name) } else { peer_directory.join("tensors") }
}
