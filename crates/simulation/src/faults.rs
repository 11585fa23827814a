//! What can go wrong.

use std::fmt;

use crate::adversary::Attack;
use crate::disk::DiskFate;
use crate::network::Cut;

/// Something that happens to peers (by index) at a point of virtual time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The process dies; connections break at once.
    Crash(usize),
    /// It starts again with what is left of its disk.
    Restart(usize, DiskFate),
    /// It stands still: nothing is sent or handled, connections stay.
    Freeze(usize),
    /// It goes on, with everything that arrived meanwhile.
    Thaw(usize),
    /// Messages no longer pass a line between peers; connections stay. The number tells cuts apart.
    Cut(u32, Cut),
    /// Messages pass it again.
    Mend(u32),
    /// From now on the peer's functions take this many times as long; 1 ends it.
    Slow(usize, u64),
    /// From now on no function of this peer computes this unit.
    UnitFails(usize, u32),
    /// It does again.
    UnitWorks(usize, u32),
    /// A peer that nobody expected comes, knowing only one or two others.
    Join(usize),
    /// A peer leaves on purpose.
    Leave(usize),
    /// A member sends what it should not.
    Attack(Attack),
}

impl Fault {
    /// The kind that it is counted as; `None` for the end of a fault.
    pub fn kind(&self) -> Option<&'static str> {
        Some(match self {
            Self::Crash(_) => "crash",
            Self::Restart(_, DiskFate::Kept) => "restart",
            Self::Restart(_, DiskFate::Lost) => "restart without disk",
            Self::Restart(_, DiskFate::Torn) => "restart after torn write",
            Self::Freeze(_) => "pause",
            Self::Cut(_, cut) if cut.inbound && cut.outbound => "partition",
            Self::Cut(..) => "one-way cut",
            Self::Slow(_, 0 | 1) | Self::Thaw(_) | Self::Mend(_) | Self::UnitWorks(..) => return None,
            Self::Slow(..) => "slow peer",
            Self::UnitFails(..) => "failing unit",
            Self::Join(_) => "join",
            Self::Leave(_) => "leave",
            Self::Attack(attack) => attack.kind(),
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(peer) => write!(f, "p{peer} crashes"),
            Self::Restart(peer, DiskFate::Kept) => write!(f, "p{peer} is started again with its disk"),
            Self::Restart(peer, DiskFate::Lost) => write!(f, "p{peer} is started again with an empty disk"),
            Self::Restart(peer, DiskFate::Torn) => {
                write!(f, "p{peer} is started again; its last write was torn by the crash")
            }
            Self::Freeze(peer) => write!(f, "p{peer} stands still"),
            Self::Thaw(peer) => write!(f, "p{peer} goes on"),
            Self::Cut(id, cut) => write!(f, "cut {id}: {}", Line(cut)),
            Self::Mend(id) => write!(f, "cut {id} is mended"),
            Self::Slow(peer, 0 | 1) => write!(f, "p{peer}'s functions are as fast as before"),
            Self::Slow(peer, factor) => write!(f, "p{peer}'s functions take {factor} times as long"),
            Self::UnitFails(peer, unit) => write!(f, "no function of p{peer} computes unit {unit}"),
            Self::UnitWorks(peer, unit) => write!(f, "functions of p{peer} compute unit {unit} again"),
            Self::Join(peer) => write!(f, "p{peer} comes"),
            Self::Leave(peer) => write!(f, "p{peer} is told to leave"),
            Self::Attack(attack) => attack.fmt(f),
        }
    }
}

struct Line<'a>(&'a Cut);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.side.iter().map(|peer| format!("p{peer}")).collect();
        let names = names.join(", ");
        match (self.0.inbound, self.0.outbound) {
            (true, true) => write!(f, "nothing passes between {names} and the others"),
            (true, false) => write!(f, "nothing reaches {names} from the others"),
            _ => write!(f, "nothing reaches the others from {names}"),
        }
    }
}
