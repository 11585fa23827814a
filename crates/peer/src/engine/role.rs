//! What a peer is in the run's topology, and what follows from it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use peerless_protocol::parameter_server::{Server, Worker};
use peerless_protocol::{Config, Crowd, Membership, Node, Participant, PeerId, StateMeta, StopReason, Time};

use super::event_loop::CheckpointEvery;
use super::release_tensors;
use crate::options::{PeerError, Topology};

/// How long the first round waits for the peers that are expected.
const GATHER_AT_MOST: Duration = Duration::from_secs(5);

/// How long a server that takes the place of another one waits for the workers that are there: they dial it, and it
/// dials them, within a quarter of a second.
const GATHER_AGAIN_AT_MOST: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Peer,
    Server { checkpoint_rounds: u64 },
    Worker { server: PeerId },
    AllReduce { checkpoint_rounds: u64 },
}

impl Role {
    pub fn of(topology: &Topology, me: &PeerId) -> Self {
        match *topology {
            Topology::PeerToPeer => Self::Peer,
            Topology::ParameterServer { server, checkpoint_rounds } if server == *me => {
                Self::Server { checkpoint_rounds }
            }
            Topology::ParameterServer { server, .. } => Self::Worker { server },
            Topology::AllReduce { checkpoint_rounds } => Self::AllReduce { checkpoint_rounds },
        }
    }

    /// Whether its states survive its process in checkpoints alone. A server that dies takes its memory with it, as its
    /// VM does, and the workers of a collective operation end with the one that was lost.
    fn is_forgetful(self) -> bool {
        matches!(self, Self::Server { .. } | Self::AllReduce { .. })
    }

    /// What an earlier process left in shared memory is not gone on from where a dead one would not have left any.
    pub fn forget_what_is_not_durable(self, directory: &Path) {
        if let Some(Err(error)) = self.is_forgetful().then(|| release_tensors(directory)) {
            tracing::warn!(%error, "the states of an earlier process in shared memory were not removed");
        }
    }

    /// Whether a process that ends in this way writes its newest state down first.
    pub fn keeps_its_state_after(self, outcome: &Result<(), PeerError>) -> bool {
        !matches!(outcome, Err(PeerError::Stopped(StopReason::WorkerLost(_))))
    }

    pub fn membership(self) -> Membership {
        if matches!(self, Self::AllReduce { .. }) { Membership::Fixed } else { Membership::Open }
    }

    /// All-reduce is reduce-scatter and all-gather, however few take part.
    pub fn crowd(self) -> Crowd {
        let sharded_from = if matches!(self, Self::AllReduce { .. }) { 2 } else { Crowd::default().sharded_from };
        Crowd { sharded_from, ..Crowd::default() }
    }

    pub fn gather_at_most(self, resuming: bool) -> Duration {
        match self {
            Self::Server { .. } if resuming => GATHER_AGAIN_AT_MOST,
            Self::AllReduce { .. } => Duration::MAX,
            _ => GATHER_AT_MOST,
        }
    }

    pub fn checkpoint_every(self, time: Duration) -> CheckpointEvery {
        match self {
            Self::Server { checkpoint_rounds } | Self::AllReduce { checkpoint_rounds } => {
                CheckpointEvery::Rounds(checkpoint_rounds)
            }
            Self::Peer | Self::Worker { .. } => CheckpointEvery::Time(time),
        }
    }

    pub fn participant(self, config: Config, state: StateMeta, addresses: Vec<SocketAddr>, now: Time) -> Participant {
        match self {
            Self::Peer | Self::AllReduce { .. } => {
                Participant::Peer(Box::new(Node::new(config, state, addresses, now)))
            }
            Self::Server { .. } => Participant::Server(Box::new(Server::new(config, state, now))),
            Self::Worker { server } => Participant::Worker(Box::new(Worker::new(config, server, state, now))),
        }
    }
}
