//! The work of a round: units, who computes them, backups.

use std::collections::BTreeMap;
use std::time::Duration;

use super::io::{Config, Effect, Event, StateMeta, StopReason};
use super::round::{Own, Round};
use super::{LINGER, Node, Phase};
use crate::assignment::Capacities;
use crate::cover::disjoint_choice;
use crate::ids::PeerId;
use crate::message::{MAX_CAUSE_BYTES, Message};
use crate::mutant::Mutant;
use crate::state::{StateRef, Tally};
use crate::time::Time;
use crate::units::{UnitKind, UnitSet};

impl Node {
    pub(super) fn begin_round(&mut self, now: Time) {
        self.phase = Phase::Working;
        self.gather_until = now;
        self.measure_the_overtaken(now);
        let view = self.view();
        self.drop_stale_payloads();
        let Config { spec, payload, crowd, .. } = &self.config;
        self.round = Round::new(spec, payload, crowd, self.state.state, now, &view);
        self.emit(Effect::BeginRound { from: self.round.from });
        let owned = self.round.owed_by(&self.me);
        let (round, announced) = (self.round.from.round, self.unit_time.last());
        let idle = self.stopwatch.round_began(!owned.is_empty(), round, announced);
        self.announce_unit_time(idle);
        self.compute(now, &owned);
        if !owned.is_empty() {
            self.round.groups.push(owned);
        }
        let informed = view.into_keys().filter(|peer| *peer != self.me);
        self.round.informed.extend(informed);
        for (from, signed) in std::mem::take(&mut self.early) {
            self.contribution_received(now, from, signed);
        }
    }

    /// Goes on from a state that this peer did not have: its own next one or one from others.
    pub(super) fn adopt(&mut self, now: Time, meta: StateMeta) {
        self.state = meta;
        self.behind_since = None;
        self.observe_state(now, self.me, meta.state);
        if meta.finished {
            self.phase = Phase::Finished { until: now + LINGER };
            self.emit(Effect::Finished(meta));
            self.check_exit(now);
        } else {
            self.begin_round(now);
            self.check_behind(now);
        }
    }

    fn compute(&mut self, now: Time, units: &UnitSet) {
        let computing = self.round.compute(now, units);
        self.effects.extend(computing);
    }

    pub(super) fn unit_computed(&mut self, now: Time, from: StateRef, unit: u32, tally: Tally) {
        if !self.is_working_on(from) || !self.round.computed_here(now, unit, tally) {
            return;
        }
        self.sum_complete_groups(now);
        self.make_progress(now);
    }

    pub(super) fn unit_failed_here(&mut self, now: Time, from: StateRef, unit: u32, cause: &str) {
        if !self.is_working_on(from) {
            return;
        }
        let cause = truncated(cause, MAX_CAUSE_BYTES);
        self.round.failed_here(unit);
        self.broadcast(&Message::UnitFailed { from, unit, cause: cause.clone() });
        self.unit_failed(now, self.me, from, unit, cause);
        self.sum_complete_groups(now);
    }

    pub(super) fn unit_failed(&mut self, now: Time, peer: PeerId, from: StateRef, unit: u32, cause: String) {
        let known = self.round.failures.get(&unit).is_some_and(|failed| failed.contains_key(&peer));
        if !self.is_working_on(from) || unit >= self.round.plan.total() || known {
            return;
        }
        self.emit(Effect::Record(Event::UnitFailed { round: from.round, unit, peer, cause: cause.clone() }));
        if self.is_fixed() {
            return self.stop(StopReason::UnitFailedEverywhere { round: from.round, unit, cause });
        }
        self.round.failures.entry(unit).or_default().insert(peer, cause);
        let workers = self.workers();
        self.round.pass_on(now, unit, &workers);
        self.take_over_debts(now);
        self.ask_debtors(now, &[unit].into_iter().collect());
        self.stop_if_hopeless(unit);
    }

    fn stop_if_hopeless(&mut self, unit: u32) {
        let missing = self.lacking().contains(unit);
        let Some(cause) = self.round.hopeless(unit, &self.workers()).filter(|_| missing) else { return };
        let round = self.round.from.round;
        self.stop(StopReason::UnitFailedEverywhere { round, unit, cause });
    }

    pub(super) fn stop_for_losses(&mut self) {
        self.stop(StopReason::LossOverflow { round: self.round.from.round });
    }

    pub(super) fn stop(&mut self, reason: StopReason) {
        self.broadcast(&Message::Leaving);
        self.phase = Phase::Left;
        self.emit(Effect::Stop(reason));
    }

    /// The peers that the round's units are dealt to: those of the view, and shard by shard only those that
    /// were there when the round began, so that peers agree.
    fn workers(&self) -> Capacities {
        if self.round.sharding.active { self.round.sharding.roster.clone() } else { self.view() }
    }

    /// Units that this peer knows to be lacking.
    fn lacking(&self) -> UnitSet {
        if !self.round.sharding.active {
            return self.round.missing().union(&self.uncovered());
        }
        // Nobody has a unit that failed at those who owed it.
        let failed: UnitSet = self.round.failures.keys().copied().collect();
        self.lacking_units().union(&failed)
    }

    /// The view lost peers: what they owed is owed by others now.
    pub(super) fn view_changed(&mut self, now: Time) {
        self.give_up_on_lost_donors();
        if self.phase == Phase::Working && !self.round.applying {
            let view = self.view();
            self.round.sharding.roster.retain(|peer, _| view.contains_key(peer));
            // First, because a shard that this peer owns from now on says which of its debts are wanted.
            self.reroute(now);
            let workers = self.workers();
            if !self.is_mutated(Mutant::NoReassignmentOfTheDead) {
                let orphans = self.round.reassign(now, &workers);
                self.ask_debtors(now, &orphans);
            }
            self.take_over_debts(now);
            let failed: Vec<u32> = self.round.failures.keys().copied().collect();
            failed.into_iter().for_each(|unit| self.stop_if_hopeless(unit));
        }
        self.check_behind(now);
        self.check_exit(now);
    }

    /// Starts units that this peer has come to owe, to be announced together: they were owed by one
    /// other, so nobody else is likely to hold only some of them.
    pub(super) fn take_over_debts(&mut self, now: Time) {
        let wanted = self.lacking();
        let owed = self.round.owed_by(&self.me);
        self.compute_together(now, owed.iter().filter(|unit| wanted.contains(*unit)).collect());
    }

    /// Computes those of `units` that this peer has not begun, and announces them as one.
    pub(super) fn compute_together(&mut self, now: Time, units: UnitSet) {
        let computing = self.round.compute_together(now, &units);
        self.effects.extend(computing);
    }

    /// Computes what others owe for too long. Not while somebody is ahead: then the next state
    /// exists already and is fetched.
    pub(super) fn back_up_the_overdue(&mut self, now: Time) {
        let idle = self.phase != Phase::Working || self.round.sharding.active || self.is_mutated(Mutant::NoBackups);
        if idle || self.round.applying || !self.ahead(now).is_empty() {
            return;
        }
        let view = self.view();
        let mut due: BTreeMap<PeerId, UnitSet> = BTreeMap::new();
        for unit in self.uncovered().iter() {
            let overdue = self.round.backup_at(unit, &self.me, &view, &self.pace).is_some_and(|at| at <= now);
            if let (true, Some(instead_of)) = (overdue, self.round.debtor(unit)) {
                self.emit(Effect::Record(Event::Backup { round: self.round.from.round, unit, instead_of }));
                due.entry(instead_of).or_default().insert(unit);
            }
        }
        due.into_values().for_each(|units| self.compute_together(now, units));
    }

    /// Units that no choice of disjoint contributions at hand holds.
    pub(super) fn uncovered(&self) -> UnitSet {
        let (_, sets) = self.round.ready_sets();
        disjoint_choice(&self.round.plan.all(), &sets).1
    }

    fn sum_complete_groups(&mut self, now: Time) {
        for units in self.round.take_complete_groups() {
            self.measure(&units, self.round.slowest(&units));
            if self.round.sharding.active { self.sum_shards(now, units) } else { self.sum(now, units) }
        }
    }

    /// Learns how long a unit takes here. Only gradients count: a round with evaluations says nothing about others.
    fn measure(&mut self, units: &UnitSet, elapsed: Duration) {
        if units.iter().all(|unit| self.round.plan.kind(unit) == UnitKind::Gradient) {
            let functions = self.config.functions;
            let (round, announced) = (self.round.from.round, self.unit_time.last());
            let new = self.stopwatch.measured(elapsed, units.len(), functions, round, announced);
            self.announce_unit_time(new);
        }
    }

    /// Units that others were done with first take at least as long as they were under way. Without these a peer
    /// that is always overtaken would never learn how slow it is.
    fn measure_the_overtaken(&mut self, now: Time) {
        for units in std::mem::take(&mut self.round.groups) {
            let since = |unit| match self.round.own.get(&unit) {
                Some(Own::Computing { since }) => Some(*since),
                _ => None,
            };
            let elapsed = units.iter().filter_map(since).min().map(|since| now.since(since)).unwrap_or_default();
            let functions = self.config.functions;
            if self.stopwatch.would_be_slow(elapsed, units.len(), functions, self.unit_time.last()) {
                self.measure(&units, elapsed);
            }
        }
    }
}

pub(crate) fn truncated(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
