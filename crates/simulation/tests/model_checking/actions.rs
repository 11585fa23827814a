//! Everything that can happen.

use std::fmt;

use peerless_protocol::Effect;

use crate::configuration::Peers;
use crate::network::{Content, Link};
use crate::system::System;

#[derive(Clone, PartialEq, Eq)]
pub enum Action {
    Deliver(Link, Content),
    /// It arrives, and will arrive again.
    DeliverAndKeep(Link, Content),
    Lose(Link, Content),
    /// A function has computed the unit.
    Compute {
        peer: u8,
        unit: u32,
    },
    /// The store has formed the next state.
    Apply {
        peer: u8,
    },
    /// The fetch of a state ends, well if a donor that runs has it.
    FetchState {
        peer: u8,
    },
    Connect {
        one: u8,
        other: u8,
    },
    /// The periodic heartbeat of `of` arrives.
    Hear {
        peer: u8,
        of: u8,
    },
    /// Time for messages in flight passes: payloads that were announced are asked for, and the state of
    /// who is ahead is.
    WaitShort {
        peer: u8,
    },
    /// More time than any wait takes passes, while all others give signs of life.
    WaitLong {
        peer: u8,
    },
    Suspect {
        peer: u8,
        of: u8,
    },
    /// `torn`: the newest state did not reach the disk.
    Crash {
        peer: u8,
        torn: bool,
    },
    Disconnect {
        one: u8,
        other: u8,
    },
    Restart {
        peer: u8,
    },
}

impl Peers {
    /// What can happen without a fault, in the order in which `Recovery` lets it happen.
    pub fn progress(&self, system: &System, actions: &mut Vec<Action>) {
        actions.extend(system.network.next(self.order).map(|(link, content)| Action::Deliver(link, content)));
        let running = (0..self.count).filter_map(|peer| Some((peer, system.process(peer)?)));
        for (peer, process) in running {
            actions.extend(process.owed.iter().filter_map(|effect| match effect {
                Effect::Compute { unit, .. } => Some(Action::Compute { peer, unit: *unit }),
                Effect::Apply { .. } => Some(Action::Apply { peer }),
                Effect::FetchState { .. } => Some(Action::FetchState { peer }),
                _ => None,
            }));
        }
        let pairs = self.pairs().filter(|&(one, other)| self.connectable(system, one, other));
        actions.extend(pairs.map(|(one, other)| Action::Connect { one, other }));
        let linked = self.pairs().filter(|&(one, other)| self.linked(system, one, other));
        actions.extend(
            linked.flat_map(|(one, other)| {
                [Action::Hear { peer: one, of: other }, Action::Hear { peer: other, of: one }]
            }),
        );
        let running = (0..self.count).filter(|&peer| system.process(peer).is_some());
        actions.extend(running.map(|peer| Action::WaitShort { peer }));
    }

    pub fn faults(&self, system: &System, actions: &mut Vec<Action>) {
        let left = system.left;
        let lossy = || system.network.next(self.order).filter(|(_, content)| *content != Content::Gone);
        if left.losses > 0 {
            actions.extend(lossy().map(|(link, content)| Action::Lose(link, content)));
        }
        if left.duplicates > 0 {
            actions.extend(lossy().map(|(link, content)| Action::DeliverAndKeep(link, content)));
        }
        let linked: Vec<(u8, u8)> = self.pairs().filter(|&(one, other)| self.linked(system, one, other)).collect();
        if left.disconnections > 0 {
            actions.extend(linked.iter().map(|&(one, other)| Action::Disconnect { one, other }));
        }
        if left.suspicions > 0 {
            let both = linked.iter().flat_map(|&(one, other)| [(one, other), (other, one)]);
            actions.extend(both.map(|(peer, of)| Action::Suspect { peer, of }));
        }
        for peer in 0..self.count {
            let slot = &system.peers[usize::from(peer)];
            match &slot.process {
                Some(_) if left.crashes > 0 => {
                    actions.push(Action::Crash { peer, torn: false });
                    actions.extend((slot.disk.len() > 1).then_some(Action::Crash { peer, torn: true }));
                }
                None if !slot.left => actions.push(Action::Restart { peer }),
                _ => {}
            }
        }
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deliver(link, content) => write!(f, "{} gets {content} of {}", link.to, link.from),
            Self::DeliverAndKeep(link, content) => {
                write!(f, "{} gets {content} of {}, not for the last time", link.to, link.from)
            }
            Self::Lose(link, content) => write!(f, "{content} from {} to {} is lost", link.from, link.to),
            Self::Compute { peer, unit } => write!(f, "{peer} has computed unit {unit}"),
            Self::Apply { peer } => write!(f, "{peer} has applied its cover"),
            Self::FetchState { peer } => write!(f, "{peer} ends fetching a state"),
            Self::Connect { one, other } => write!(f, "{one} and {other} connect"),
            Self::Hear { peer, of } => write!(f, "{peer} hears a heartbeat of {of}"),
            Self::WaitShort { peer } => write!(f, "{peer} has waited for messages in flight"),
            Self::WaitLong { peer } => write!(f, "{peer} has waited for the overdue"),
            Self::Suspect { peer, of } => write!(f, "{peer} suspects {of}"),
            Self::Crash { peer, torn: false } => write!(f, "{peer} crashes"),
            Self::Crash { peer, torn: true } => write!(f, "{peer} crashes before its last state is on the disk"),
            Self::Disconnect { one, other } => write!(f, "{one} and {other} are cut off from each other"),
            Self::Restart { peer } => write!(f, "{peer} starts again"),
        }
    }
}
