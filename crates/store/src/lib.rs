//! A peer's own store: the replica as content-addressed files, in-store exact sums, durable
//! checkpoints and the ledger.
//!
//! All calls are synchronous; a peer makes them on a thread of their own. What comes from functions,
//! other peers or a disk after a crash is checked for length and digest before it is used.

mod apply;
mod checkpoint;
mod error;
mod files;
mod hex;
mod ledger;
mod lock;
mod payload;
mod redis_server;
mod safetensors_header;
mod state;
mod store;
mod sums;
mod tensors;

pub use apply::{ApplyError, RoundTotals, apply};
pub use checkpoint::{
    CHECKPOINT_FORMAT, Checkpoint, CheckpointError, Checkpoints, DEFAULT_KEPT_CHECKPOINTS, Model, Newest, export,
};
pub use error::{FileError, Skipped};
pub use ledger::{
    Batch, BillingRecord, ContributionProof, ContributionRecord, EvaluationRecord, EventRecord, InvocationRecord,
    InvocationTotals, LEDGER_VERSION, Ledger, LedgerError, RefusalRecord, RoundRecord, RoundTimes, SessionRecord,
    StateOrigin, StateRecord, UnitAttempt,
};
pub use lock::LockError;
pub use payload::{PAYLOAD_FORMAT, Payload, PayloadBuffer, PayloadError, PayloadFormat};
#[cfg(not(feature = "redis"))]
pub use redis_server::check_redis;
pub use redis_server::{RedisError, RedisServer, RedisUrlError};
pub use state::{MAX_ELEMENTS, MAX_TENSORS, STATE_FORMAT, State, StateError};
pub use store::{Advanced, Opened, Resumed, STORE_FORMAT, Store, StoreError, checkpoints_path, ledger_path, read_spec};
pub use sums::{Cover, GradientFiles, Part, RoundSums, SumsError, UnitGradients};
#[cfg(feature = "redis")]
pub use sums::{OnChange, RedisGradients, RedisOutput, RedisOutputError, RedisOutputs, RedisState, check_redis};
pub use tensors::{
    DEFAULT_KEPT_STATES, KeptFile, Outputs, StateFile, StateImport, StoredState, TensorError, TensorStore,
};
