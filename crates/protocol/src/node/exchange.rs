//! What peers exchange in a round: contributions, payloads, covers.

use std::collections::BTreeSet;
use std::time::Duration;

use super::catch_up::HISTORY_ROUNDS;
use super::io::{Effect, RefusalKind, StateMeta};
use super::round::{Entry, Round};
use super::{Node, Phase};
use crate::contribution::{Contribution, ContributionError, PayloadRef, SignedContribution};
use crate::cover::{disjoint_choice, exact_cover};
use crate::ids::PeerId;
use crate::message::Message;
use crate::mutant::Mutant;
use crate::state::StateRef;
use crate::time::Time;
use crate::units::{RoundPlan, UnitSet};

/// Contributions to the next round that are kept until this peer gets there.
const MAX_EARLY: usize = 8192;

/// Payloads that no contribution has announced yet, which are kept in the hope that one will.
pub(crate) const MAX_UNANNOUNCED: usize = 64;

/// The same where payloads are shards, as small as there are many.
const MAX_UNANNOUNCED_SHARDS: usize = 4096;

impl Node {
    /// Has the exact sum of computed units formed; evaluations have no vector and need no sum.
    pub(super) fn sum(&mut self, now: Time, units: UnitSet) {
        if self.round.has_gradient(&units) {
            self.emit(Effect::Sum { from: self.round.from, units });
        } else {
            self.contribute(now, units, None);
        }
    }

    pub(super) fn summed(&mut self, now: Time, from: StateRef, units: UnitSet, payload: PayloadRef) {
        if self.is_working_on(from) {
            self.held.insert(payload);
            self.contribute(now, units, Some(payload));
        }
    }

    /// Signs and announces the sum of `units`, to everyone or to the one who asked for just these.
    fn contribute(&mut self, now: Time, units: UnitSet, payload: Option<PayloadRef>) {
        let Some(base) = self.own_contribution(now, &units) else { return };
        let signed = SignedContribution::sign(Contribution { payload, ..base }, &self.config.key);
        let (asked, others) = std::mem::take(&mut self.round.requests)
            .into_iter()
            .partition(|(_, wanted, shard)| *wanted == units && shard.is_none());
        self.round.requests = others;
        let asked: Vec<(PeerId, UnitSet, Option<u32>)> = asked;
        if asked.is_empty() {
            let informed: Vec<PeerId> = self.round.informed.iter().copied().collect();
            informed.into_iter().for_each(|peer| self.offer(peer, &signed));
            self.add_entry(now, signed, true);
        } else {
            asked.into_iter().for_each(|(peer, ..)| self.offer(peer, &signed));
        }
    }

    /// A contribution of this peer's own units, still without a payload. `None` if their losses cannot be
    /// summed: then they have failed here.
    pub(super) fn own_contribution(&mut self, now: Time, units: &UnitSet) -> Option<Contribution> {
        let Some(contribution) = self.round.contribution_of(self.run, self.me, units) else {
            let cause = "the sum of the samples' losses does not fit";
            units.iter().for_each(|unit| self.unit_failed_here(now, self.round.from, unit, cause));
            return None;
        };
        let elapsed = Duration::from_micros(contribution.elapsed_us);
        self.pace.computed(elapsed, units.len(), self.config.functions);
        Some(contribution)
    }

    pub(super) fn offer(&mut self, peer: PeerId, signed: &SignedContribution) {
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
        self.note_progress(from, contribution.from);
        let gathering = self.phase == Phase::Gathering && contribution.from == self.state.state;
        if gathering || contribution.from.round == self.state.state.round + 1 {
            self.keep_for_later(from, signed);
            return;
        }
        let long_over = contribution.from.round.saturating_add(HISTORY_ROUNDS as u64) < self.state.state.round;
        if long_over || self.round.known(contribution.shard).iter().any(|entry| entry.signed == signed) {
            let round = contribution.from.round;
            self.refuse(from, RefusalKind::Replayed, format!("contribution to round {round} that was there before"));
            return;
        }
        if !self.is_working_on(contribution.from) && !self.is_mutated(Mutant::StaleContributionAccepted) {
            return;
        }
        let checked = if contribution.peer == from || self.is_mutated(Mutant::ForgedAuthorAccepted) {
            self.check_contribution(&signed)
        } else {
            Err(ContributionError::NotTheSender(contribution.peer))
        };
        if let Err(error) = checked {
            self.refuse(from, (&error).into(), error.to_string());
        } else if self.round.is_flooded_by(&from, contribution.shard) {
            self.refuse(from, RefusalKind::Flood, "more contributions to a round than it has units".into());
        } else {
            let ready = contribution.payload.is_none_or(|payload| self.held.contains(&payload));
            self.learn_pace(from, contribution);
            self.add_entry(now, signed, ready);
        }
    }

    /// Who contributes to a round is there, whatever its last heartbeat said.
    fn note_progress(&mut self, from: PeerId, state: StateRef) {
        let current = state.round.saturating_add(1) >= self.state.state.round;
        if let Some(neighbour) = self.neighbours.get_mut(&from).filter(|_| current) {
            neighbour.current = true;
        }
    }

    fn learn_pace(&mut self, from: PeerId, contribution: &Contribution) {
        if let Some(elapsed) = contribution.computing_time() {
            let heartbeat = self.neighbours.get(&from).and_then(|neighbour| neighbour.last);
            self.pace.computed(elapsed, contribution.units.len(), heartbeat.map_or(1, |last| last.functions));
        }
    }

    fn check_contribution(&self, signed: &SignedContribution) -> Result<(), ContributionError> {
        if !self.is_mutated(Mutant::ContentNotChecked) {
            signed.contribution.check(&self.config.spec, self.run, &self.config.payload)?;
        }
        if self.is_mutated(Mutant::SignatureNotChecked) { Ok(()) } else { (self.verify)(signed) }
    }

    /// Keeps a contribution to a round that this peer has not begun; its signature is checked then.
    fn keep_for_later(&mut self, from: PeerId, signed: SignedContribution) {
        let contribution = &signed.contribution;
        let checked = match contribution.peer == from {
            true => contribution.check(&self.config.spec, self.run, &self.config.payload),
            false => Err(ContributionError::NotTheSender(contribution.peer)),
        };
        if let Err(error) = checked {
            self.refuse(from, (&error).into(), error.to_string());
            return;
        }
        let made = self.early.iter().filter(|(sender, _)| *sender == from).count() as u64;
        let plan = RoundPlan::new(&self.config.spec, contribution.from.round);
        let unlimited = self.is_mutated(Mutant::EarlyContributionsWithoutLimit);
        let allowed = if unlimited { u64::MAX } else { Round::most_contributions(&plan, &self.config.payload) };
        let known = self.early.iter().any(|(_, early)| *early == signed);
        if made < allowed && !known && self.early.len() < MAX_EARLY {
            self.early.push((from, signed));
        }
    }

    fn add_entry(&mut self, now: Time, signed: SignedContribution, ready: bool) {
        let fetch_at = (!ready).then(|| now + self.pace.in_flight());
        let shard = signed.contribution.shard;
        let entry = Entry { signed, ready, announced: now, fetch_at, asked: false };
        if let Some(shard) = shard {
            return self.file_shard(now, shard, entry);
        }
        self.round.entries.push(entry);
        if ready {
            self.accumulate(self.round.entries.len() - 1);
            self.make_progress(now);
        }
    }

    pub(super) fn payload_held(&mut self, now: Time, payload: PayloadRef) {
        self.held.insert(payload);
        let round = &self.round;
        let whole: Vec<usize> = (0..round.entries.len()).filter(|&i| round.entries[i].has(&payload)).collect();
        let shards = round.sharding.shards.iter().zip(0_u32..);
        let shards: Vec<u32> =
            shards.filter(|(shard, _)| shard.entries().any(|entry| entry.has(&payload))).map(|(_, i)| i).collect();
        if whole.is_empty() && shards.is_empty() {
            self.drop_excess_unannounced();
            return;
        }
        for index in whole.iter().copied() {
            if self.round.entries[index].arrived(now, &mut self.pace) {
                self.accumulate(index);
            }
        }
        for shard in shards {
            let entries = self.round.sharding.get_mut(shard).into_iter().flat_map(|known| known.entries_mut());
            entries.filter(|entry| entry.has(&payload)).for_each(|entry| {
                entry.arrived(now, &mut self.pace);
            });
            self.progress_shard(now, shard);
        }
        if !whole.is_empty() {
            self.make_progress(now);
        }
    }

    /// Adds a payload to the round's total if it overlaps with nothing in there.
    fn accumulate(&mut self, index: usize) {
        let accumulate = self.round.accumulate(index);
        self.effects.extend(accumulate);
    }

    /// Applies the round if there is a cover, and otherwise asks for subsets that make one.
    pub(super) fn make_progress(&mut self, now: Time) {
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
    pub(super) fn mistaken_cover(&self, all: &UnitSet, sets: &[&UnitSet]) -> Option<Vec<usize>> {
        let (chosen, left) = disjoint_choice(all, sets);
        if self.is_mutated(Mutant::CoverMayMissAUnit) && left.len() == 1 {
            return Some(chosen);
        }
        let nothing_missing = sets.iter().fold(all.clone(), |left, set| left.difference(set)).is_empty();
        let overlaps = self.is_mutated(Mutant::CoverMayOverlap) && nothing_missing;
        overlaps.then(|| (0..sets.len()).collect())
    }

    /// Every unit is here, but only in sums that overlap: asks for the sums of just what is missing
    /// beside the best disjoint choice.
    fn untangle(&mut self, now: Time) {
        let parts: Vec<&Entry> = self.round.entries.iter().filter(|entry| entry.ready).collect();
        if let Some(rest) = self.own_remainder(&parts) {
            if self.round.wanted.insert((self.me, rest.clone(), None)) {
                self.sum(now, rest);
            }
            return;
        }
        let mut left = self.uncovered();
        let mine: UnitSet = left.iter().filter(|unit| self.round.computed().contains(*unit)).collect();
        if !mine.is_empty() {
            left = left.difference(&mine);
            if self.round.wanted.insert((self.me, mine.clone(), None)) {
                self.sum(now, mine);
            }
        }
        for (peer, part) in self.round.makers_of(left, &self.me) {
            if self.round.wanted.insert((peer, part.clone(), None)) {
                self.send(peer, Message::UnitsWanted { from: self.round.from, units: part, shard: None });
            }
        }
    }

    /// What the sums of others leave to this peer, if it has computed all of that. Own sums can be formed of
    /// any units at once, while others have to be asked, and may be gone.
    pub(super) fn own_remainder(&self, parts: &[&Entry]) -> Option<UnitSet> {
        let contributions = parts.iter().map(|entry| &entry.signed.contribution);
        let others: Vec<&UnitSet> = contributions.filter(|part| part.peer != self.me).map(|part| &part.units).collect();
        let (_, left) = disjoint_choice(&self.round.plan.all(), &others);
        (!left.is_empty() && left.is_subset(&self.round.computed())).then_some(left)
    }

    pub(super) fn units_wanted(&mut self, now: Time, peer: PeerId, from: StateRef, units: UnitSet, shard: Option<u32>) {
        if from.round < self.state.state.round {
            // Whoever asks is behind and may not know it.
            self.send(peer, Message::Heartbeat(self.heartbeat()));
        }
        let valid = self.is_working_on(from) && !units.is_empty() && units.is_valid(self.round.plan.total());
        if !valid || !self.round.takes_request_of(peer) {
            return;
        }
        if let Some(shard) = shard {
            self.shard_wanted(now, peer, units, shard);
        } else if units.is_subset(&self.round.computed()) {
            self.round.requests.push((peer, units.clone(), None));
            self.sum(now, units);
        }
    }

    pub(super) fn applied(&mut self, now: Time, from: StateRef, meta: StateMeta) {
        if !self.round.applying || from != self.round.from {
            return;
        }
        self.round.applying = false;
        self.adopt(now, meta);
        self.announce_state(now);
    }

    /// Asks authors for payloads that were announced but did not arrive.
    pub(super) fn fetch_late_payloads(&mut self, now: Time) {
        let again = now + self.pace.overdue_after(1, 1);
        if self.is_mutated(Mutant::NoFetchOfLostPayloads) {
            return;
        }
        let late = self.round.late_payloads(now, again);
        self.effects.extend(late);
    }

    /// Drops the payloads of the round that is over. Those that no contribution has announced yet stay
    /// for one round more: they may have outrun the announcements of the next one.
    pub(super) fn drop_stale_payloads(&mut self) {
        if self.is_mutated(Mutant::KeepsPayloadsForEver) {
            return;
        }
        let early = self.early.iter().filter_map(|(_, signed)| signed.contribution.payload);
        let needed: BTreeSet<PayloadRef> = early.collect();
        let announced = self.round.payloads();
        let over = announced.union(&self.unannounced).filter(|payload| self.held.contains(payload));
        let stale = over.filter(|payload| !needed.contains(payload)).copied().collect();
        self.drop_payloads(stale);
        self.unannounced = self.held.difference(&needed).copied().collect();
        self.drop_excess_unannounced();
    }

    /// Payloads may outrun their announcements, but only so many are kept.
    fn drop_excess_unannounced(&mut self) {
        let limit = if self.round.sharding.active { MAX_UNANNOUNCED_SHARDS } else { MAX_UNANNOUNCED };
        if self.held.len() <= limit {
            return;
        }
        let mut announced = self.round.payloads();
        announced.extend(self.early.iter().filter_map(|(_, signed)| signed.contribution.payload));
        let unannounced: Vec<PayloadRef> = self.held.difference(&announced).copied().collect();
        if unannounced.len() > limit {
            self.drop_payloads(unannounced);
        }
    }

    fn drop_payloads(&mut self, payloads: Vec<PayloadRef>) {
        if !payloads.is_empty() {
            payloads.iter().for_each(|payload| {
                self.held.remove(payload);
            });
            self.emit(Effect::DropPayloads(payloads.into_iter().map(|payload| payload.digest).collect()));
        }
    }

    pub(super) fn is_working_on(&self, from: StateRef) -> bool {
        self.phase == Phase::Working && !self.round.applying && self.round.from == from
    }
}
