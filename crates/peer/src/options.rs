//! What a peer is started with, what it ends with, and what can go wrong.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use peerless_functions::prices::{Money, Tariff};
use peerless_functions::{ConfigError, FunctionPlatform, ProcessConfig, ProcessPool, TaskFailed};
use peerless_protocol::{PeerId, RunId, StateRef, StopReason};
use peerless_store::{LedgerError, RedisError, RedisServer, StoreError};
use thiserror::Error;

use crate::bill::BillError;
use crate::data_path::{DataPathConfig, ExchangeConfig, OpenError};
use crate::identity::IdentityError;
use crate::run_directory::{RunDirectory, RunDirectoryError};
use crate::status::{PeerStatus, Phase, StatusError};
use crate::transport::{BindError, Refusal, RelayUrl};

/// How a peer takes part in a run.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    /// The run.
    pub run: RunDirectory,
    /// Name of the peer's directory under the run's.
    pub name: String,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where others reach this peer; empty for the address it listens on.
    pub advertise: Vec<SocketAddr>,
    /// Relays by which peers are reached that nobody can reach directly. Used with the feature `iroh`.
    pub relays: Vec<RelayUrl>,
    /// Peers to dial. Peers of the same run directory find each other without.
    pub bootstrap: Vec<(PeerId, Vec<SocketAddr>)>,
    /// Other peers to wait for, for a moment, before the first round. Starting without them costs
    /// computing power, nothing else.
    pub expected_peers: usize,
    /// The functions: program, limits, how many at once.
    pub functions: FunctionsConfig,
    /// What the functions of this machine stand for.
    pub compute: Compute,
    /// Who forms states.
    pub topology: Topology,
    /// How sums get from peer to peer.
    pub exchange: ExchangeConfig,
    /// How functions that share no disk with this peer get at tensors. Not opened for others.
    pub data_path: Option<DataPathConfig>,
    /// Whether units that take long are computed twice at the same time, see [`Hedging`](peerless_functions::Hedging);
    /// `None` for: only by functions that share no disk with this peer.
    pub hedge: Option<bool>,
    /// Functions of this machine, for while a platform that does not see this peer's files is gone.
    pub fallback: Option<ProcessConfig>,
    /// Whether the functions of `fallback` come first, and that platform is for what they would be too late for: see
    /// [`Burst`](peerless_functions::Burst).
    pub burst: bool,
    /// Time between durable checkpoints. A crash of all peers at once costs at most this much work,
    /// and less where the newest states survive in shared memory.
    pub checkpoint_every: Duration,
    /// What the peer's work and time cost.
    pub tariff: Tariff,
    /// Most that this peer may spend, over all its processes; it leaves before that is passed. `None` for no
    /// limit.
    pub budget: Option<Money>,
    /// The database that keeps gradients until their round is over; `None` for this machine's memory.
    pub gradient_store: Option<GradientStoreConfig>,
}

/// A database for a peer's gradients. Needs the feature `redis`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GradientStoreConfig {
    /// The Redis or Valkey server. It sums, if it has the module.
    pub server: RedisServer,
    /// Whether functions that share no disk with this peer write their gradients there themselves. They need a user
    /// and a password of their own, which no task holds.
    pub direct: bool,
}

impl PeerOptions {
    /// Lets isolated functions of this machine have the folders that tasks name.
    pub(crate) fn allow(&mut self, states: &Path, outputs: &Path, temporary: &Path) {
        self.pools().for_each(|config| config.allow(states, outputs, temporary));
    }

    /// Tells the pools of this machine how long to keep idle functions: by what that costs, and on an instance always.
    pub(crate) fn keep_warm(&mut self) {
        let instance = self.compute == Compute::Instance;
        let machine_is_paid = self.tariff.machine.is_some() && !instance;
        self.pools().for_each(|config| {
            config.machine_is_paid = machine_is_paid;
            if instance {
                config.idle_timeout = Duration::MAX;
            }
        });
    }

    fn pools(&mut self) -> impl Iterator<Item = &mut ProcessConfig> {
        let functions = match &mut self.functions {
            FunctionsConfig::Process(config) => Some(config),
            FunctionsConfig::Platform(_) => None,
        };
        functions.into_iter().chain(&mut self.fallback)
    }
}

/// What computes a peer's units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compute {
    /// Functions that come and go, as many at a time as there are units and room.
    #[default]
    Functions,
    /// The peer's machine, as a VM that trains by itself: one unit after the other, in a process that stays.
    Instance,
}

/// Who forms states.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Topology {
    /// Every peer.
    #[default]
    PeerToPeer,
    /// One server; all others are its workers.
    ParameterServer {
        /// The server: whoever has this identity is it.
        server: PeerId,
        /// Rounds between its checkpoints. Nothing else of its states survives its death.
        checkpoint_rounds: u64,
    },
    /// Every worker, of a fixed number that is complete as long as the run is trained: see
    /// [`Membership::Fixed`](peerless_protocol::Membership::Fixed).
    AllReduce {
        /// Rounds between the checkpoints of each worker. Nothing else of its states survives its end.
        checkpoint_rounds: u64,
    },
}

/// What runs a peer's functions.
#[derive(Clone)]
pub enum FunctionsConfig {
    /// Processes of this machine.
    Process(ProcessConfig),
    /// A platform that was made elsewhere. The peer shuts it down when it ends.
    Platform(Arc<dyn FunctionPlatform>),
}

impl FunctionsConfig {
    /// Makes the platform; starts no function.
    pub(crate) fn platform(&self) -> Result<Arc<dyn FunctionPlatform>, ConfigError> {
        Ok(match self {
            Self::Process(config) => Arc::new(ProcessPool::new(config.clone())?),
            Self::Platform(platform) => Arc::clone(platform),
        })
    }
}

impl fmt::Debug for FunctionsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(config) => f.debug_tuple("Process").field(config).finish(),
            Self::Platform(platform) => f.debug_tuple("Platform").field(&platform.name()).finish(),
        }
    }
}

impl From<ProcessConfig> for FunctionsConfig {
    fn from(config: ProcessConfig) -> Self {
        Self::Process(config)
    }
}

/// How a peer ended.
#[derive(Debug, Clone)]
pub struct PeerSummary {
    /// The peer.
    pub peer: PeerId,
    /// [`Phase::Finished`] or [`Phase::Left`].
    pub phase: Phase,
    /// Its last status.
    pub status: PeerStatus,
}

/// A peer that cannot start or go on. Its state on disk is valid all the same.
#[derive(Debug, Error)]
pub enum PeerError {
    /// The run directory.
    #[error(transparent)]
    RunDirectory(#[from] RunDirectoryError),
    /// The key file.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What the ledger says about earlier sessions.
    #[error(transparent)]
    Bill(#[from] BillError),
    /// The status file.
    #[error(transparent)]
    Status(#[from] StatusError),
    /// The address to listen on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The function pool's configuration.
    #[error(transparent)]
    Functions(#[from] ConfigError),
    /// The way by which remote functions get at tensors.
    #[error(transparent)]
    DataPath(#[from] OpenError),
    /// Remote functions without a way to tensors.
    #[error("functions on {platform} do not see this peer's files: a gateway is needed, at an address that they reach")]
    NoDataPath {
        /// The platform.
        platform: &'static str,
    },
    /// The database for gradients.
    #[error(transparent)]
    GradientStore(#[from] RedisError),
    /// The functions cannot even prepare the run.
    #[error("the functions cannot prepare the run: {0}")]
    Prepare(#[from] TaskFailed),
    /// The initial parameters that a function wrote are not what it reported.
    #[error("the initial parameters in {} are damaged: {reason}", path.display())]
    InitialParameters {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The run cannot go on anywhere.
    #[error(transparent)]
    Stopped(#[from] StopReason),
    /// No peer of the ticket let this one in.
    #[error("cannot join run {}: {reason}", run.short())]
    Join {
        /// The run.
        run: RunId,
        /// Why.
        reason: JoinFailure,
    },
    /// The store holds another state than the one to work from.
    #[error("the store does not hold state {} of round {}", wanted.digest.short(), wanted.round)]
    StateGone {
        /// The state that was to be worked from.
        wanted: StateRef,
    },
    /// A gradient that the database has lost cannot be computed again.
    #[error("the database has lost the gradient of unit {unit}, and it cannot be computed again: {cause}")]
    Lost {
        /// The unit.
        unit: u32,
        /// Why.
        cause: String,
    },
    /// A thread of this process died.
    #[error("the peer's {0} thread has died; this is a bug")]
    Thread(&'static str),
}

/// Why a run could not be joined.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JoinFailure {
    /// A peer answered and refused.
    #[error("{0}")]
    Refused(Refusal),
    /// Nobody answered.
    #[error("none of the ticket's {peers} peers answered within {} s; they may have ended, or be unreachable from here", waited.as_secs())]
    Unreachable {
        /// Peers tried.
        peers: usize,
        /// How long.
        waited: Duration,
    },
    /// What came is not the run's spec.
    #[error("a peer sent a run spec that is not the ticket's: {0}")]
    WrongSpec(String),
    /// This machine cannot listen, or has no randomness.
    #[error("{0}")]
    Local(String),
}
