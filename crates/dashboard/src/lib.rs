//! A live page, JSON and metrics over the directory of a run.
//!
//! The dashboard reads what peers write for anyone to read, status files and ledgers, and is in no data path: when it
//! dies, or its readers are slow or many, peers notice nothing. It writes nothing.

mod feed;
mod metrics;
mod page;
mod reader;
mod server;
mod snapshot;

pub use reader::RunReader;
pub use server::{Dashboard, DashboardError, DashboardOptions, Limits, Token};
pub use snapshot::{
    Bill, Functions, LostWork, Peer, PeerCondition, Progress, Run, RunCondition, SNAPSHOT_VERSION, Snapshot, Story,
    Times, Tone,
};
