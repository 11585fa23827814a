//! A process that takes part in a run, whatever the run's topology is.

use crate::ids::PeerId;
use crate::node::{Effect, Input, Node, StateMeta};
use crate::parameter_server::{Server, Worker};
use crate::time::Time;

/// The state machine of a process. What drives it does not have to know which one it is.
pub enum Participant {
    /// Peer to peer.
    Peer(Box<Node>),
    /// The parameter server.
    Server(Box<Server>),
    /// A worker of a parameter server.
    Worker(Box<Worker>),
}

impl Participant {
    /// Its id.
    pub fn id(&self) -> PeerId {
        match self {
            Self::Peer(node) => node.id(),
            Self::Server(server) => server.id(),
            Self::Worker(worker) => worker.id(),
        }
    }

    /// The newest state that it has gone on to.
    pub fn state(&self) -> StateMeta {
        match self {
            Self::Peer(node) => node.state(),
            Self::Server(server) => server.state(),
            Self::Worker(worker) => worker.state(),
        }
    }

    /// Number of others that are connected.
    pub fn neighbours(&self) -> usize {
        match self {
            Self::Peer(node) => node.neighbours().count(),
            Self::Server(server) => server.workers(),
            Self::Worker(worker) => usize::from(worker.is_connected()),
        }
    }

    /// Takes what happened at `now` and returns what to do, in order.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Effect> {
        match self {
            Self::Peer(node) => node.handle(now, input),
            Self::Server(server) => server.handle(now, input),
            Self::Worker(worker) => worker.handle(now, input),
        }
    }

    /// When the next [`Input::Tick`] is due; `None` after the end.
    pub fn deadline(&self) -> Option<Time> {
        match self {
            Self::Peer(node) => node.deadline(),
            Self::Server(server) => server.deadline(),
            Self::Worker(worker) => worker.deadline(),
        }
    }

    /// Whether it talks to a process with this id at all: workers talk to their server alone.
    pub fn talks_to(&self, peer: &PeerId) -> bool {
        match self {
            Self::Peer(_) | Self::Server(_) => true,
            Self::Worker(worker) => worker.server() == *peer,
        }
    }

    /// Whether what this peer pushes are states: servers push them to their workers, everybody else pushes payloads.
    pub fn takes_states(&self) -> bool {
        matches!(self, Self::Worker(_))
    }
}
