//! Several paths to a peer, seen as one connection.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use peerless_protocol::PeerId;

use super::super::events::{Join, Origin};
use super::super::sessions::Replacer;
use super::super::{CloseReason, Event, Rejection};
use super::Path;

/// The paths to one connected peer; there is always one.
#[derive(Debug, Clone, Copy)]
struct Paths {
    /// The peer's process.
    instance: u64,
    up: [bool; 2],
}

impl Paths {
    fn are_down(&self) -> bool {
        self.up == [false; 2]
    }
}

/// Joins the events of the paths.
///
/// A peer is connected from its first path to the end of its last. Paths of different processes are
/// never joined: a process that appears replaces the one before it on all paths.
pub(super) struct JoinPaths {
    replacers: [Replacer; 2],
    peers: HashMap<PeerId, Paths>,
}

impl fmt::Debug for JoinPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinPaths").field("peers", &self.peers).finish_non_exhaustive()
    }
}

fn name(path: usize) -> &'static str {
    if path == Path::Tls as usize { "tls" } else { "iroh" }
}

impl JoinPaths {
    pub(super) fn new(replacers: [Replacer; 2]) -> Self {
        Self { replacers, peers: HashMap::new() }
    }

    fn is_up(&self, peer: PeerId, path: usize) -> bool {
        self.peers.get(&peer).is_some_and(|paths| paths.up[path])
    }

    /// Whether the peer is first heard of by this path.
    fn path_up(&mut self, peer: PeerId, origin: Origin, joined: &mut VecDeque<Event>) -> bool {
        let Origin { path, instance } = origin;
        let fresh = Paths { instance, up: [path == Path::Tls as usize, path == Path::Iroh as usize] };
        match self.peers.get_mut(&peer) {
            Some(paths) if paths.instance == instance => {
                tracing::debug!(peer = %peer.short(), path = name(path), "another path is up");
                paths.up[path] = true;
                false
            }
            Some(paths) => {
                *paths = fresh;
                self.replacers[1 - path].replaced_by(peer, instance);
                joined.push_back(Event::Disconnected { peer, reason: CloseReason::Replaced });
                true
            }
            None => {
                self.peers.insert(peer, fresh);
                true
            }
        }
    }

    /// Whether the peer is connected no longer.
    fn path_down(&mut self, peer: PeerId, path: usize, reason: &CloseReason) -> bool {
        let Some(paths) = self.peers.get_mut(&peer) else { return false };
        if !std::mem::take(&mut paths.up[path]) {
            // Of a process that was replaced.
            return false;
        }
        if paths.are_down() {
            self.peers.remove(&peer);
            return true;
        }
        tracing::info!(peer = %peer.short(), lost = name(path), other = name(1 - path), %reason, "going on by the other path");
        false
    }
}

impl Join for JoinPaths {
    fn take(&mut self, origin: Origin, event: Event, joined: &mut VecDeque<Event>) {
        let wanted = match &event {
            Event::Connected { peer, .. } => self.path_up(*peer, origin, joined),
            Event::Disconnected { peer, reason } => self.path_down(*peer, origin.path, reason),
            Event::Message { from, .. } => self.is_up(*from, origin.path),
            // Payloads let other events pass, so that their path may be gone. They prove themselves.
            Event::Payload { .. } => true,
            Event::Rejected { reason: Rejection::CorruptPayload { .. }, .. } | Event::Rejected { peer: None, .. } => {
                true
            }
            // Who is connected by the other path misses nothing.
            Event::Rejected { peer: Some(peer), .. } => !self.is_up(*peer, 1 - origin.path),
        };
        if wanted {
            joined.push_back(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const PEER: PeerId = PeerId([7; 32]);
    const TLS: usize = Path::Tls as usize;
    const IROH: usize = Path::Iroh as usize;

    fn up(path: usize, instance: u64) -> (Origin, Event) {
        (Origin { path, instance }, Event::Connected { peer: PEER, addresses: Vec::new() })
    }

    fn down(path: usize) -> (Origin, Event) {
        let reason = CloseReason::Lost(name(path).into());
        (Origin { path, instance: 0 }, Event::Disconnected { peer: PEER, reason })
    }

    fn message(path: usize) -> (Origin, Event) {
        let bytes = Bytes::from_static(name(path).as_bytes());
        (Origin { path, instance: 0 }, Event::Message { from: PEER, bytes })
    }

    /// What comes out, in words.
    fn joined(events: impl IntoIterator<Item = (Origin, Event)>) -> Vec<String> {
        let mut join = JoinPaths::new([Replacer::of_nobody(), Replacer::of_nobody()]);
        let mut joined = VecDeque::new();
        events.into_iter().for_each(|(origin, event)| join.take(origin, event, &mut joined));
        let words = |event| match event {
            Event::Connected { .. } => "connected".to_owned(),
            Event::Disconnected { reason, .. } => format!("disconnected: {reason}"),
            Event::Message { bytes, .. } => format!("by {}", String::from_utf8_lossy(&bytes)),
            event => format!("{event:?}"),
        };
        joined.into_iter().map(words).collect()
    }

    #[test]
    fn a_peer_is_connected_from_its_first_path_to_the_end_of_its_last() {
        let events =
            [up(TLS, 1), up(IROH, 1), message(IROH), down(TLS), message(IROH), up(TLS, 1), down(IROH), down(TLS)];
        assert_eq!(joined(events), ["connected", "by iroh", "by iroh", "disconnected: connection lost: tls"]);
    }

    #[test]
    fn a_new_process_replaces_the_old_one_on_both_paths() {
        let events = [up(TLS, 1), up(IROH, 1), up(TLS, 2), message(IROH), down(IROH), up(IROH, 2), message(IROH)];
        let replaced = format!("disconnected: {}", CloseReason::Replaced);
        assert_eq!(joined(events), ["connected", &replaced, "connected", "by iroh"]);
    }

    #[test]
    fn the_end_of_a_path_that_was_replaced_is_no_loss() {
        let replaced = format!("disconnected: {}", CloseReason::Replaced);
        let events = [up(IROH, 1), up(TLS, 2), down(IROH), message(TLS), down(TLS)];
        let lost = "disconnected: connection lost: tls";
        assert_eq!(joined(events), ["connected", &replaced, "connected", "by tls", lost]);
    }
}
