//! What must hold whatever happens. One file per invariant; each says why.
//!
//! A violated invariant is a value that ends the run of its seed, so that a campaign goes on with the
//! next one and the seed can be replayed.

mod exact_cover;
mod liveness;
mod memory_bounds;
mod message_bounds;
mod no_spinning;
mod nothing_forged;
mod one_state;
mod progress_kept;

use std::fmt;

use peerless_protocol::Time;

pub(crate) use exact_cover::{check_cover, check_shards};
pub(crate) use liveness::{Liveness, STALL};
pub(crate) use memory_bounds::{MAX_PAYLOAD_AGE, check_footprint};
pub(crate) use message_bounds::{Allowance, check_size};
pub(crate) use no_spinning::MAX_TICKS_AT_ONCE;
pub(crate) use nothing_forged::check_effects;
pub(crate) use one_state::check_state;
pub(crate) use progress_kept::Progress;

/// Which invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// One state digest per round: that of the serial run.
    OneState,
    /// An applied cover holds every unit exactly once.
    ExactCover,
    /// What was durable is there after a crash, and no process goes back.
    ProgressKept,
    /// Messages are small and few.
    MessageBounds,
    /// What a peer keeps does not grow with the length of the run.
    MemoryBounds,
    /// Training goes on while one peer lives, and every live peer gets to the end.
    Liveness,
    /// A peer that was woken does not ask to be woken at once.
    NoSpinning,
    /// What was forged is never used.
    NothingForged,
    /// No input makes the protocol panic.
    NoPanic,
}

impl Invariant {
    /// Every invariant.
    pub const ALL: [Self; 9] = [
        Self::OneState,
        Self::ExactCover,
        Self::ProgressKept,
        Self::MessageBounds,
        Self::MemoryBounds,
        Self::Liveness,
        Self::NoSpinning,
        Self::NothingForged,
        Self::NoPanic,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::OneState => "one state per round",
            Self::ExactCover => "exact cover",
            Self::ProgressKept => "progress kept",
            Self::MessageBounds => "message bounds",
            Self::MemoryBounds => "memory bounds",
            Self::Liveness => "liveness",
            Self::NoSpinning => "no spinning",
            Self::NothingForged => "nothing forged",
            Self::NoPanic => "no panic",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A violated invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// Virtual time.
    pub at: Time,
    /// The peer at which it showed, by index.
    pub peer: Option<usize>,
    /// What was seen and what should have been.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} violated at {:.3} ms", self.invariant, self.at.0 as f64 / 1e3)?;
        if let Some(peer) = self.peer {
            write!(f, " at p{peer}")?;
        }
        write!(f, ": {}", self.what)
    }
}
