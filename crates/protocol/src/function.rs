//! The function protocol: what a peer sends to a function and gets back.
//!
//! Tasks and reports are small JSON documents, so that a function can be written in any language;
//! tensors never travel in them. A tensor is named by reference: where it is, the byte range there and,
//! where a function cannot trust the way, its digest.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, RunId};
use crate::spec::RunSpec;
use crate::state::{Layout, Tally};
use crate::units::UnitKind;

/// Version of the function protocol; a function refuses tasks of another version.
pub const FUNCTION_PROTOCOL: u16 = 2;

/// Where bytes are that a function reads or writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A file that peer and function both see.
    Path(PathBuf),
    /// A resource on the network: read with GET and a range, written with PUT.
    Remote(Remote),
}

/// A resource that can be reached by HTTP, and the right to do so.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remote {
    /// `http:` or `https:`, and for outputs also a key as `redis://host:port/database/key` or `rediss:`, whose user and
    /// password are in the function's environment. May itself hold the right (a presigned URL), so it is a secret too.
    pub url: String,
    /// Sent as `Authorization: Bearer TOKEN`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl Remote {
    /// The URL without its query, where presigned URLs keep their secret: fit for messages.
    pub fn address(&self) -> &str {
        self.url.split(['?', '#']).next().unwrap_or_default()
    }
}

/// Shows no secret.
impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Remote(remote) => f.write_str(remote.address()),
        }
    }
}

/// A tensor of little-endian f32.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorRef {
    /// The file or resource that holds it.
    #[serde(flatten)]
    pub place: Place,
    /// Where in it the first element starts, in bytes.
    pub offset: u64,
    /// Number of f32 elements.
    pub elements: u64,
    /// BLAKE3 of the elements' bytes. Given with [`Place::Remote`], so that a function can check what
    /// it fetched, and needs to fetch it once only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What a function is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// [`FUNCTION_PROTOCOL`].
    pub version: u16,
    /// Names the invocation; the report repeats it.
    pub invocation: u64,
    /// The run's id: a warm function keeps what it prepared for this run.
    pub run: RunId,
    /// The run spec. Sent with every task: it is small, and a function keeps no session.
    pub spec: RunSpec,
    /// The work itself.
    pub work: Work,
}

/// The kinds of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Work {
    /// Write the model's initial parameters (and buffers) for the spec's seed to `output`, and
    /// report the layout.
    Initialise {
        /// What to create with the flat f32 vector.
        output: Place,
    },
    /// Compute one unit of a round.
    Unit {
        /// The round, which names the samples together with `unit`.
        round: u64,
        /// The unit's number within the round.
        unit: u32,
        /// Gradient or evaluation.
        unit_kind: UnitKind,
        /// The flat vector of parameters and buffers to compute with.
        parameters: TensorRef,
        /// What to create with the gradient, as long as the flat vector; unused by evaluations.
        output: Place,
        /// The dataset's files by name, for functions that do not have them. Of these, ranges are read.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        dataset: BTreeMap<String, Remote>,
    },
    /// Do nothing: measures the cost of an invocation, and warms a function up.
    Ping,
}

/// What a function answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The task's `invocation`.
    pub invocation: u64,
    /// Result or failure.
    pub outcome: Result<Output, Failure>,
    /// Time spent on the task inside the function, in microseconds.
    pub duration_us: u64,
    /// Largest resident set of the function process so far, in bytes; 0 where unknown.
    pub peak_memory_bytes: u64,
    /// Whether this is the first task of the function's process.
    #[serde(default)]
    pub cold: bool,
    /// Requests that the function made to read parameters and samples from places on the network; absent where it did
    /// not count them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<u32>,
}

/// The result of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Output {
    /// Of [`Work::Initialise`].
    Initialised {
        /// Shapes and places of the model's tensors.
        layout: Layout,
        /// Digest of the output file.
        digest: Digest,
        /// Digest of a canonical gradient: equal on machines whose functions compute the same bits.
        fingerprint: Digest,
    },
    /// Of [`Work::Unit`].
    Unit {
        /// Totals over the unit's samples.
        tally: Tally,
        /// Digest of the gradient file; absent for evaluations.
        digest: Option<Digest>,
    },
    /// Of [`Work::Ping`].
    Pong,
}

/// Why a task failed inside the function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whether another attempt can succeed.
    pub kind: FailureKind,
    /// What failed, with which input, for people.
    pub message: String,
}

/// Classes of failures; they decide about retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The task is not one that this function can do (unknown model, other protocol version).
    /// Retrying is useless.
    Unsupported,
    /// An input is missing or its content is wrong (dataset, parameters).
    Input,
    /// The numbers went wrong (NaN or infinite loss or gradient). Deterministic: every attempt
    /// anywhere gives the same.
    Numerics,
    /// The environment failed (disk full, out of memory); another attempt may succeed.
    Environment,
}
