//! Peers of one run directory find each other through the status files that they write there.

use std::collections::HashMap;
use std::net::SocketAddr;

use peerless_protocol::PeerId;

use crate::run_directory::RunDirectory;
use crate::status::{PeerStatus, Phase};

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Discovery {
    known: HashMap<PeerId, Vec<SocketAddr>>,
}

impl Discovery {
    /// Peers that are new, or that listen elsewhere than before (as after a restart). A status that
    /// cannot be read is passed over: its peer is replacing it, or will.
    pub fn look(&mut self, run: &RunDirectory, me: PeerId) -> Vec<(PeerId, Vec<SocketAddr>)> {
        let directories = run.peers().unwrap_or_default();
        let statuses = directories.iter().filter_map(|(_, path)| PeerStatus::read(path).ok().flatten());
        let reachable = statuses.filter(|status| {
            let takes_part = matches!(status.phase, Phase::Training | Phase::Finished);
            status.peer != me && status.run == run.spec().id() && takes_part && !status.addresses.is_empty()
        });
        let found: Vec<_> = reachable.map(|status| (status.peer, status.addresses)).collect();
        found
            .into_iter()
            .filter(|(peer, addresses)| self.known.insert(*peer, addresses.clone()).as_ref() != Some(addresses))
            .collect()
    }
}
