//! A peer without its clock, for the model checker.
//!
//! The checker explores every order of events, and when a timer fires is one of the things that it
//! chooses. So for it time stands still at zero between two inputs, every wait begins anew with each
//! input, and what was learned about pace is forgotten: a timer fires exactly if the checker lets
//! enough time pass in one input. That adds histories (timers of one peer fire in any order) and takes
//! none away, as clocks of different peers are unrelated anyway.

use std::fmt::{self, Write};
use std::hash::Hasher;
use std::time::Duration;

use super::catch_up::DOUBT;
use super::round::{Entry, Round};
use super::{HEARTBEAT_EVERY, LINGER, Node, Phase};
use crate::contribution::PayloadRef;
use crate::pace::Pace;
use crate::time::Time;
use crate::unit_time::{Announced, Stopwatch};
use crate::units::UnitSet;

const ZERO: Time = Time(0);

impl Node {
    /// Begins every wait anew at time zero. `now` is the time of the last input: waits that were over
    /// by then stay over.
    pub fn forget_time(&mut self, now: Time) {
        let rest = |until: Time, wait: Duration| if until > now { ZERO + wait } else { ZERO };
        self.gather_until = rest(self.gather_until, self.config.gather_at_most);
        self.next_heartbeat = ZERO + HEARTBEAT_EVERY;
        self.behind_since = self.behind_since.map(|_| ZERO);
        self.pace = Pace::default();
        self.unit_time = Announced::default();
        self.stopwatch = Stopwatch::default();
        if matches!(self.phase, Phase::Finished { .. }) {
            self.phase = Phase::Finished { until: ZERO + LINGER };
        }
        for neighbour in self.neighbours.values_mut() {
            neighbour.heard = ZERO;
            neighbour.unit_time = Announced::default();
            neighbour.probed = None;
            neighbour.doubted_until = rest(neighbour.doubted_until, DOUBT);
        }
        self.round.forget_time(ZERO + self.pace.in_flight());
    }

    /// Forgets what can no longer make a difference among a few peers which all have the states of the serial
    /// run, so that histories that differ in nothing else lead to the same state. `is_over` tells payloads that no
    /// contribution to this round or a later one can speak of.
    ///
    /// Whoever calls this must look at each state formed, and end there if it is not the serial run's: digests
    /// of states are forgotten, since as long as all are the same comparing them does nothing.
    pub fn forget_the_dead(&mut self, is_over: impl Fn(&PayloadRef) -> bool) {
        self.history.clear();
        // Only dialled, or used in a crowd.
        self.members.clear();
        self.probe_after = self.me;
        for neighbour in self.neighbours.values_mut() {
            (neighbour.current, neighbour.told_members) = (true, true);
        }
        self.held.retain(|payload| !is_over(payload));
        self.unannounced.retain(|payload| !is_over(payload));
        match self.phase {
            // No round begins any more.
            Phase::Finished { .. } | Phase::Left => {
                self.round.forget_work();
                self.round.entries.clear();
                self.held.clear();
                self.unannounced.clear();
                self.early.clear();
                self.behind_since = None;
            }
            Phase::Gathering | Phase::Working => self.round.forget_the_dead(),
        }
    }

    /// Whether the sum of a cover is on its way into the state.
    pub fn is_applying(&self) -> bool {
        self.round.applying
    }

    /// Feeds `hasher` with everything that what this peer will do depends on, after
    /// [`forget_time`](Self::forget_time).
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        // Taken apart in full, so that a new field is not forgotten here. Left out is what never
        // changes, what `forget_time` makes constant, and effects, which are handed out at once.
        let Self {
            config: _,
            verify: _,
            run: _,
            me: _,
            state,
            phase,
            gather_until,
            round,
            neighbours,
            members,
            early,
            held,
            unannounced,
            history,
            fetching,
            behind_since,
            pace: _,
            unit_time: _,
            stopwatch: _,
            next_heartbeat: _,
            probe_after,
            effects: _,
            #[cfg(feature = "mutants")]
                mutant: _,
        } = self;
        let known = (neighbours, probe_after, members, history, fetching, behind_since);
        let _ = write!(Feed(hasher), "{:?}", (state, phase, gather_until, round, early, held, unannounced, known));
    }
}

impl Round {
    /// Forgets all that only a round which is still at work asks for.
    fn forget_work(&mut self) {
        self.own.clear();
        self.groups.clear();
        self.informed.clear();
        self.wanted.clear();
        self.requests.clear();
        self.failures.clear();
        self.forget_debts();
    }

    fn forget_the_dead(&mut self) {
        // No honest peer comes near the limit, and what is added up early is added up again.
        self.forget_requests_taken();
        self.accumulated = UnitSet::new();
        if !self.sharding.active {
            self.sharding.roster.clear();
        }
        if self.applying {
            // From now on entries only say which payloads can be dropped.
            self.forget_work();
            self.entries.iter_mut().for_each(|entry| (entry.ready, entry.fetch_at) = (true, None));
        }
        for entry in &mut self.entries {
            // Only pace is learned from it.
            entry.asked = false;
        }
        self.sort_entries();
    }

    /// Brings entries into an order that depends on the order of arrival only where units overlap. Neither
    /// the choice of a cover nor what is asked for depends on the order of disjoint sets: see `cover`.
    fn sort_entries(&mut self) {
        let mut left = std::mem::take(&mut self.entries);
        while !left.is_empty() {
            let key = |entry: &Entry| {
                let contribution = &entry.signed.contribution;
                (contribution.units.iter().collect::<Vec<_>>(), contribution.peer)
            };
            let overlap = |a: &Entry, b: &Entry| !a.signed.contribution.units.is_disjoint(&b.signed.contribution.units);
            let free = (0..left.len()).filter(|&at| !left[..at].iter().any(|before| overlap(before, &left[at])));
            let Some(first) = free.min_by_key(|&at| key(&left[at])) else { break };
            self.entries.push(left.remove(first));
        }
    }
}

/// Hashes what is printed, so that no type needs `Hash` for the checker alone.
struct Feed<'a, H>(&'a mut H);

impl<H: Hasher> Write for Feed<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
