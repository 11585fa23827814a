//! The bill of a run, from the ledgers of its peers.

mod read;
mod report;
mod waste;

use std::collections::BTreeMap;

use peerless_functions::prices::{Charge, Money};
use peerless_peer::waste::Fate;

pub(crate) use read::{Projection, Reading, read};
pub(crate) use report::{By, document, text};

/// One invocation, as far as a bill needs it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item {
    /// The peer, by its place in the reading.
    pub(crate) peer: usize,
    pub(crate) platform: String,
    /// Round and unit, unless it was for none.
    pub(crate) unit: Option<(u64, u32)>,
    pub(crate) duration_us: u64,
    /// When it ended, in microseconds since the Unix epoch.
    pub(crate) ended_at_us: u64,
    pub(crate) charge: Charge,
    pub(crate) fate: Fate,
}

/// Time of a peer's machine in one epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MachineTime {
    pub(crate) peer: usize,
    /// Counts from 1.
    pub(crate) epoch: u64,
    pub(crate) us: u64,
    pub(crate) cost: Money,
}

/// One line of a bill.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) invocations: u64,
    pub(crate) function_us: u64,
    pub(crate) charge: Charge,
    pub(crate) machine_us: u64,
    pub(crate) machine: Money,
    /// Of the invocations, what was of no use.
    pub(crate) wasted: Money,
    pub(crate) wasted_us: u64,
}

impl Line {
    pub(crate) fn total(&self) -> Money {
        self.charge.total() + self.machine
    }

    /// The part of the functions' cost, or of their time where they cost nothing, that was of no use.
    pub(crate) fn wasted_share(&self) -> f64 {
        let by_time = || self.wasted_us as f64 / self.function_us.max(1) as f64;
        self.wasted.share_of(self.charge.total()).unwrap_or_else(by_time)
    }

    fn add_item(&mut self, item: &Item) {
        self.invocations += 1;
        self.function_us += item.duration_us;
        self.charge += item.charge;
        if item.fate != Fate::Used {
            self.wasted += item.charge.total();
            self.wasted_us += item.duration_us;
        }
    }

    fn add_machine(&mut self, time: &MachineTime) {
        self.machine_us += time.us;
        self.machine += time.cost;
    }
}

/// A bill.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Bill {
    pub(crate) total: Line,
    /// By name of the peer.
    pub(crate) peers: Vec<(String, Line)>,
    pub(crate) platforms: BTreeMap<String, Line>,
    /// By epoch, counted from 1; `None` for what belongs to no round, such as making initial parameters.
    pub(crate) epochs: BTreeMap<Option<u64>, Line>,
    /// What was of no use, by reason.
    pub(crate) wasted: BTreeMap<Fate, Line>,
}

impl Bill {
    /// Adds up what was read.
    pub(crate) fn of(reading: &Reading) -> Self {
        let mut bill = Self {
            peers: reading.peers.iter().map(|name| (name.clone(), Line::default())).collect(),
            wasted: Fate::WASTED.into_iter().map(|fate| (fate, Line::default())).collect(),
            ..Self::default()
        };
        for item in &reading.items {
            let epoch = item.unit.map(|(round, _)| reading.epoch(round));
            bill.total.add_item(item);
            bill.peers[item.peer].1.add_item(item);
            bill.platforms.entry(item.platform.clone()).or_default().add_item(item);
            bill.epochs.entry(epoch).or_default().add_item(item);
            if let Some(line) = bill.wasted.get_mut(&item.fate) {
                line.add_item(item);
            }
        }
        for time in &reading.machines {
            bill.total.add_machine(time);
            bill.peers[time.peer].1.add_machine(time);
            bill.epochs.entry(Some(time.epoch)).or_default().add_machine(time);
        }
        bill
    }
}
