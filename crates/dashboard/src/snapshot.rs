//! What there is to see of a run at a moment.

use peerless_functions::prices::Money;
use peerless_protocol::{Digest, FinishReason, PeerId, RunId};
use serde::Serialize;

/// Version of the JSON; it grows when a field changes its meaning or goes.
pub const SNAPSHOT_VERSION: u32 = 1;

/// Where a run is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunCondition {
    /// Nobody has applied a round yet.
    Starting,
    /// Some peer takes part in it.
    Training,
    /// It is over: there is a final state.
    Finished,
    /// No process is left, and there is no final state.
    Stopped,
    /// Its directory cannot be read.
    Unreadable,
}

/// Where a peer is in its life, as others would see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerCondition {
    /// It has a directory and has never said anything.
    Waiting,
    /// Opening its store, preparing the initial state.
    Starting,
    /// Taking part.
    Training,
    /// Its state is rounds behind the newest one.
    CatchingUp,
    /// Its process lives, and has said nothing for a while in which others went on.
    Silent,
    /// Its process is gone without a word.
    Dead,
    /// It ended with an error.
    Failed,
    /// It was asked to leave, or its budget paid for no more.
    Left,
    /// It has the final state.
    Finished,
}

impl PeerCondition {
    /// All conditions.
    pub const ALL: [Self; 9] = [
        Self::Waiting,
        Self::Starting,
        Self::Training,
        Self::CatchingUp,
        Self::Silent,
        Self::Dead,
        Self::Failed,
        Self::Left,
        Self::Finished,
    ];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Training => "training",
            Self::CatchingUp => "catching up",
            Self::Silent => "silent",
            Self::Dead => "dead",
            Self::Failed => "failed",
            Self::Left => "left",
            Self::Finished => "finished",
        }
    }

    /// Whether its process takes part.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Training | Self::CatchingUp)
    }
}

/// A run at a moment.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// [`SNAPSHOT_VERSION`].
    pub version: u32,
    /// When it was taken, in microseconds since the Unix epoch.
    pub at_unix_us: u64,
    /// Where the run is in its life.
    pub condition: RunCondition,
    /// What is trained; `None` until the directory could be read once.
    pub run: Option<Run>,
    /// How far it is.
    pub progress: Progress,
    /// Mean training loss by round; of long runs every so many rounds.
    pub loss: Vec<(u64, f64)>,
    /// Fraction of the test set predicted right, by the round whose state was evaluated.
    pub accuracy: Vec<(u64, f64)>,
    /// Mean loss on the test set, by the round whose state was evaluated.
    pub test_loss: Vec<(u64, f64)>,
    /// The peers that were started in the run directory.
    pub peers: Vec<Peer>,
    /// The functions of all peers.
    pub functions: Functions,
    /// What was spent; `None` where nothing costs anything.
    pub bill: Option<Bill>,
    /// What failures cost besides money.
    pub lost_work: LostWork,
    /// What happened, oldest first: the newest ones.
    pub stories: Vec<Story>,
    /// What could not be read, for people.
    pub problems: Vec<String>,
    /// Whether older parts of ledgers are still to be read.
    pub incomplete: bool,
}

/// What is trained.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The run's id.
    pub id: RunId,
    /// Its directory.
    pub directory: String,
    /// The model.
    pub model: String,
    /// The dataset.
    pub dataset: String,
    /// `p2p`, `parameter-server` or `all-reduce`; `p2p` until a peer has said it.
    pub topology: &'static str,
}

/// How far a run is.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Progress {
    /// Optimizer steps of the most advanced peer.
    pub steps: u64,
    /// Steps that the run may take.
    pub rounds: u64,
    /// Training samples of a round.
    pub samples_per_round: u64,
    /// Training samples per second over the last rounds.
    pub samples_per_s: Option<f64>,
    /// Time from the first start of a peer to now, or to the last sign of life, in seconds.
    pub elapsed_s: Option<f64>,
    /// Time left at the present speed, in seconds.
    pub left_s: Option<f64>,
    /// Median time from one round to the next, in milliseconds.
    pub usual_round_ms: Option<f64>,
    /// Mean loss over the training samples of the newest round.
    pub training_loss: Option<f64>,
    /// The newest fraction of the test set that was predicted right.
    pub accuracy: Option<f64>,
    /// Digest of the newest state.
    pub state_digest: Option<Digest>,
    /// Peers that hold it.
    pub held_by: usize,
    /// Why the run is over, if it is.
    pub finish_reason: Option<FinishReason>,
}

/// A peer.
#[derive(Debug, Clone, Serialize)]
pub struct Peer {
    /// Its name in the run directory.
    pub name: String,
    /// Its key.
    pub id: Option<PeerId>,
    /// Whether it is the run's parameter server.
    pub server: bool,
    /// Where it is in its life.
    pub condition: PeerCondition,
    /// Its process, present or last.
    pub pid: Option<u32>,
    /// Optimizer steps applied to its state.
    pub steps: u64,
    /// Protocol rounds applied to its state.
    pub round: u64,
    /// Other peers that it is connected to.
    pub neighbours: usize,
    /// Function processes that compute.
    pub functions_busy: usize,
    /// Function processes.
    pub functions: usize,
    /// Rounds in its ledger.
    pub rounds_applied: u64,
    /// Units that its functions computed, by its ledger, backups included.
    pub units: u64,
    /// Those that other peers owed.
    pub backup_units: u64,
    /// Messages and blobs that it received and did not use.
    pub refused: u64,
    /// How often other peers had another state for the same round.
    pub divergences: u64,
    /// Tensors that its data path moved for functions elsewhere, in bytes; `None` where functions see its files.
    pub data_path_bytes: Option<(u64, u64)>,
    /// What made it end, if it failed.
    pub error: Option<String>,
    /// Time since its last word, in seconds.
    pub age_s: Option<f64>,
    /// Lives of its process: begin and last sign, in microseconds since the Unix epoch.
    pub lives: Vec<(u64, u64)>,
    /// Where the time of its newest rounds went.
    pub times: Option<Times>,
}

/// Means over the newest rounds of a peer, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Times {
    /// Rounds that they are means over.
    pub rounds: u64,
    /// Until its last unit was computed.
    pub compute_ms: f64,
    /// Forming sums.
    pub sum_ms: f64,
    /// The longest transfer.
    pub transfer_ms: f64,
    /// Mean, clipping, optimizer.
    pub update_ms: f64,
    /// Hashing and storing the new state.
    pub digest_ms: f64,
    /// Waiting for others.
    pub wait_ms: f64,
}

/// The functions of all peers, since the run began.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Functions {
    /// Function processes that compute now.
    pub busy: usize,
    /// Function processes that are warm and have nothing to do now.
    pub idle: usize,
    /// Invocations by outcome: `ok`, `discarded`, or the class of failure.
    pub outcomes: Vec<(String, u64)>,
    /// All of them.
    pub invocations: u64,
    /// Invocations for which a function had to be started.
    pub cold_starts: u64,
    /// Invocations that failed.
    pub failed: u64,
    /// Invocations that were not the first attempt at their task.
    pub retried: u64,
    /// Results that nobody waited for any more.
    pub discarded: u64,
    /// Results that were there already.
    pub repeated: u64,
    /// Time at work, in seconds.
    pub function_s: f64,
    /// Time at work that was of no use, in seconds.
    pub wasted_s: f64,
}

/// What was spent.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Bill {
    /// All of it.
    pub spent_usd: Money,
    /// For functions.
    pub functions_usd: Money,
    /// For the peers' machines.
    pub peers_usd: Money,
    /// For functions that were of no use.
    pub wasted_usd: Money,
    /// Most that may be spent, by all peers together.
    pub budget_usd: Option<Money>,
    /// Peers whose budget pays for no more.
    pub used_up: usize,
}

/// What failures cost besides money.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LostWork {
    /// Rounds that were applied again.
    pub rounds_redone: u64,
    /// Time in which the run got no further, in seconds.
    pub stalled_s: f64,
}

/// How a story is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tone {
    /// Something went wrong and is not over.
    Trouble,
    /// Something went wrong, and is as it was before.
    Recovered,
    /// Something that is as it should be.
    Note,
}

/// Something that happened, in words.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Story {
    /// When it began, in microseconds since the Unix epoch.
    pub at_us: u64,
    /// The round under way.
    pub round: Option<u64>,
    /// How it is to be read.
    pub tone: Tone,
    /// The peers that it is about.
    pub peer: Option<String>,
    /// What happened.
    pub title: String,
    /// What became of it.
    pub text: String,
}
