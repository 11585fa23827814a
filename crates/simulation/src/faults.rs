//! What can go wrong.

use std::ops::Range;

/// How the virtual network treats messages and payloads. Delays are in microseconds.
#[derive(Debug, Clone)]
pub struct Network {
    /// Delay of each message, drawn anew, so that messages overtake each other.
    pub delay: Range<u64>,
    /// Percentage of messages and payloads that are lost.
    pub loss_percent: u64,
    /// Percentage of messages that arrive twice.
    pub duplicate_percent: u64,
}

impl Default for Network {
    fn default() -> Self {
        Self { delay: 50..500, loss_percent: 0, duplicate_percent: 0 }
    }
}

/// Something that happens to peers (by index) at a point of virtual time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; connections break at once.
    Crash(usize),
    /// It starts again with the states on its disk.
    Restart(usize),
    /// It starts again with an empty disk.
    RestartEmpty(usize),
    /// It stands still: nothing is sent or handled, connections stay.
    Freeze(usize),
    /// It goes on, with everything that arrived meanwhile.
    Thaw(usize),
    /// No message passes between the peers of the list and the others; connections stay.
    Partition(Vec<usize>),
    /// Messages pass everywhere again.
    Heal,
    /// From now on no function of this peer computes this unit.
    UnitFails(usize, u32),
}
