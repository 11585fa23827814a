//! A peer's disk: what survives its process.

use std::sync::Arc;

use peerless_protocol::{RunSpec, StateRef, Time};
use peerless_store::State;
use serde::Deserialize;

use crate::model::Kept;

/// States that a peer keeps for others, as the real store does.
const KEPT_STATES: usize = 4;

/// What a crash does to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFate {
    /// Everything that was written to the end is there.
    Kept,
    /// The disk is empty.
    Lost,
    /// Half of the state that was being written is there, besides what was written to the end.
    Torn,
}

struct Written {
    kept: Arc<Kept>,
    durable_at: Time,
}

/// States in the order in which they were written. A write takes time, and a process that dies
/// meanwhile leaves nothing or half of it.
pub(crate) struct Disk {
    written: Vec<Written>,
    /// A mistake for the tests of the invariants: writes are reported as durable when they begin.
    pub reports_too_early: bool,
}

impl Disk {
    pub fn new(initial: Arc<Kept>) -> Self {
        Self { written: vec![Written { kept: initial, durable_at: Time(0) }], reports_too_early: false }
    }

    /// Writes a state, which is durable at `durable_at`. The newest durable one is kept besides the newest.
    pub fn write(&mut self, kept: Arc<Kept>, now: Time, durable_at: Time) {
        self.written.retain(|written| written.kept.meta.state != kept.meta.state);
        self.written.push(Written { kept, durable_at });
        let durable = self.written.iter().rposition(|written| written.durable_at <= now);
        let mut index = 0;
        let excess = self.written.len().saturating_sub(KEPT_STATES);
        self.written.retain(|_| {
            index += 1;
            index > excess || Some(index - 1) == durable
        });
    }

    pub fn find(&self, state: StateRef) -> Option<&Arc<Kept>> {
        self.written.iter().map(|written| &written.kept).find(|kept| kept.meta.state == state)
    }

    /// The newest round that the process may count on after a crash at `now`.
    pub fn reported_durable(&self, now: Time) -> u64 {
        let reported = self.written.iter().filter(|written| self.reports_too_early || written.durable_at <= now);
        reported.map(|written| written.kept.meta.state.round).max().unwrap_or(0)
    }

    /// What is left after a crash at `now`. Half a state is read with the real decoder, and must be
    /// refused by it.
    pub fn crash(&mut self, now: Time, fate: DiskFate, spec: &RunSpec, initial: &Arc<Kept>) {
        let torn = self.written.iter().rfind(|written| written.durable_at > now).map(|written| written.kept.clone());
        match fate {
            DiskFate::Lost => self.written.clear(),
            DiskFate::Kept | DiskFate::Torn => self.written.retain(|written| written.durable_at <= now),
        }
        if let Some(kept) = torn.filter(|_| fate == DiskFate::Torn) {
            let mut bytes = kept.state.encode();
            bytes.truncate(bytes.len() / 2);
            if State::decode(&bytes, spec).is_ok() {
                self.written.push(Written { kept, durable_at: now });
            }
        }
        if self.written.is_empty() {
            self.written.push(Written { kept: initial.clone(), durable_at: now });
        }
    }

    /// The state that a process starts from.
    pub fn newest(&self) -> Option<&Arc<Kept>> {
        self.written.iter().map(|written| &written.kept).max_by_key(|kept| kept.meta.state.round)
    }
}
