//! How long it takes until a fault is noticed, and until it is overcome.

use std::collections::BTreeSet;

use peerless_protocol::Time;

/// A fault that not everybody has noticed, or overcome, yet.
#[derive(Debug, Clone)]
struct Pending {
    victim: usize,
    at: Time,
    unaware: BTreeSet<usize>,
    round: u64,
    waiting: BTreeSet<usize>,
}

/// Crashes and pauses under watch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recovery {
    pending: Vec<Pending>,
    pub detect: Vec<u64>,
    pub recover: Vec<u64>,
}

impl Recovery {
    /// A peer died or stands still while `round` was the newest round under way. `connected` are the
    /// running peers that have a connection to it, `running` those that are up.
    pub fn struck(
        &mut self,
        now: Time,
        victim: usize,
        round: u64,
        connected: BTreeSet<usize>,
        running: BTreeSet<usize>,
    ) {
        if !running.is_empty() {
            self.pending.push(Pending { victim, at: now, unaware: connected, round, waiting: running });
        }
    }

    /// A peer has left `victim` out of its view.
    pub fn noticed(&mut self, now: Time, by: usize, victim: usize) {
        for fault in self.pending.iter_mut().filter(|fault| fault.victim == victim) {
            if fault.unaware.remove(&by) && fault.unaware.is_empty() {
                self.detect.push(now.0 - fault.at.0);
            }
        }
        self.forget_settled();
    }

    /// A peer has the state of `round`.
    pub fn reached(&mut self, now: Time, by: usize, round: u64) {
        for fault in self.pending.iter_mut().filter(|fault| round > fault.round) {
            if fault.waiting.remove(&by) && fault.waiting.is_empty() {
                self.recover.push(now.0 - fault.at.0);
            }
        }
        self.forget_settled();
    }

    /// A peer is no longer there: nobody waits for it, and what was to be noticed of it is over.
    pub fn gone(&mut self, peer: usize) {
        self.pending.iter_mut().for_each(|fault| {
            fault.unaware.remove(&peer);
            fault.waiting.remove(&peer);
        });
        self.forget_settled();
    }

    /// The victim is back: whoever has not noticed never will.
    pub fn back(&mut self, victim: usize) {
        self.pending.iter_mut().filter(|fault| fault.victim == victim).for_each(|fault| fault.unaware.clear());
        self.forget_settled();
    }

    fn forget_settled(&mut self) {
        self.pending.retain(|fault| !fault.unaware.is_empty() || !fault.waiting.is_empty());
    }
}
