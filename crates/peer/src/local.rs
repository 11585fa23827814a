//! The peers of a run directory as anyone on the machine can see them.

use std::path::PathBuf;

use crate::process::is_alive;
use crate::status::{PeerStatus, Phase, StatusError};

/// The subcommand that a peer's process runs.
pub const PEER_COMMAND: &str = "peer";

/// The name of the parameter server in a run directory.
pub const SERVER: &str = "server";

/// A peer of a run as its directory shows it.
#[derive(Debug, Clone)]
pub struct LocalPeer {
    /// Its name in the run directory.
    pub name: String,
    /// Its directory.
    pub directory: PathBuf,
    /// What it said last; `None` if it never said anything.
    pub status: Option<PeerStatus>,
    /// Whether its process lives.
    pub alive: bool,
}

impl LocalPeer {
    /// Looks at the status and the process of the peer with this name and directory.
    ///
    /// # Errors
    /// [`StatusError`].
    pub fn read(name: String, directory: PathBuf) -> Result<Self, StatusError> {
        let status = PeerStatus::read(&directory)?;
        let alive = status.as_ref().is_some_and(|status| is_alive(status.pid, PEER_COMMAND));
        Ok(Self { name, directory, status, alive })
    }

    /// What a person is told about where it is: a process that is gone cannot be training.
    pub fn phase(&self) -> &'static str {
        match self.status.as_ref().map(|status| status.phase) {
            None => "unknown",
            Some(Phase::Finished) => "finished",
            Some(Phase::Left) => "left",
            Some(Phase::Failed) => "failed",
            Some(Phase::Starting | Phase::Training) if !self.alive => "dead",
            Some(Phase::Starting) => "starting",
            Some(Phase::Training) => "training",
        }
    }
}
