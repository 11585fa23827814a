//! The work of a round: units, sums, contributions, covers, backups.

use std::collections::BTreeMap;
use std::time::Duration;

use super::io::{Effect, Event, StateMeta, StopReason};
use super::round::{Entry, Own, Round};
use super::{LINGER, Node, Phase};
use crate::contribution::{Contribution, ContributionError, PayloadRef, SignedContribution};
use crate::cover::{disjoint_choice, exact_cover};
use crate::ids::{Digest, PeerId};
use crate::message::{MAX_CAUSE_BYTES, Message};
use crate::mutant::Mutant;
use crate::state::{StateRef, Tally};
use crate::time::Time;
use crate::units::{RoundPlan, UnitKind, UnitSet};

/// Contributions to the next round that are kept until this peer gets there.
const MAX_EARLY: usize = 4096;

/// Longest computing time that a contribution of another peer is believed to have taken; bounds what a
/// lying member can do to deadlines.
const MAX_ELAPSED: Duration = Duration::from_secs(600);

/// Payloads that no contribution has announced yet, which are kept in the hope that one will.
const MAX_UNANNOUNCED: usize = 64;

impl Node {
    pub(super) fn begin_round(&mut self, now: Time) {
        self.phase = Phase::Working;
        self.gather_until = now;
        let view = self.view();
        self.drop_stale_payloads();
        self.round = Round::new(&self.config.spec, self.state.state, now, &view);
        self.emit(Effect::BeginRound { from: self.round.from });
        let owned = self.round.owed_by(&self.me);
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
        self.broadcast_heartbeat(now);
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
        for unit in units.iter() {
            if self.round.own.contains_key(&unit) {
                continue;
            }
            self.round.own.insert(unit, Own::Computing { since: now });
            let kind = self.round.plan.kind(unit);
            self.emit(Effect::Compute { from: self.round.from, unit, kind });
        }
    }

    pub(super) fn unit_computed(&mut self, now: Time, from: StateRef, unit: u32, tally: Tally) {
        if !self.is_working_on(from) {
            return;
        }
        let Some(Own::Computing { since }) = self.round.own.get(&unit) else { return };
        let elapsed = now.since(*since);
        self.round.own.insert(unit, Own::Computed { tally, elapsed });
        self.sum_complete_groups(now);
        self.make_progress(now);
    }

    pub(super) fn unit_failed_here(&mut self, now: Time, from: StateRef, unit: u32, cause: &str) {
        if !self.is_working_on(from) {
            return;
        }
        let cause = truncated(cause, MAX_CAUSE_BYTES);
        self.round.own.insert(unit, Own::Failed);
        self.round.groups.iter_mut().for_each(|group| group.remove(unit));
        self.round.groups.retain(|group| !group.is_empty());
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
        self.round.failures.entry(unit).or_default().insert(peer, cause);
        let view = self.view();
        self.round.pass_on(now, unit, &view);
        self.take_over_debts(now);
        self.stop_if_hopeless(unit);
    }

    fn stop_if_hopeless(&mut self, unit: u32) {
        let missing = self.round.missing().contains(unit);
        let Some(cause) = self.round.hopeless(unit, &self.view()).filter(|_| missing) else { return };
        let round = self.round.from.round;
        self.broadcast(&Message::Leaving);
        self.phase = Phase::Left;
        self.emit(Effect::Stop(StopReason::UnitFailedEverywhere { round, unit, cause }));
    }

    /// The view lost peers: what they owed is owed by others now.
    pub(super) fn view_changed(&mut self, now: Time) {
        if self.phase == Phase::Working && !self.round.applying {
            let view = self.view();
            if !self.is_mutated(Mutant::NoReassignmentOfTheDead) {
                self.round.reassign(now, &view);
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
    fn take_over_debts(&mut self, now: Time) {
        let wanted = self.round.missing().union(&self.uncovered());
        let owed = self.round.owed_by(&self.me);
        self.compute_together(now, owed.iter().filter(|unit| wanted.contains(*unit)).collect());
    }

    /// Computes those of `units` that this peer has not begun, and announces them as one.
    fn compute_together(&mut self, now: Time, units: UnitSet) {
        let new: UnitSet = units.iter().filter(|unit| !self.round.own.contains_key(unit)).collect();
        if !new.is_empty() {
            self.compute(now, &new);
            self.round.groups.push(new);
        }
    }

    /// Computes what others owe for too long. Not while somebody is ahead: then the next state
    /// exists already and is fetched.
    pub(super) fn back_up_the_overdue(&mut self, now: Time) {
        let idle = self.phase != Phase::Working || self.is_mutated(Mutant::NoBackups);
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
        let computed = self.round.computed();
        let groups = std::mem::take(&mut self.round.groups);
        let (complete, open) = groups.into_iter().partition(|group| group.is_subset(&computed));
        self.round.groups = open;
        complete.into_iter().for_each(|units| self.sum(now, units));
    }

    /// Has the exact sum of computed units formed; evaluations have no vector and need no sum.
    fn sum(&mut self, now: Time, units: UnitSet) {
        if units.iter().any(|unit| self.round.plan.kind(unit) == UnitKind::Gradient) {
            self.emit(Effect::Sum { from: self.round.from, units });
        } else {
            self.contribute(now, units, None);
        }
    }

    pub(super) fn summed(&mut self, now: Time, from: StateRef, units: UnitSet, payload: PayloadRef) {
        if self.is_working_on(from) {
            self.held.insert(payload.digest);
            self.contribute(now, units, Some(payload));
        }
    }

    /// Signs and announces the sum of `units`, to everyone or to the one who asked for just these.
    fn contribute(&mut self, now: Time, units: UnitSet, payload: Option<PayloadRef>) {
        let Some((training, evaluation)) = self.totals(&units) else {
            let cause = "the sum of the samples' losses does not fit";
            units.iter().for_each(|unit| self.unit_failed_here(now, self.round.from, unit, cause));
            return;
        };
        let elapsed = self.slowest(&units);
        self.pace.computed(elapsed, units.len(), self.config.capacity);
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let contribution = Contribution {
            run: self.run,
            peer: self.me,
            from: self.round.from,
            units,
            training,
            evaluation,
            elapsed_us,
            payload,
        };
        let signed = SignedContribution::sign(contribution, &self.config.key);
        let units = &signed.contribution.units;
        let (asked, others) =
            std::mem::take(&mut self.round.requests).into_iter().partition(|(_, wanted)| wanted == units);
        self.round.requests = others;
        let asked: Vec<(PeerId, UnitSet)> = asked;
        if asked.is_empty() {
            let informed: Vec<PeerId> = self.round.informed.iter().copied().collect();
            informed.into_iter().for_each(|peer| self.offer(peer, &signed));
            self.add_entry(now, signed, true);
        } else {
            asked.into_iter().for_each(|(peer, _)| self.offer(peer, &signed));
        }
    }

    /// Time that the units took here: they were started together.
    fn slowest(&self, units: &UnitSet) -> Duration {
        let elapsed = |unit| match self.round.own.get(&unit) {
            Some(Own::Computed { elapsed, .. }) => *elapsed,
            _ => Duration::ZERO,
        };
        units.iter().map(elapsed).max().unwrap_or_default()
    }

    fn totals(&self, units: &UnitSet) -> Option<(Tally, Tally)> {
        let mut totals = (Tally::default(), Tally::default());
        for unit in units.iter() {
            let Some(Own::Computed { tally, .. }) = self.round.own.get(&unit) else { return None };
            match self.round.plan.kind(unit) {
                UnitKind::Gradient => totals.0 = totals.0.checked_add(*tally)?,
                UnitKind::Evaluation => totals.1 = totals.1.checked_add(*tally)?,
            }
        }
        Some(totals)
    }

    fn offer(&mut self, peer: PeerId, signed: &SignedContribution) {
        self.send(peer, Message::Contribution(Box::new(signed.clone())));
        if let Some(payload) = signed.contribution.payload {
            self.emit(Effect::PushPayload { to: peer, payload });
        }
    }

    /// Gives a peer that has reached this round what was announced before it came.
    pub(super) fn inform(&mut self, peer: PeerId) {
        let reached = self.neighbours.get(&peer).and_then(|n| n.last).is_some_and(|last| last.state == self.round.from);
        if !self.is_working_on(self.state.state) || !reached || !self.round.informed.insert(peer) {
            return;
        }
        let own: Vec<SignedContribution> = self
            .round
            .entries
            .iter()
            .map(|entry| &entry.signed)
            .filter(|s| s.contribution.peer == self.me)
            .cloned()
            .collect();
        own.iter().for_each(|signed| self.offer(peer, signed));
    }

    pub(super) fn contribution_received(&mut self, now: Time, from: PeerId, signed: SignedContribution) {
        let contribution = &signed.contribution;
        let gathering = self.phase == Phase::Gathering && contribution.from == self.state.state;
        if gathering || contribution.from.round == self.state.state.round + 1 {
            self.keep_for_later(from, signed);
            return;
        }
        let stale = !self.is_working_on(contribution.from) && !self.is_mutated(Mutant::StaleContributionAccepted);
        if stale || self.round.entries.iter().any(|entry| entry.signed == signed) {
            return;
        }
        let checked = if contribution.peer == from || self.is_mutated(Mutant::ForgedAuthorAccepted) {
            self.check_contribution(&signed)
        } else {
            Err(ContributionError::NotTheSender(contribution.peer))
        };
        if let Err(error) = checked {
            self.refuse(from, error.to_string());
        } else if self.round.is_flooded_by(&from) {
            self.refuse(from, "more contributions to a round than it has units".into());
        } else {
            let ready = contribution.payload.is_none_or(|payload| self.held.contains(&payload.digest));
            let elapsed = Duration::from_micros(contribution.elapsed_us).min(MAX_ELAPSED);
            let capacity = self.view().get(&from).copied().unwrap_or(1);
            self.pace.computed(elapsed, contribution.units.len(), capacity);
            self.add_entry(now, signed, ready);
        }
    }

    fn check_contribution(&self, signed: &SignedContribution) -> Result<(), ContributionError> {
        if !self.is_mutated(Mutant::ContentNotChecked) {
            signed.contribution.check(&self.config.spec, self.run, self.config.payload_bytes)?;
        }
        if self.is_mutated(Mutant::SignatureNotChecked) { Ok(()) } else { signed.verify() }
    }

    /// Keeps a contribution to a round that this peer has not begun; its signature is checked then.
    fn keep_for_later(&mut self, from: PeerId, signed: SignedContribution) {
        let contribution = &signed.contribution;
        let checked = contribution.check(&self.config.spec, self.run, self.config.payload_bytes);
        let made = self.early.iter().filter(|(sender, _)| *sender == from).count() as u64;
        let plan = RoundPlan::new(&self.config.spec, contribution.from.round);
        let unlimited = self.is_mutated(Mutant::EarlyContributionsWithoutLimit);
        let allowed = if unlimited { u64::MAX } else { Round::most_contributions(&plan) };
        let known = self.early.iter().any(|(_, early)| *early == signed);
        if checked.is_ok() && contribution.peer == from && made < allowed && !known && self.early.len() < MAX_EARLY {
            self.early.push((from, signed));
        }
    }

    fn add_entry(&mut self, now: Time, signed: SignedContribution, ready: bool) {
        let fetch_at = (!ready).then(|| now + self.pace.in_flight());
        self.round.entries.push(Entry { signed, ready, announced: now, fetch_at, asked: false });
        if ready {
            self.accumulate(self.round.entries.len() - 1);
            self.make_progress(now);
        }
    }

    pub(super) fn payload_held(&mut self, now: Time, digest: Digest) {
        self.held.insert(digest);
        let of_this = |entry: &Entry| entry.signed.contribution.payload.is_some_and(|payload| payload.digest == digest);
        let arrived: Vec<usize> = (0..self.round.entries.len()).filter(|&i| of_this(&self.round.entries[i])).collect();
        if arrived.is_empty() {
            self.drop_excess_unannounced();
            return;
        }
        for index in arrived {
            let entry = &mut self.round.entries[index];
            if !std::mem::replace(&mut entry.ready, true) {
                if !entry.asked {
                    self.pace.transferred(now.since(entry.announced));
                }
                self.accumulate(index);
            }
        }
        self.make_progress(now);
    }

    /// Adds a payload to the round's total if it overlaps with nothing in there.
    fn accumulate(&mut self, index: usize) {
        let contribution = &self.round.entries[index].signed.contribution;
        if let Some(payload) = contribution.payload.filter(|_| contribution.units.is_disjoint(&self.round.accumulated))
        {
            let units = contribution.units.clone();
            self.round.accumulated = self.round.accumulated.union(&units);
            self.emit(Effect::Accumulate { from: self.round.from, units, payload });
        }
    }

    /// Applies the round if there is a cover, and otherwise asks for subsets that make one.
    fn make_progress(&mut self, now: Time) {
        if self.phase != Phase::Working || self.round.applying {
            return;
        }
        let all = self.round.plan.all();
        let (indices, sets) = self.round.ready_sets();
        if let Some(chosen) = exact_cover(&all, &sets).or_else(|| self.mistaken_cover(&all, &sets)) {
            let cover = chosen.into_iter().map(|choice| self.round.entries[indices[choice]].signed.clone()).collect();
            self.round.applying = true;
            let from = self.round.from;
            self.emit(Effect::Apply { from, cover });
        } else if self.round.missing().is_empty() && !self.is_mutated(Mutant::NoUntangling) {
            self.untangle(now);
        }
    }

    /// What a mutant takes for a cover; nothing without one.
    fn mistaken_cover(&self, all: &UnitSet, sets: &[&UnitSet]) -> Option<Vec<usize>> {
        let (chosen, left) = disjoint_choice(all, sets);
        if self.is_mutated(Mutant::CoverMayMissAUnit) && left.len() == 1 {
            return Some(chosen);
        }
        let overlaps = self.is_mutated(Mutant::CoverMayOverlap) && self.round.missing().is_empty();
        overlaps.then(|| (0..sets.len()).collect())
    }

    /// Every unit is here, but only in sums that overlap: asks for the sums of just what is missing
    /// beside the best disjoint choice.
    fn untangle(&mut self, now: Time) {
        let mut left = self.uncovered();
        let mine: UnitSet = left.iter().filter(|unit| self.round.computed().contains(*unit)).collect();
        if !mine.is_empty() {
            left = left.difference(&mine);
            if self.round.wanted.insert((self.me, mine.clone())) {
                self.sum(now, mine);
            }
        }
        let makers: Vec<(PeerId, UnitSet)> = self
            .round
            .entries
            .iter()
            .map(|e| (e.signed.contribution.peer, e.signed.contribution.units.clone()))
            .collect();
        for (peer, units) in makers {
            let part: UnitSet = left.iter().filter(|unit| units.contains(*unit)).collect();
            if part.is_empty() || peer == self.me {
                continue;
            }
            left = left.difference(&part);
            if self.round.wanted.insert((peer, part.clone())) {
                self.send(peer, Message::UnitsWanted { from: self.round.from, units: part });
            }
        }
    }

    pub(super) fn units_wanted(&mut self, now: Time, peer: PeerId, from: StateRef, units: UnitSet) {
        let servable = self.is_working_on(from) && !units.is_empty() && units.is_subset(&self.round.computed());
        if servable && self.round.takes_request_of(peer) {
            self.round.requests.push((peer, units.clone()));
            self.sum(now, units);
        }
    }

    pub(super) fn applied(&mut self, now: Time, from: StateRef, meta: StateMeta) {
        if !self.round.applying || from != self.round.from {
            return;
        }
        self.round.applying = false;
        self.adopt(now, meta);
    }

    /// Asks authors for payloads that were announced but did not arrive.
    pub(super) fn fetch_late_payloads(&mut self, now: Time) {
        let again = now + self.pace.overdue_after(1, 1);
        if self.is_mutated(Mutant::NoFetchOfLostPayloads) {
            return;
        }
        let mut late = Vec::new();
        for entry in self.round.entries.iter_mut().filter(|entry| !entry.ready) {
            if let (Some(at), Some(payload)) = (entry.fetch_at, entry.signed.contribution.payload)
                && at <= now
            {
                entry.fetch_at = Some(again);
                entry.asked = true;
                late.push(Effect::FetchPayload { from: entry.signed.contribution.peer, payload });
            }
        }
        self.effects.extend(late);
    }

    /// Drops the payloads of the round that is over. Those that no contribution has announced yet stay
    /// for one round more: they may have outrun the announcements of the next one.
    fn drop_stale_payloads(&mut self) {
        if self.is_mutated(Mutant::KeepsPayloadsForEver) {
            return;
        }
        let early = self.early.iter().filter_map(|(_, signed)| signed.contribution.payload);
        let needed: Vec<Digest> = early.map(|payload| payload.digest).collect();
        let announced = self.round.payloads();
        let over = announced.union(&self.unannounced).filter(|digest| self.held.contains(digest));
        let stale = over.filter(|digest| !needed.contains(digest)).copied().collect();
        self.drop_payloads(stale);
        self.unannounced = self.held.iter().filter(|digest| !needed.contains(digest)).copied().collect();
        self.drop_excess_unannounced();
    }

    /// Payloads may outrun their announcements, but only so many are kept.
    fn drop_excess_unannounced(&mut self) {
        let mut announced = self.round.payloads();
        announced.extend(self.early.iter().filter_map(|(_, signed)| signed.contribution.payload).map(|p| p.digest));
        let unannounced: Vec<Digest> = self.held.difference(&announced).copied().collect();
        if unannounced.len() > MAX_UNANNOUNCED {
            self.drop_payloads(unannounced);
        }
    }

    fn drop_payloads(&mut self, digests: Vec<Digest>) {
        if !digests.is_empty() {
            digests.iter().for_each(|digest| {
                self.held.remove(digest);
            });
            self.emit(Effect::DropPayloads(digests));
        }
    }

    fn is_working_on(&self, from: StateRef) -> bool {
        self.phase == Phase::Working && !self.round.applying && self.round.from == from
    }
}

fn truncated(text: &str, limit: usize) -> String {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].into()
}
