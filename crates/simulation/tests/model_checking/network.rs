//! What is under way between peers.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use peerless_protocol::{Message, PayloadRef};

use crate::hashing::hash_of;

/// How the network treats what is sent on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It arrives in the order in which it was sent, as with TCP. Messages and payloads have a
    /// connection each, so one can overtake the other.
    Kept,
    /// It arrives in any order.
    Any,
}

/// Messages, or payloads, from one peer to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    pub from: u8,
    pub to: u8,
    pub bulk: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    Message(Letter),
    Payload(PayloadRef),
    /// The connection is gone. What did not arrive before it never does.
    Gone,
}

/// An encoded message, told apart from others by a hash.
#[derive(Debug, Clone)]
pub struct Letter {
    hash: u64,
    round: Option<u64>,
    bytes: Arc<[u8]>,
}

impl Letter {
    pub fn new(message: &Message) -> Self {
        let bytes: Arc<[u8]> = message.encode().into();
        let round = match message {
            Message::Contribution(signed) => Some(signed.contribution.from.round),
            Message::UnitsWanted { from, .. } => Some(from.round),
            _ => None,
        };
        Self { hash: hash_of(&bytes), round, bytes }
    }

    /// The round that it is about.
    pub fn round(&self) -> Option<u64> {
        self.round
    }

    /// The message, unless it is one that cannot be read.
    pub fn open(&self) -> Option<Message> {
        Message::decode(&self.bytes).ok()
    }
}

impl PartialEq for Letter {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Letter {}

impl PartialOrd for Letter {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Letter {
    fn cmp(&self, other: &Self) -> Ordering {
        self.hash.cmp(&other.hash)
    }
}

impl Hash for Letter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

/// What is under way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Network(BTreeMap<Link, Vec<Content>>);

impl Network {
    pub fn send(&mut self, link: Link, content: Content, order: Order) {
        let queue = self.0.entry(link).or_default();
        // The same once more is the same: only repeated requests for a payload make it.
        if !queue.contains(&content) {
            queue.push(content);
            if order == Order::Any {
                queue.sort();
            }
        }
    }

    pub fn take(&mut self, link: Link, content: &Content) {
        self.retain(|other, waiting| other != link || waiting != content);
    }

    pub fn retain(&mut self, keep: impl Fn(Link, &Content) -> bool) {
        self.0.iter_mut().for_each(|(link, queue)| queue.retain(|content| keep(*link, content)));
        self.0.retain(|_, queue| !queue.is_empty());
    }

    pub fn contains(&self, link: Link, content: &Content) -> bool {
        self.0.get(&link).is_some_and(|queue| queue.contains(content))
    }

    pub fn all(&self) -> impl Iterator<Item = (Link, &Content)> {
        self.0.iter().flat_map(|(link, queue)| queue.iter().map(|content| (*link, content)))
    }

    /// What can arrive next.
    pub fn next(&self, order: Order) -> impl Iterator<Item = (Link, Content)> {
        self.0.iter().flat_map(move |(link, queue)| {
            let count = if order == Order::Any { queue.len() } else { 1 };
            queue.iter().take(count).map(|content| (*link, content.clone()))
        })
    }

    pub fn is_quiet_for(&self, peer: u8) -> bool {
        self.0.keys().all(|link| link.to != peer)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self {
            Self::Payload(payload) => return write!(f, "the payload {}", payload.digest.short()),
            Self::Gone => return f.write_str("the end"),
            Self::Message(letter) => letter,
        };
        match letter.open() {
            Some(Message::Contribution(signed)) => {
                let units: Vec<u32> = signed.contribution.units.iter().collect();
                write!(f, "the contribution {units:?} to round {}", signed.contribution.from.round)
            }
            Some(Message::UnitsWanted { units, .. }) => {
                write!(f, "the wish for {:?}", units.iter().collect::<Vec<_>>())
            }
            Some(Message::Leaving) => f.write_str("the farewell"),
            _ => f.write_str("a message"),
        }
    }
}
