//! What a peer tells about itself while it runs: one small JSON file that is replaced whenever
//! something changes, so that anyone on the machine can look without being in the way.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use peerless_functions::prices::Money;
use peerless_protocol::{Digest, FinishReason, PeerId, RunId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::data_path::DataPathSnapshot;
use crate::options::Topology;
use crate::transport::RelayUrl;

/// Version of the file's content.
pub const STATUS_VERSION: u16 = 1;

/// Largest status file that is read, in bytes.
const MAX_STATUS_BYTES: u64 = 1 << 20;

/// A topology by its name, as `peerless train --topology` takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TopologyName {
    /// Every peer forms every state.
    #[default]
    P2p,
    /// One server does.
    ParameterServer,
    /// Every worker does, and none can be missed.
    AllReduce,
}

impl TopologyName {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P2p => "p2p",
            Self::ParameterServer => "parameter-server",
            Self::AllReduce => "all-reduce",
        }
    }
}

impl From<&Topology> for TopologyName {
    fn from(topology: &Topology) -> Self {
        match topology {
            Topology::PeerToPeer => Self::P2p,
            Topology::ParameterServer { .. } => Self::ParameterServer,
            Topology::AllReduce { .. } => Self::AllReduce,
        }
    }
}

/// Where a peer is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Opening its store, preparing the initial state.
    Starting,
    /// Taking part in the run.
    Training,
    /// It has the final state.
    Finished,
    /// It was asked to leave, has written a checkpoint and ended.
    Left,
    /// It ended with an error.
    Failed,
}

/// One function process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// Its process id.
    pub pid: u32,
    /// Whether it computes at present.
    pub busy: bool,
}

/// The functions of a peer and totals since the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionsStatus {
    /// The processes that live.
    pub processes: Vec<FunctionStatus>,
    /// Invocations, failed ones included.
    pub invocations: u64,
    /// Invocations for which a process had to be started.
    pub cold_starts: u64,
    /// Invocations that failed.
    pub failed: u64,
    /// Invocations that were not the first attempt at their task.
    pub retried: u64,
    /// Invocations beside another one that took long.
    #[serde(default)]
    pub hedged: u64,
    /// What tensors cost that functions elsewhere read and wrote; none if functions see this peer's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_path: Option<DataPathStatus>,
}

/// What a data path moved since the process began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPathStatus {
    /// Requests answered, refused ones included.
    pub requests: u64,
    /// Bytes of outputs that functions sent.
    pub bytes_in: u64,
    /// Bytes of vectors and dataset files sent to functions.
    pub bytes_out: u64,
    /// Refused requests by HTTP status.
    pub refused: BTreeMap<u16, u64>,
}

impl From<DataPathSnapshot> for DataPathStatus {
    fn from(DataPathSnapshot { requests, bytes_in, bytes_out, refused }: DataPathSnapshot) -> Self {
        Self { requests, bytes_in, bytes_out, refused }
    }
}

/// What a peer has spent, over all its processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BillStatus {
    /// For functions.
    pub functions_usd: Money,
    /// For the machine that the peer runs on.
    pub peer_usd: Money,
    /// Both.
    pub spent_usd: Money,
    /// Most that it may spend.
    pub budget_usd: Option<Money>,
    /// Whether it has left, or is leaving, because its budget pays for no more.
    pub used_up: bool,
}

/// The database that keeps a peer's gradients until their round is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GradientStoreStatus {
    /// URL of the server, without user and password.
    pub server: String,
    /// Whether its module sums; the peer fetches gradients and sums them otherwise. `None` before its first answer.
    pub module: Option<bool>,
    /// Why gradients are summed from files for the time being; none while the server does what it should.
    pub away: Option<String>,
    /// How often that began.
    pub outages: u64,
}

/// The result of an evaluation, for people.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EvaluationStatus {
    /// The round whose state was evaluated.
    pub round: u64,
    /// Samples in the test set.
    pub samples: u64,
    /// Samples predicted right.
    pub correct: u64,
    /// Fraction predicted right.
    pub accuracy: f64,
    /// Mean loss per sample.
    pub loss: f64,
}

/// Different states for one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergenceStatus {
    /// The round that starts from the states.
    pub round: u64,
    /// What this peer held.
    pub own: Digest,
    /// What counts.
    pub winner: Digest,
    /// A peer that held another one than this peer.
    pub peer: PeerId,
}

/// What was received from one sender and not used, of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusalStatus {
    /// The sender.
    pub peer: PeerId,
    /// The kind, such as `malformed`; see [`peerless_protocol::RefusalKind::name`].
    pub kind: String,
    /// How often.
    pub times: u64,
    /// What was wrong the first time.
    pub reason: String,
}

/// What a peer tells about itself. Counters begin with the process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// [`STATUS_VERSION`].
    pub version: u16,
    /// The run.
    pub run: RunId,
    /// The peer's key.
    pub peer: PeerId,
    /// The peer's name in its run directory.
    pub name: String,
    /// The peer's process.
    pub pid: u32,
    /// Where it is in its life.
    pub phase: Phase,
    /// Who forms states in the run.
    #[serde(default)]
    pub topology: TopologyName,
    /// Optimizer steps applied to its state.
    pub steps: u64,
    /// Its state: protocol rounds applied.
    pub round: u64,
    /// Its state's digest.
    pub state_digest: Digest,
    /// Digest of a canonical gradient; `None` until the first function has answered.
    pub fingerprint: Option<Digest>,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// Relays by which it can be reached.
    #[serde(default)]
    pub relays: Vec<RelayUrl>,
    /// Other peers it is connected to.
    pub neighbours: usize,
    /// Mean loss over the training samples of the newest round.
    pub training_loss: Option<f64>,
    /// The newest evaluation.
    pub evaluation: Option<EvaluationStatus>,
    /// Why the run is over, if it is.
    pub finish_reason: Option<FinishReason>,
    /// Rounds that this process has applied.
    pub rounds_applied: u64,
    /// Contributions that this process has announced.
    pub contributions: u64,
    /// Units that this process has computed in place of other peers.
    pub backup_units: u64,
    /// Bytes that this process has sent to other peers, before encryption.
    #[serde(default)]
    pub bytes_sent: u64,
    /// How often other peers had another state for the same round.
    #[serde(default)]
    pub divergences: u64,
    /// The last time.
    #[serde(default)]
    pub last_divergence: Option<DivergenceStatus>,
    /// Messages and blobs that were received and not used.
    #[serde(default)]
    pub refused: u64,
    /// The most frequent of them by sender and kind.
    #[serde(default)]
    pub refusals: Vec<RefusalStatus>,
    /// Its functions.
    pub functions: FunctionsStatus,
    /// Where its gradients are, if not in this machine's memory alone.
    #[serde(default)]
    pub gradient_store: Option<GradientStoreStatus>,
    /// What it has spent; `None` where nothing costs anything.
    #[serde(default)]
    pub bill: Option<BillStatus>,
    /// What made it end, if it failed.
    pub error: Option<String>,
    /// When this was written, in microseconds since the Unix epoch.
    pub updated_unix_us: u64,
    /// When the process began to train (its first round), in microseconds since the Unix epoch.
    pub training_since_unix_us: Option<u64>,
    /// When the process got the final state, in microseconds since the Unix epoch.
    pub finished_unix_us: Option<u64>,
}

/// A status file that cannot be read or written.
#[derive(Debug, Error)]
pub enum StatusError {
    /// The file system failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

/// Now, in microseconds since the Unix epoch: the time of a status.
pub fn unix_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Where the status of the peer with this directory is.
pub fn status_path(peer_directory: &Path) -> PathBuf {
    peer_directory.join("status.json")
}

impl PeerStatus {
    /// Replaces the status file. Not flushed to the device: it describes a process, and after a power
    /// cut there is none.
    ///
    /// # Errors
    /// [`StatusError::Io`].
    pub fn write(&self, peer_directory: &Path) -> Result<(), StatusError> {
        let path = status_path(peer_directory);
        let temporary = path.with_extension("json.tmp");
        let at = |action: &'static str| {
            let path = path.clone();
            move |source| StatusError::Io { action, path, source }
        };
        let content = serde_json::to_vec(self).map_err(|error| at("encode")(error.into()))?;
        let mut file = fs::File::create(&temporary).map_err(at("create"))?;
        file.write_all(&content).map_err(at("write"))?;
        fs::rename(&temporary, &path).map_err(at("replace"))
    }

    /// Reads the status of the peer with this directory; `None` if it has never written one, or one
    /// that this program cannot read: half a file after a power cut, or that of another version. Such a
    /// file describes no process that matters.
    ///
    /// # Errors
    /// [`StatusError`].
    pub fn read(peer_directory: &Path) -> Result<Option<Self>, StatusError> {
        use std::io::Read;
        let path = status_path(peer_directory);
        let io = |source| StatusError::Io { action: "read", path: path.clone(), source };
        let file = match fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            result => result.map_err(io)?,
        };
        let mut content = Vec::new();
        file.take(MAX_STATUS_BYTES).read_to_end(&mut content).map_err(io)?;
        let status: Option<Self> = serde_json::from_slice(&content).ok();
        Ok(status.filter(|status| status.version == STATUS_VERSION))
    }
}
