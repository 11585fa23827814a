//! A peer of a run: identity, transport, and the event loop that executes the protocol on a real
//! machine.

pub mod bill;
pub mod data_path;
mod engine;
pub mod gateway;
pub mod history;
pub mod identity;
mod join;
pub mod local;
mod options;
pub mod process;
pub mod run_directory;
pub mod status;
pub mod tail;
pub mod ticket;
pub mod transport;
pub mod waste;

pub use engine::{release_tensors, run_peer, tensor_directory};
pub use join::fetch_spec;
pub use options::{
    Compute, FunctionsConfig, GradientStoreConfig, JoinFailure, PeerError, PeerOptions, PeerSummary, Topology,
};
pub use run_directory::{RunDirectory, RunDirectoryError};
pub use status::{PeerStatus, Phase};
