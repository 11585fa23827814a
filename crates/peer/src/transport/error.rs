//! Everything that can go wrong between two peers.

use std::io;
use std::net::SocketAddr;

use peerless_protocol::{Digest, PeerId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why the transport could not start.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process listens there.
    #[error("the address {address} is in use by another process: choose another port, or 0 for any free one")]
    InUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The operating system refuses the address.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The operating system's error.
        source: io::Error,
    },
    /// More addresses to announce than allowed.
    #[error("{found} addresses to announce, at most {limit} are allowed")]
    TooManyAddresses {
        /// How many were given.
        found: usize,
        /// How many are allowed.
        limit: usize,
    },
    /// The TLS library does not take the identity, or there is no randomness.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// Why a message or a blob was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SendError {
    /// There is no connection to the peer.
    #[error("not connected to the peer")]
    NotConnected,
    /// The peer does not take its messages as fast as they come: count this one as lost.
    #[error("the queue to the peer is full")]
    QueueFull,
    /// Longer than the peer would accept.
    #[error("{length} bytes, more than the {limit} allowed")]
    TooLong {
        /// Length in bytes.
        length: u64,
        /// Limit in bytes.
        limit: u64,
    },
}

/// Why a blob cannot be served.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BlobError {
    /// There is no such blob here.
    #[error("no such blob")]
    Unknown,
    /// The blob is there, with another length.
    #[error("the blob has {total} bytes")]
    OtherLength {
        /// Its length in bytes.
        total: u64,
    },
    /// It is there and could not be read.
    #[error("the blob cannot be read: {0}")]
    Read(String),
}

/// Why a peer did not serve a range, as it goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum FetchRefusal {
    /// The peer has no such blob.
    #[error("it has no such blob")]
    Unknown,
    /// Its blob of that digest has another length.
    #[error("its blob has {total} bytes")]
    OtherLength {
        /// Length of the peer's blob in bytes.
        total: u64,
    },
    /// The range is empty, too long or outside of the blob.
    #[error("it refuses the range")]
    Range,
    /// The peer could not read its blob.
    #[error("it cannot read the blob")]
    Read,
}

/// Why a range of a blob was not got from a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FetchError {
    /// There is no connection to the peer, or it broke before the answer.
    #[error("not connected to the peer")]
    NotConnected,
    /// Too many fetches from this peer are under way.
    #[error("too many fetches from the peer are under way")]
    Busy,
    /// The peer did not answer in time.
    #[error("the peer did not answer in time")]
    TimedOut,
    /// The range is empty, longer than allowed, or outside of the blob.
    #[error("{start}..{end} of {total} is no range that can be fetched at once")]
    Range {
        /// First byte.
        start: u64,
        /// One beyond the last byte.
        end: u64,
        /// Length of the blob in bytes.
        total: u64,
    },
    /// The peer refused.
    #[error("the peer refused: {0}")]
    Refused(FetchRefusal),
}

/// Why a connection is not admitted. Goes over the wire, so that the refused side can say it too.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// The two peers run incompatible programs.
    #[error(
        "transport version {offered} was offered, the refusing peer speaks {spoken}: use the same release on both machines"
    )]
    Version {
        /// What the refused side offered.
        offered: u16,
        /// What the refusing side speaks.
        spoken: u16,
    },
    /// The refused side is in another run.
    #[error("the refusing peer trains another run: check that the ticket is the one for this run")]
    OtherRun,
    /// The refused side showed a secret, and it is not this run's.
    #[error("wrong join secret: the ticket is not, or no longer, valid for this run")]
    WrongSecret,
    /// The refused side showed no secret and is not on the list of members.
    #[error("not on the list of members, and no join secret was shown")]
    NotListed,
    /// The address leads to another peer than the one that was dialled.
    #[error("peer {expected} was expected at this address, another peer answered")]
    OtherPeer {
        /// Who was dialled.
        expected: PeerId,
    },
    /// Both sides hold the same key.
    #[error("both sides use the same peer key: every peer needs a key file of its own")]
    SameKey,
    /// The two are connected already.
    #[error("already connected")]
    AlreadyConnected,
    /// Both dialled at the same time, and the other connection was chosen.
    #[error("both peers dialled at the same time and the other connection is kept")]
    SimultaneousDial,
    /// A bulk connection that belongs to no control connection.
    #[error("a bulk connection without its control connection")]
    NoSession,
    /// The refusing side shuts down.
    #[error("the refusing peer is shutting down")]
    Closing,
    /// As many peers are connected as the refusing side allows.
    #[error("the refusing peer is connected to as many peers as it allows")]
    Full,
    /// The first frame could not be read.
    #[error("the greeting could not be read")]
    Greeting,
}

impl Refusal {
    /// Whether dialling again soon can help: not when a person has to change something first.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::AlreadyConnected | Self::SimultaneousDial | Self::NoSession | Self::Closing | Self::Full => true,
            Self::Version { .. }
            | Self::OtherRun
            | Self::WrongSecret
            | Self::NotListed
            | Self::OtherPeer { .. }
            | Self::SameKey
            | Self::Greeting => false,
        }
    }

    /// Whether two honest peers meet it in the ordinary course of connecting.
    pub(crate) fn is_routine(&self) -> bool {
        matches!(self, Self::AlreadyConnected | Self::SimultaneousDial | Self::NoSession)
    }
}

/// What a peer did that the wire format forbids. Goes over the wire before the connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Violation {
    /// A frame type that does not exist.
    #[error("unknown frame type {code}")]
    UnknownFrame {
        /// The type byte.
        code: u8,
    },
    /// A frame type that has no place here.
    #[error("a frame of type {code} where it does not belong")]
    Unexpected {
        /// The type byte.
        code: u8,
    },
    /// A frame longer than its type allows.
    #[error("a frame of type {code} with {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// The type byte.
        code: u8,
        /// The announced length in bytes.
        length: u32,
        /// The longest allowed, in bytes.
        limit: u32,
    },
    /// A frame whose contents cannot be read.
    #[error("a frame of type {code} whose contents cannot be read")]
    Malformed {
        /// The type byte.
        code: u8,
    },
    /// A blob longer than allowed.
    #[error("a blob of {length} bytes, at most {limit} are allowed")]
    BlobTooLong {
        /// The announced length in bytes.
        length: u64,
        /// The longest allowed, in bytes.
        limit: u64,
    },
    /// More bytes of a blob than were announced.
    #[error("a blob goes on beyond its {length} bytes")]
    BlobOverrun {
        /// The announced length in bytes.
        length: u64,
    },
    /// A blob was begun before the one before it was complete.
    #[error("a blob begins in the middle of another")]
    BlobInBlob,
    /// The answer to a fetch does not have the length that was asked for.
    #[error("{found} bytes in answer to a fetch of {asked}")]
    FetchLength {
        /// How many bytes were asked for.
        asked: u64,
        /// How many came.
        found: u64,
    },
}

/// Why a peer is no longer connected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CloseReason {
    /// The peer ended the connection in good order.
    #[error("the peer said goodbye")]
    Goodbye,
    /// The connection broke: the peer died, or the network between.
    #[error("connection lost: {0}")]
    Lost(String),
    /// The peer broke the wire format.
    #[error("the peer broke the wire format: {0}")]
    Violated(Violation),
    /// The peer says that this side broke the wire format.
    #[error("the peer says that this side broke the wire format: {0}")]
    Accused(Violation),
    /// The peer admitted this side no longer, after it had been greeted.
    #[error("refused by the peer: {0}")]
    Refused(Refusal),
    /// The peer connected anew; the old connection was dead.
    #[error("replaced by a newer connection of the same peer")]
    Replaced,
    /// This side was told to forget the peer, or shuts down.
    #[error("closed by this side")]
    Forgotten,
}

/// Why a connection or a blob was turned away.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rejection {
    /// This side refused the other.
    #[error("refused: {0}")]
    ByUs(Refusal),
    /// The other side refused this one.
    #[error("refused by the other side: {0}")]
    ByThem(Refusal),
    /// The other side speaks no TLS, or not with a peer's key, or was silent too long.
    #[error("handshake failed: {0}")]
    Handshake(String),
    /// The other side closed the connection, or died, before it was admitted.
    #[error("the other side hung up during the handshake")]
    HungUp,
    /// Nobody could be reached at the address.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// A pushed blob is not what its digest says.
    #[error("a pushed blob does not have the digest {digest} under which it was sent")]
    CorruptPayload {
        /// The digest that was announced.
        digest: Digest,
    },
}
