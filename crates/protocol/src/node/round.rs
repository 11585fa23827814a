//! One round at one peer: what is known, held and owed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::io::{Crowd, Effect};
use super::shards::Sharding;
use crate::assignment::{Capacities, assign, ranking};
use crate::contribution::{Contribution, PayloadRef, SignedContribution};
use crate::ids::{PeerId, RunId};
use crate::pace::Pace;
use crate::shard::{MAX_SHARDS, PayloadShape};
use crate::spec::RunSpec;
use crate::state::{StateRef, Tally};
use crate::time::Time;
use crate::units::{RoundPlan, UnitKind, UnitSet};

/// Contributions that one peer may make to one round beyond one per unit; bounds what a lying
/// member can make others keep.
const SPARE_CONTRIBUTIONS: u32 = 8;

/// A unit in the hands of this peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    Computing { since: Time },
    Computed { tally: Tally, elapsed: Duration },
    Failed,
}

/// A contribution and whether its payload is in the store.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub signed: SignedContribution,
    pub ready: bool,
    pub announced: Time,
    /// When to ask the author for the payload.
    pub fetch_at: Option<Time>,
    /// Whether the author was asked.
    pub asked: bool,
}

impl Entry {
    /// One whose payload is here.
    pub fn ready(signed: SignedContribution, announced: Time) -> Self {
        Self { signed, ready: true, announced, fetch_at: None, asked: false }
    }

    /// Its payload is here; whether that is news. A transfer only counts if it came by itself.
    pub fn arrived(&mut self, now: Time, pace: &mut Pace) -> bool {
        let news = !std::mem::replace(&mut self.ready, true);
        if news && !self.asked {
            pace.transferred(now.since(self.announced));
        }
        news
    }

    /// Whether its payload is this one.
    pub fn has(&self, payload: &PayloadRef) -> bool {
        self.signed.contribution.payload.as_ref() == Some(payload)
    }
}

/// Who owes a unit, and since when.
#[derive(Debug, Clone, Copy)]
struct Debt {
    peer: PeerId,
    since: Time,
}

#[derive(Debug, Clone)]
pub(crate) struct Round {
    pub from: StateRef,
    pub plan: RoundPlan,
    pub began: Time,
    pub applying: bool,
    pub own: BTreeMap<u32, Own>,
    /// Units computed here that are to be summed and announced together, until they are.
    pub groups: Vec<UnitSet>,
    /// Contributions to the whole vector.
    pub entries: Vec<Entry>,
    pub sharding: Sharding,
    pub accumulated: UnitSet,
    /// Peers that were sent what was announced so far.
    pub informed: BTreeSet<PeerId>,
    /// Subsets asked for, so that nobody is asked twice.
    pub wanted: BTreeSet<(PeerId, UnitSet, Option<u32>)>,
    /// Subsets that others asked for, until they are summed.
    pub requests: Vec<(PeerId, UnitSet, Option<u32>)>,
    requests_taken: BTreeMap<PeerId, u32>,
    pub failures: BTreeMap<u32, BTreeMap<PeerId, String>>,
    debts: BTreeMap<u32, Debt>,
}

impl Round {
    pub fn new(
        spec: &RunSpec,
        shape: &PayloadShape,
        crowd: &Crowd,
        from: StateRef,
        now: Time,
        view: &Capacities,
    ) -> Self {
        let plan = RoundPlan::new(spec, from.round);
        let sharding = Sharding::new(from, now, plan.shards(shape), view, view.len() >= crowd.sharded_from);
        let owners = assign(&from.digest, &plan.all(), view);
        let debts = owners.into_iter().map(|(unit, peer)| (unit, Debt { peer, since: now })).collect();
        Self {
            from,
            plan,
            began: now,
            applying: false,
            own: BTreeMap::new(),
            groups: Vec::new(),
            entries: Vec::new(),
            sharding,
            accumulated: UnitSet::new(),
            informed: BTreeSet::new(),
            wanted: BTreeSet::new(),
            requests: Vec::new(),
            requests_taken: BTreeMap::new(),
            failures: BTreeMap::new(),
            debts,
        }
    }

    /// Begins every wait of the round anew; what can be asked for is asked for at `fetch_at`.
    #[cfg(feature = "model-checking")]
    pub fn forget_time(&mut self, fetch_at: Time) {
        self.debts.values_mut().for_each(|debt| debt.since = Time(0));
        for own in self.own.values_mut() {
            match own {
                Own::Computing { since } => *since = Time(0),
                Own::Computed { elapsed, .. } => *elapsed = Duration::ZERO,
                Own::Failed => {}
            }
        }
        let shards = self.sharding.shards.iter_mut().flat_map(|shard| shard.entries_mut());
        for entry in self.entries.iter_mut().chain(shards) {
            entry.announced = Time(0);
            entry.fetch_at = entry.fetch_at.map(|_| fetch_at);
        }
        self.began = Time(0);
        self.sharding.forget_time();
    }

    /// Forgets who owes what.
    #[cfg(feature = "model-checking")]
    pub fn forget_debts(&mut self) {
        self.debts.clear();
    }

    /// Forgets how often it was asked for sums, and by whom.
    #[cfg(feature = "model-checking")]
    pub fn forget_requests_taken(&mut self) {
        self.requests_taken.clear();
    }

    /// Units that `peer` owes at present.
    pub fn owed_by(&self, peer: &PeerId) -> UnitSet {
        self.debts.iter().filter(|(_, debt)| debt.peer == *peer).map(|(unit, _)| *unit).collect()
    }

    /// Who owes `unit`.
    pub fn debtor(&self, unit: u32) -> Option<PeerId> {
        self.debts.get(&unit).map(|debt| debt.peer)
    }

    /// Contributions to the whole vector, or to one shard.
    pub fn known(&self, shard: Option<u32>) -> Vec<&Entry> {
        match shard {
            None => self.entries.iter().collect(),
            Some(shard) => self.sharding.get(shard).into_iter().flat_map(|known| known.entries()).collect(),
        }
    }

    /// Whether another contribution of `peer` to the whole vector or a shard would be more than an honest
    /// peer makes.
    pub fn is_flooded_by(&self, peer: &PeerId, shard: Option<u32>) -> bool {
        let made = self.known(shard).into_iter().filter(|entry| entry.signed.contribution.peer == *peer).count();
        made as u64 >= u64::from(self.plan.total()) + u64::from(SPARE_CONTRIBUTIONS)
    }

    /// The most contributions that an honest peer makes to a round before others have begun it: each to the
    /// whole vector, or all of them in shards and a total of each shard.
    pub fn most_contributions(plan: &RoundPlan, shape: &PayloadShape) -> u64 {
        u64::from(plan.total()) + u64::from(SPARE_CONTRIBUTIONS) + 4 * u64::from(plan.shards(shape))
    }

    /// Whether another request of `peer` is answered: an honest one asks once for each unit at most, and a
    /// few times for each shard.
    pub fn takes_request_of(&mut self, peer: PeerId) -> bool {
        let taken = self.requests_taken.entry(peer).or_default();
        *taken = taken.saturating_add(1);
        *taken <= self.plan.total() + 8 * MAX_SHARDS
    }

    /// Sets of the contributions whose payloads are here.
    pub fn ready_sets(&self) -> (Vec<usize>, Vec<&UnitSet>) {
        let ready = self.entries.iter().enumerate().filter(|(_, entry)| entry.ready);
        ready.map(|(index, entry)| (index, &entry.signed.contribution.units)).unzip()
    }

    /// Units in no contribution whose payload is here.
    pub fn missing(&self) -> UnitSet {
        let (_, sets) = self.ready_sets();
        sets.iter().fold(self.plan.all(), |left, set| left.difference(set))
    }

    /// Contributions to a shard or to the whole vector whose payloads are here.
    pub fn parts_of(&self, shard: u32) -> Vec<&Entry> {
        let pieces = self.sharding.get(shard).into_iter().flat_map(|known| &known.pieces);
        pieces.chain(&self.entries).filter(|entry| entry.ready).collect()
    }

    /// Units that no contribution at hand has for a shard.
    pub fn missing_in(&self, shard: u32) -> UnitSet {
        let parts = self.parts_of(shard);
        parts.iter().fold(self.plan.all(), |left, entry| left.difference(&entry.signed.contribution.units))
    }

    /// Units computed here.
    pub fn computed(&self) -> UnitSet {
        let computed = self.own.iter().filter(|(_, own)| matches!(own, Own::Computed { .. }));
        computed.map(|(unit, _)| *unit).collect()
    }

    /// Moves the debts of peers that are not in `view` to those that are, deals out what nobody owes, and returns the
    /// units. The new debts are read from [`Round::owed_by`].
    pub fn reassign(&mut self, now: Time, view: &Capacities) -> UnitSet {
        // Shard by shard a peer does not see which units the shards of others lack.
        let missing = if self.sharding.active { self.plan.all() } else { self.missing() };
        let owed = |unit: &u32| self.debts.get(unit).is_some_and(|debt| view.contains_key(&debt.peer));
        let orphans: UnitSet = missing.iter().filter(|unit| !owed(unit)).collect();
        for (unit, peer) in assign(&self.from.digest, &orphans, view) {
            self.debts.insert(unit, Debt { peer, since: now });
        }
        let failed: Vec<u32> = self.failures.keys().copied().collect();
        failed.into_iter().for_each(|unit| self.pass_on(now, unit, view));
        orphans
    }

    /// Gives a unit to the best peer that has not failed at it, if its debtor has.
    pub fn pass_on(&mut self, now: Time, unit: u32, view: &Capacities) {
        let Some(failed) = self.failures.get(&unit) else { return };
        if self.debtor(unit).is_some_and(|peer| !failed.contains_key(&peer)) {
            return;
        }
        let next = ranking(&self.from.digest, unit, view).into_iter().find(|peer| !failed.contains_key(peer));
        if let Some(peer) = next {
            self.debts.insert(unit, Debt { peer, since: now });
        }
    }

    /// Why `unit` cannot be computed by anyone in `view`, if so.
    pub fn hopeless(&self, unit: u32, view: &Capacities) -> Option<String> {
        let failed = self.failures.get(&unit)?;
        let all_failed = view.keys().all(|peer| failed.contains_key(peer));
        all_failed.then(|| failed.values().next_back().cloned().unwrap_or_default())
    }

    /// When `me` computes `unit` in place of its debtor: after one deadline if `me` is next in the
    /// ranking, after two if it is the one after that, and so on.
    pub fn backup_at(&self, unit: u32, me: &PeerId, view: &Capacities, pace: &Pace) -> Option<Time> {
        let debt = self.debts.get(&unit)?;
        if debt.peer == *me || self.own.contains_key(&unit) {
            return None;
        }
        let order = ranking(&self.from.digest, unit, view);
        let place = order.iter().filter(|peer| **peer != debt.peer).position(|peer| peer == me)?;
        Some(self.backup_of(debt, place, view, pace))
    }

    /// Who is to compute `unit` next in place of its debtor, and when, in the same order; `asked` tells who has been
    /// asked before.
    pub fn next_backup(
        &self,
        unit: u32,
        view: &Capacities,
        pace: &Pace,
        asked: impl Fn(&PeerId) -> bool,
    ) -> Option<(Time, PeerId)> {
        let debt = self.debts.get(&unit)?;
        let order = ranking(&self.from.digest, unit, view);
        let others = order.into_iter().filter(|peer| *peer != debt.peer).enumerate();
        let (place, peer) = others.into_iter().find(|(_, peer)| !asked(peer))?;
        Some((self.backup_of(debt, place, view, pace), peer))
    }

    fn backup_of(&self, debt: &Debt, place: usize, view: &Capacities, pace: &Pace) -> Time {
        let load = self.owed_by(&debt.peer).len();
        let functions = view.get(&debt.peer).map_or(1, |capacity| capacity.functions);
        let wait: Duration = pace.overdue_after(load, functions);
        debt.since + wait.saturating_mul(place as u32 + 1)
    }

    /// Contributions whose payloads are still of use and not here.
    pub fn awaited(&self) -> impl Iterator<Item = &Entry> {
        let open = self.sharding.shards.iter().filter(|shard| shard.total().is_none());
        self.entries.iter().chain(open.flat_map(|shard| shard.entries())).filter(|entry| !entry.ready)
    }

    /// See [`Round::awaited`].
    pub fn awaited_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        let open = self.sharding.shards.iter_mut().filter(|shard| shard.total().is_none());
        self.entries.iter_mut().chain(open.flat_map(|shard| shard.entries_mut())).filter(|entry| !entry.ready)
    }

    /// Everything that is known of contributions.
    pub fn all_entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().chain(self.sharding.shards.iter().flat_map(|shard| shard.entries()))
    }

    /// The payloads that the round's contributions speak of.
    pub fn payloads(&self) -> BTreeSet<PayloadRef> {
        self.all_entries().filter_map(|entry| entry.signed.contribution.payload).collect()
    }
}

/// Work in the own hands, the same for whoever computes.
impl Round {
    /// Has those of `units` computed that were not begun.
    pub fn compute(&mut self, now: Time, units: &UnitSet) -> Vec<Effect> {
        let mut effects = Vec::new();
        for unit in units.iter() {
            if self.own.contains_key(&unit) {
                continue;
            }
            self.own.insert(unit, Own::Computing { since: now });
            effects.push(Effect::Compute { from: self.from, unit, kind: self.plan.kind(unit) });
        }
        effects
    }

    /// The same, to be announced as one sum.
    pub fn compute_together(&mut self, now: Time, units: &UnitSet) -> Vec<Effect> {
        let new: UnitSet = units.iter().filter(|unit| !self.own.contains_key(unit)).collect();
        let effects = self.compute(now, &new);
        if !new.is_empty() {
            self.groups.push(new);
        }
        effects
    }

    /// A unit is computed; whether it was under way.
    pub fn computed_here(&mut self, now: Time, unit: u32, tally: Tally) -> bool {
        let Some(Own::Computing { since }) = self.own.get(&unit) else { return false };
        let elapsed = now.since(*since);
        self.own.insert(unit, Own::Computed { tally, elapsed });
        true
    }

    /// A unit cannot be computed here: the others of its group go without it.
    pub fn failed_here(&mut self, unit: u32) {
        self.own.insert(unit, Own::Failed);
        self.groups.iter_mut().for_each(|group| group.remove(unit));
        self.groups.retain(|group| !group.is_empty());
    }

    /// Takes out the groups that are computed.
    pub fn take_complete_groups(&mut self) -> Vec<UnitSet> {
        let computed = self.computed();
        let groups = std::mem::take(&mut self.groups);
        let (complete, open) = groups.into_iter().partition(|group| group.is_subset(&computed));
        self.groups = open;
        complete
    }

    /// Whether the sum of these units has a vector.
    pub fn has_gradient(&self, units: &UnitSet) -> bool {
        units.iter().any(|unit| self.plan.kind(unit) == UnitKind::Gradient)
    }

    /// The contribution of units computed here, still without a payload; `None` if their losses cannot be summed.
    pub fn contribution_of(&self, run: RunId, me: PeerId, units: &UnitSet) -> Option<Contribution> {
        let (training, evaluation) = self.totals(units)?;
        Some(Contribution {
            run,
            peer: me,
            from: self.from,
            units: units.clone(),
            shard: None,
            training,
            evaluation,
            elapsed_us: u64::try_from(self.slowest(units).as_micros()).unwrap_or(u64::MAX),
            payload: None,
        })
    }

    /// Time that the units took here: they were started together.
    pub fn slowest(&self, units: &UnitSet) -> Duration {
        let elapsed = |unit| match self.own.get(&unit) {
            Some(Own::Computed { elapsed, .. }) => *elapsed,
            _ => Duration::ZERO,
        };
        units.iter().map(elapsed).max().unwrap_or_default()
    }

    fn totals(&self, units: &UnitSet) -> Option<(Tally, Tally)> {
        let mut totals = (Tally::default(), Tally::default());
        for unit in units.iter() {
            let Some(Own::Computed { tally, .. }) = self.own.get(&unit) else { return None };
            match self.plan.kind(unit) {
                UnitKind::Gradient => totals.0 = totals.0.checked_add(*tally)?,
                UnitKind::Evaluation => totals.1 = totals.1.checked_add(*tally)?,
            }
        }
        Some(totals)
    }
}

/// Sums of others, the same for whoever forms states.
impl Round {
    /// Adds the payload of a contribution to the round's total if it overlaps with nothing in there.
    pub fn accumulate(&mut self, index: usize) -> Option<Effect> {
        let contribution = &self.entries[index].signed.contribution;
        let payload = contribution.payload.filter(|_| contribution.units.is_disjoint(&self.accumulated))?;
        let units = contribution.units.clone();
        self.accumulated = self.accumulated.union(&units);
        Some(Effect::Accumulate { from: self.from, units, payload })
    }

    /// Which of the units in `left` are in whose sums: those of whom parts can be asked for.
    pub fn makers_of(&self, mut left: UnitSet, me: &PeerId) -> Vec<(PeerId, UnitSet)> {
        let mut parts = Vec::new();
        for Entry { signed, .. } in &self.entries {
            let contribution = &signed.contribution;
            let part: UnitSet = left.iter().filter(|unit| contribution.units.contains(*unit)).collect();
            if !part.is_empty() && contribution.peer != *me {
                left = left.difference(&part);
                parts.push((contribution.peer, part));
            }
        }
        parts
    }

    /// Asks authors for payloads that were announced but did not arrive; at `again` they are asked once more.
    pub fn late_payloads(&mut self, now: Time, again: Time) -> Vec<Effect> {
        let mut late = Vec::new();
        for entry in self.awaited_mut() {
            if let (Some(at), Some(payload)) = (entry.fetch_at, entry.signed.contribution.payload)
                && at <= now
            {
                entry.fetch_at = Some(again);
                entry.asked = true;
                late.push(Effect::FetchPayload { from: entry.signed.contribution.peer, payload });
            }
        }
        late
    }
}
