//! How tensors reach functions that share no disk with their peer, and come back.
//!
//! A task names tensors by place. For functions of this machine places are files; for others a
//! [`DataPath`] turns what a task needs into places on the network, good for one attempt and a limited
//! time. [`OverNetwork`] puts one around a platform, so that retries and hedges get rights of their own
//! with every attempt: a function that was given up can neither take the place of the one that was asked
//! after it nor spoil what that one writes.

#[cfg(feature = "s3")]
mod bucket;
#[cfg(feature = "redis")]
mod database;
mod metered;
mod over_network;
mod vectors;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use peerless_functions::{BoxFuture, InvokeError};
use peerless_protocol::function::{Place, Remote, TensorRef};
use peerless_protocol::{Digest, PeerId, RunId};
use thiserror::Error;
use tokio::time::Instant;

use crate::engine::exchange::SharedSums;
use crate::gateway::{Gateway, GatewayConfig, GatewayError};

#[cfg(feature = "s3")]
pub(crate) use bucket::SumsBucket;
#[cfg(feature = "s3")]
pub use bucket::{Bucket, BucketConfig, BucketError, Credentials};
#[cfg(feature = "redis")]
pub(crate) use database::IntoDatabase;
pub use over_network::OverNetwork;

/// By which way remote functions get at tensors.
#[derive(Debug, Clone)]
pub enum DataPathConfig {
    /// An HTTP server in the peer.
    Gateway(GatewayConfig),
    /// A bucket of an S3-compatible store.
    #[cfg(feature = "s3")]
    Bucket(BucketConfig),
}

/// By which way sums go from peer to peer. All peers of a run go the same way.
#[derive(Debug, Clone, Default)]
pub enum ExchangeConfig {
    /// From one to the other.
    #[default]
    Direct,
    /// Through a bucket, as serverless functions do that cannot reach each other.
    #[cfg(feature = "s3")]
    Bucket(Box<BucketConfig>),
}

impl ExchangeConfig {
    /// The place in between, if there is one.
    #[cfg_attr(not(feature = "s3"), expect(unused_variables, reason = "peers reach each other without anybody's help"))]
    pub(crate) async fn open(&self, run: &RunId, peer: PeerId) -> Result<Option<Arc<dyn SharedSums>>, OpenError> {
        Ok(match self {
            Self::Direct => None,
            #[cfg(feature = "s3")]
            Self::Bucket(config) => {
                Some(Arc::new(SumsBucket::open(config, run, peer).await.map_err(DataPathError::from)?))
            }
        })
    }
}

/// A way to tensors that cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The gateway.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// The bucket, or a file of the dataset.
    #[cfg(feature = "s3")]
    #[error(transparent)]
    Bucket(#[from] DataPathError),
}

impl DataPathConfig {
    /// Opens the way for a peer of a run. What it keeps elsewhere is kept apart from that of others by their ids.
    ///
    /// # Errors
    /// [`OpenError`].
    #[cfg_attr(not(feature = "s3"), expect(unused_variables, reason = "a gateway keeps everything in the peer"))]
    pub async fn open(&self, run: &RunId, peer: &PeerId) -> Result<Arc<dyn DataPath>, OpenError> {
        Ok(match self {
            Self::Gateway(config) => Arc::new(Gateway::start(config).await?),
            #[cfg(feature = "s3")]
            Self::Bucket(config) => Arc::new(Bucket::open(config, run, peer).await?),
        })
    }

    /// How long an attempt may use what it was offered.
    pub fn lifetime(&self) -> Duration {
        match self {
            Self::Gateway(config) => config.lifetime,
            #[cfg(feature = "s3")]
            Self::Bucket(config) => config.lifetime,
        }
    }
}

/// Moves tensors between the peer's files and functions elsewhere.
pub trait DataPath: Send + Sync {
    /// Grants one attempt what it needs. Dropping the grant takes everything back at once, as far as the way allows:
    /// in any case nothing that is written from then on is looked at.
    ///
    /// # Errors
    /// [`DataPathError`]; nothing is granted then.
    fn offer(&self, offer: Offer) -> BoxFuture<'_, Result<Box<dyn Grant>, DataPathError>>;

    /// What was moved so far.
    fn snapshot(&self) -> DataPathSnapshot;

    /// Removes what is kept elsewhere, within seconds, when no function is at work any more.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// The right of one attempt to its inputs and its one output, until it is dropped.
pub trait Grant: Send {
    /// What to write into the task. Holds secrets.
    fn places(&self) -> &Places;

    /// Puts the output, which the function says it has written with this digest, into the file of the
    /// offer. Before that nothing is there, and what arrives later changes nothing.
    ///
    /// # Errors
    /// [`DataPathError::NotWritten`], [`DataPathError::Damaged`] or an error of the file system.
    fn collect(&mut self, digest: Digest) -> BoxFuture<'_, Result<(), DataPathError>>;

    /// Looks whether what was granted is still there, after a function has failed that may have lacked it.
    ///
    /// # Errors
    /// What is wrong with it.
    fn check(&mut self) -> BoxFuture<'_, Result<(), DataPathError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Requests to a bucket that the attempt takes.
    fn bucket_requests(&self) -> BucketRequests {
        BucketRequests::default()
    }
}

/// Requests to a bucket for one attempt, as stores bill them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketRequests {
    /// Writes that were made before the function was called.
    pub prepared_puts: u32,
    /// Writes that the function makes.
    pub puts: u32,
    /// Reads that the function makes, if it has kept nothing from the attempt before and does not say itself. Without
    /// those of samples.
    pub gets: u32,
    /// Reads that the peer makes when the function has reported.
    pub collect_gets: u32,
}

/// What an attempt needs.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The vector to compute with.
    pub parameters: Option<Vector>,
    /// The file to be written; none for work that writes nothing.
    pub output: Option<OutputFile>,
    /// Whether it may read the dataset.
    pub dataset: bool,
    /// When all of it ends, if the grant is not dropped earlier.
    pub expires: Instant,
}

/// A flat vector of little-endian f32 in an open file, which may have been removed since.
#[derive(Debug, Clone)]
pub struct Vector {
    /// The file.
    pub file: Arc<File>,
    /// Where in it the vector starts, in bytes.
    pub offset: u64,
    /// Number of f32 elements.
    pub elements: u64,
    /// BLAKE3 of the vector's bytes.
    pub digest: Digest,
}

/// The file that an attempt's output goes to.
#[derive(Debug, Clone)]
pub struct OutputFile {
    /// Its path. Files that begin with the same name may be made beside it in the meantime.
    pub path: PathBuf,
    /// How long it has to be.
    pub size: OutputSize,
}

/// Length of an output, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputSize {
    /// Known beforehand.
    Exactly(u64),
    /// Up to the writer, below a limit.
    AtMost(u64),
}

impl OutputSize {
    /// Most bytes.
    pub fn limit(self) -> u64 {
        match self {
            Self::Exactly(bytes) | Self::AtMost(bytes) => bytes,
        }
    }

    /// Whether an output may have this length.
    pub fn allows(self, bytes: u64) -> bool {
        match self {
            Self::Exactly(expected) => bytes == expected,
            Self::AtMost(limit) => bytes <= limit,
        }
    }
}

/// What a task says of its tensors. Holds secrets, which its `Debug` form does not show.
#[derive(Debug, Clone)]
pub struct Places {
    /// The vector, if the offer had one.
    pub parameters: Option<TensorRef>,
    /// Where to write; of no use if the offer had no output.
    pub output: Place,
    /// The dataset's files by name.
    pub dataset: BTreeMap<String, Remote>,
}

impl Places {
    /// What must not appear in messages: the token, or what makes a URL a presigned one.
    pub fn secrets(&self) -> Vec<String> {
        let place = |place: &Place| match place {
            Place::Remote(remote) => Some(remote.clone()),
            Place::Path(_) => None,
        };
        let parameters = self.parameters.as_ref().and_then(|tensor| place(&tensor.place));
        let remotes = parameters.into_iter().chain(place(&self.output)).chain(self.dataset.values().cloned());
        let mut secrets: Vec<String> =
            remotes.flat_map(|Remote { url, token }| token.into_iter().chain(secrets_of_query(&url))).collect();
        secrets.sort();
        secrets.dedup();
        secrets
    }
}

/// Shortest value in a query that may be a signature or a session token.
const SECRET_CHARS: usize = 32;

/// The query, and its long values: servers quote signatures without what is around them.
fn secrets_of_query(url: &str) -> Vec<String> {
    let Some((_, query)) = url.split_once('?') else { return Vec::new() };
    let values = query.split('&').filter_map(|pair| Some(pair.split_once('=')?.1));
    let long = values.filter(|value| value.len() >= SECRET_CHARS);
    std::iter::once(query).chain(long).map(str::to_owned).collect()
}

/// Totals of a data path since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataPathSnapshot {
    /// Requests answered, refused ones included. Of a bucket only those that the peer made.
    pub requests: u64,
    /// Bytes of outputs that functions sent, also of those that were cut off.
    pub bytes_in: u64,
    /// Bytes of vectors and dataset files sent to functions, or to a bucket.
    pub bytes_out: u64,
    /// Refused requests by HTTP status.
    pub refused: BTreeMap<u16, u64>,
}

/// Tensors that could not be moved.
#[derive(Debug, Error)]
pub enum DataPathError {
    /// The operating system gave no random bytes for a secret.
    #[error("cannot make a token: {0}")]
    Randomness(String),
    /// A local file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The error of the file system.
        source: io::Error,
    },
    /// A report came without its tensor.
    #[error("the function reported success, but its output has not arrived")]
    NotWritten,
    /// A tensor came that is not the one of the report.
    #[error("the output that arrived has digest {}, but the function reported {}", found.short(), reported.short())]
    Damaged {
        /// Digest of what arrived.
        found: Digest,
        /// Digest in the report.
        reported: Digest,
    },
    /// A tensor came that is longer or shorter than the one of the task.
    #[error("the output that arrived has {found} bytes instead of {expected}")]
    WrongLength {
        /// Its bytes.
        found: u64,
        /// What it should have, or may have at most.
        expected: u64,
    },
    /// The bucket.
    #[cfg(feature = "s3")]
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// What several attempts had waited for.
    #[error(transparent)]
    Shared(Arc<DataPathError>),
    /// The peer is about to end.
    #[error("the way to tensors is closed: this peer is about to end")]
    Closed,
    /// An output in the database.
    #[cfg(feature = "redis")]
    #[error(transparent)]
    Database(#[from] peerless_store::RedisOutputError),
    /// A thread of this process died.
    #[error("the thread that waits for the database has died; this is a bug")]
    Thread,
    /// A task whose tensors are elsewhere already.
    #[error("the task names {0}, which is not a file of this peer")]
    NotAFile(String),
}

impl DataPathError {
    /// Whether another attempt can succeed.
    pub fn retryable(&self) -> bool {
        match self {
            // A function that reports wrongly does so again, but damage on the way is more likely.
            Self::Randomness(_) | Self::NotWritten | Self::Damaged { .. } | Self::WrongLength { .. } => true,
            Self::File { source, .. } => source.kind() != io::ErrorKind::NotFound,
            #[cfg(feature = "s3")]
            Self::Bucket(error) => error.retryable(),
            Self::Shared(error) => error.retryable(),
            #[cfg(feature = "redis")]
            Self::Database(_) => true,
            Self::NotAFile(_) | Self::Closed | Self::Thread => false,
        }
    }

    /// Whether the whole way seems to be gone for now: then functions that need none go on.
    pub fn way_gone(&self) -> bool {
        match self {
            #[cfg(feature = "s3")]
            Self::Bucket(_) => true,
            Self::Shared(error) => error.way_gone(),
            _ => false,
        }
    }
}

impl From<DataPathError> for InvokeError {
    fn from(error: DataPathError) -> Self {
        Self::Transfer { message: error.to_string(), retryable: error.retryable(), gone: error.way_gone() }
    }
}
