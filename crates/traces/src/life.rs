//! One life of a peer's process, as far as its rounds have been put together.

use peerless_peer::bill::Sessions;
use peerless_store::RoundRecord;

use crate::spans::{Interval, Round};

/// How the last life of a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With the final state.
    Finished,
    /// Before that.
    Early(End),
}

/// Why a process did not finish the round under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was asked to leave.
    Left,
    /// It ended with an error.
    Failed(Option<String>),
    /// It was killed, or nobody wrote down what became of it.
    Gone,
}

/// A round that was not applied in this life so far.
#[derive(Debug)]
pub struct Unapplied {
    /// Its number.
    pub number: u64,
    /// What is known of it.
    pub round: Round,
    /// When it was.
    pub interval: Interval,
    /// Whether functions were called for it.
    pub worked: bool,
}

/// A life of a peer's process. Rounds come in order.
#[derive(Debug)]
pub struct Life {
    session: u64,
    began_us: u64,
    last_us: u64,
    /// The newest round that was applied, and when.
    applied: Option<(u64, u64)>,
    /// The round under way as far as is known.
    under_way: u64,
    /// The newest round, if it was not applied: the one under way, or one of a peer that applies none.
    unapplied: Option<Unapplied>,
}

impl Life {
    /// The life with this number.
    pub fn new(session: u64, sessions: &Sessions) -> Self {
        let mut life = Self { session, began_us: 0, last_us: 0, applied: None, under_way: 0, unapplied: None };
        life.look(sessions);
        life
    }

    /// Its number.
    pub fn session(&self) -> u64 {
        self.session
    }

    /// Looks when it began and wrote last.
    pub fn look(&mut self, sessions: &Sessions) {
        if let Some(session) = sessions.all().iter().find(|session| session.number == self.session) {
            (self.began_us, self.last_us) = (session.started_at_us, session.last_at_us);
        }
    }

    /// When a round was that was applied. Its times say how long it took; they overlap, so that it may seem to have begun
    /// before the last one was over.
    pub fn applied(&mut self, record: &RoundRecord, within: Option<Interval>) -> Interval {
        let times = &record.times;
        let parts =
            [times.compute_us, times.sum_us, times.transfer_us, times.update_us, times.digest_us, times.wait_us];
        let took = parts.into_iter().fold(0, u64::saturating_add);
        let before = self.applied.filter(|(round, _)| round.checked_add(1) == Some(record.round));
        let from_us = record.at_us.saturating_sub(took).max(before.map_or(0, |(_, at_us)| at_us));
        let from_us = within.map_or(from_us, |within| from_us.min(within.from_us)).min(record.at_us);
        self.applied = Some((record.round, record.at_us));
        self.under_way = self.under_way.max(record.round.saturating_add(1));
        Interval { from_us, to_us: record.at_us }
    }

    /// Keeps a round that was not applied until it is known whether it was the last one; the one kept before.
    pub fn keep(&mut self, unapplied: Unapplied) -> Option<Unapplied> {
        self.under_way = self.under_way.max(unapplied.number);
        self.unapplied.replace(unapplied)
    }

    /// The round that is kept, which was not the last one.
    pub fn pass(&mut self) -> Option<Unapplied> {
        self.unapplied.take()
    }

    /// The round under way when the process ended; `None` if the run was over, with `last_round` at the latest, or nothing
    /// is known of it.
    pub fn interrupted(&mut self, last_round: u64) -> Option<Unapplied> {
        if self.under_way > last_round {
            return None;
        }
        let number = self.under_way;
        if let Some(mut known) = self.unapplied.take_if(|unapplied| unapplied.number == number) {
            known.interval.to_us = known.interval.to_us.max(self.last_us);
            return Some(known);
        }
        let from_us = self.applied.map_or(self.began_us, |(_, at_us)| at_us);
        let interval = Interval { from_us, to_us: self.last_us.max(from_us) };
        (from_us > 0).then(|| Unapplied { number, round: Round::default(), interval, worked: false })
    }
}
