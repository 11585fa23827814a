//! A round's sum formed shard by shard, for runs with many peers.
//!
//! Every peer cuts the sum of its units into shards and sends each to the shard's owner. The owner adds
//! up what all peers sent (reduce-scatter) and gives the total of its shard to everyone (all-gather):
//! 2(n-1)/n payloads sent by each of n peers instead of n-1. Bandwidth-optimal since Patarasuk and Yuan,
//! "Bandwidth optimal all-reduce algorithms for clusters of workstations", JPDC 69(2), 2009.
//!
//! Unlike in an all-reduce nobody is waited for in particular. Sums are exact, so that a shard's total is
//! the same bits whoever forms it, from whatever cover: when an owner is lost the next in the shard's
//! ranking takes its place, and shards may come from different covers. An owner sees which units its
//! shard lacks, and asks for them: whoever owes them first, and then one peer after the other in the
//! unit's ranking. Who gets no total asks for it, and after that goes to the next owner.

use std::collections::{BTreeMap, BTreeSet};

use super::io::{Effect, Event};
use super::round::Entry;
use super::{Node, Phase};
use crate::assignment::{Capacities, Capacity, assign, ranking};
use crate::contribution::{Contribution, PayloadRef, SignedContribution};
use crate::cover::{disjoint_choice, exact_cover};
use crate::ids::{Digest, PeerId};
use crate::message::Message;
use crate::mutant::Mutant;
use crate::state::{StateRef, Tally};
use crate::time::Time;
use crate::units::UnitSet;

/// Separates the ranking of shards from that of units.
const OWNERS_CONTEXT: &[u8] = b"peerless owners of shards v1";

/// Times that an owner is asked for its shard's total before the next one takes its place. A living one
/// needs one deadline itself to get what is late.
const OWNER_ATTEMPTS: u32 = 2;

/// Attempts after which a peer computes everything that it lacks, one peer after the other: the last
/// resort when hardly anyone can be reached.
const ATTEMPTS_BEFORE_ALONE: u32 = 4;

/// What is known of one shard of the round's sum.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shard {
    /// Sums of some units.
    pub pieces: Vec<Entry>,
    /// Sums of all units.
    pub totals: Vec<Entry>,
    /// The cover that is being added up here.
    combining: Option<Vec<SignedContribution>>,
    /// Who asked for pieces of this peer beside the owner.
    subscribers: BTreeSet<PeerId>,
    /// Who asked for the total before it was there.
    waiting: BTreeSet<PeerId>,
}

impl Shard {
    /// What is known of the shard, pieces first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.pieces.iter().chain(&self.totals)
    }

    pub fn entries_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.pieces.iter_mut().chain(&mut self.totals)
    }

    /// A total whose payload is here.
    pub fn total(&self) -> Option<&SignedContribution> {
        self.totals.iter().find(|entry| entry.ready).map(|entry| &entry.signed)
    }

    fn total_of(&self, peer: &PeerId) -> Option<&SignedContribution> {
        self.totals.iter().map(|entry| &entry.signed).find(|signed| signed.contribution.peer == *peer)
    }

    fn pieces_of(&self, peer: &PeerId) -> Vec<SignedContribution> {
        let made = self.pieces.iter().filter(|entry| entry.signed.contribution.peer == *peer);
        made.map(|entry| entry.signed.clone()).collect()
    }
}

/// The shards of a round and who is to form their totals.
#[derive(Debug, Clone)]
pub(crate) struct Sharding {
    /// Whether this peer sends its own sums shard by shard. What others send so is understood anyway.
    pub active: bool,
    pub shards: Vec<Shard>,
    seed: Digest,
    /// The peers of the view when the round began, less those that were lost since.
    pub roster: Capacities,
    /// Owners by the roster when the round began: with equal loads.
    first: BTreeMap<u32, PeerId>,
    /// Owners that were asked in vain.
    dropped: BTreeSet<PeerId>,
    /// Whom this peer takes for the owner at present.
    owners: Vec<Option<PeerId>>,
    /// When this peer looked for what is late, or began the round.
    chased: Time,
    chases: u32,
}

impl Sharding {
    /// Begins every wait anew.
    #[cfg(feature = "model-checking")]
    pub fn forget_time(&mut self) {
        self.chased = Time(0);
    }

    /// `shards` shards among the peers of `view`, by size of the view shard by shard or not.
    pub fn new(from: StateRef, now: Time, shards: u32, view: &Capacities, active: bool) -> Self {
        let mut bytes = OWNERS_CONTEXT.to_vec();
        bytes.extend(from.digest.0);
        let seed = Digest::of(&bytes);
        let all: UnitSet = (0..shards).collect();
        // Adding up is not what functions do: however fast they are, shards are dealt out by their number.
        let even = view.iter().map(|(peer, capacity)| (*peer, Capacity::even(capacity.functions))).collect();
        let first = if active { assign(&seed, &all, &even) } else { BTreeMap::new() };
        let owners = (0..shards).map(|shard| first.get(&shard).copied()).collect();
        Self {
            active,
            shards: vec![Shard::default(); shards as usize],
            seed,
            roster: view.clone(),
            first,
            dropped: BTreeSet::new(),
            owners,
            chased: now,
            chases: 0,
        }
    }

    pub fn get(&self, shard: u32) -> Option<&Shard> {
        self.shards.get(shard as usize)
    }

    pub fn get_mut(&mut self, shard: u32) -> Option<&mut Shard> {
        self.shards.get_mut(shard as usize)
    }

    fn indices(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.shards.len()).unwrap_or(u32::MAX)
    }

    /// The first owner while it is there, then the next in the shard's ranking: independent of the order in
    /// which owners are lost, so that peers agree.
    fn owner(&self, shard: u32) -> Option<PeerId> {
        let usable = |peer: &PeerId| self.roster.contains_key(peer) && !self.dropped.contains(peer);
        let first = self.first.get(&shard).copied().filter(|peer| usable(peer));
        first.or_else(|| ranking(&self.seed, shard, &self.roster).into_iter().find(|peer| usable(peer)))
    }

    /// Works the owners out anew and returns the shards that have another one.
    fn moved(&mut self) -> Vec<u32> {
        let mut moved = Vec::new();
        for shard in self.indices() {
            let owner = self.owner(shard);
            if let Some(known) = self.owners.get_mut(shard as usize)
                && *known != owner
            {
                *known = owner;
                moved.push(shard);
            }
        }
        moved
    }

    fn known_owner(&self, shard: u32) -> Option<PeerId> {
        self.owners.get(shard as usize).copied().flatten()
    }
}

impl Node {
    /// Answer to [`Effect::Split`].
    pub(super) fn split(&mut self, now: Time, from: StateRef, units: &UnitSet, shards: &[PayloadRef]) {
        if self.is_working_on(from) && shards.len() == self.round.sharding.shards.len() {
            self.held.extend(shards);
            self.contribute_shards(now, units, shards);
        }
    }

    /// Signs the sum of `units` shard by shard and sends each to whom it may concern: the owner, or those
    /// who asked for just these units. `payloads` is empty for evaluations.
    pub(super) fn contribute_shards(&mut self, now: Time, units: &UnitSet, payloads: &[PayloadRef]) {
        let Some(base) = self.own_contribution(now, units) else { return };
        let (asked, others) = std::mem::take(&mut self.round.requests)
            .into_iter()
            .partition(|(_, wanted, shard)| wanted == units && shard.is_some());
        self.round.requests = others;
        let asked: Vec<(PeerId, UnitSet, Option<u32>)> = asked;
        for shard in self.round.sharding.indices() {
            let payload = payloads.get(shard as usize).copied();
            let mut to: BTreeSet<PeerId> =
                asked.iter().filter(|(_, _, wanted)| *wanted == Some(shard)).map(|(peer, ..)| *peer).collect();
            if asked.is_empty() {
                to.extend(self.round.sharding.known_owner(shard));
                to.extend(self.round.sharding.get(shard).into_iter().flat_map(|known| known.subscribers.iter()));
            } else if to.is_empty() {
                continue;
            }
            let contribution = Contribution { shard: Some(shard), payload, ..base.clone() };
            let signed = SignedContribution::sign(contribution, &self.config.key);
            let keep = to.remove(&self.me) || asked.is_empty();
            to.into_iter().for_each(|peer| self.offer(peer, &signed));
            if keep {
                self.file_shard(now, shard, Entry::ready(signed, now));
            }
        }
    }

    /// Takes note of a contribution to a shard.
    pub(super) fn file_shard(&mut self, now: Time, shard: u32, entry: Entry) {
        let is_total = entry.signed.contribution.units == self.round.plan.all();
        let Some(known) = self.round.sharding.get_mut(shard) else { return };
        if is_total { &mut known.totals } else { &mut known.pieces }.push(entry);
        self.progress_shard(now, shard);
    }

    /// Adds a shard up once it has a cover, and goes on once every shard has its total.
    pub(super) fn progress_shard(&mut self, now: Time, shard: u32) {
        if self.phase != Phase::Working || self.round.applying {
            return;
        }
        let Some(known) = self.round.sharding.get(shard) else { return };
        if known.total().is_some() {
            self.serve_total(shard);
            self.apply_shards();
        } else if known.combining.is_none() && !known.pieces.is_empty() {
            self.combine(now, shard);
        }
    }

    fn combine(&mut self, now: Time, shard: u32) {
        let all = self.round.plan.all();
        let parts = self.round.parts_of(shard);
        // Asked with every payload that arrives, so the cheap question comes first.
        if parts.iter().map(|entry| entry.signed.contribution.units.len()).sum::<u32>() < all.len() {
            return self.combine_mistakenly(now, shard);
        }
        let sets: Vec<&UnitSet> = parts.iter().map(|entry| &entry.signed.contribution.units).collect();
        let Some(chosen) = exact_cover(&all, &sets) else {
            let lacking = sets.iter().fold(all, |left, set| left.difference(set));
            if lacking.is_empty() && !self.is_mutated(Mutant::NoUntangling) {
                self.untangle_shard(now, shard);
            }
            return self.combine_mistakenly(now, shard);
        };
        let cover = chosen.into_iter().map(|index| parts[index].signed.clone()).collect();
        self.combine_cover(now, shard, cover);
    }

    fn combine_cover(&mut self, now: Time, shard: u32, cover: Vec<SignedContribution>) {
        let has_vector = cover.iter().any(|signed| signed.contribution.payload.is_some());
        if let Some(known) = self.round.sharding.get_mut(shard) {
            known.combining = Some(cover.clone());
        }
        if has_vector {
            self.emit(Effect::Combine { from: self.round.from, shard, cover });
        } else {
            self.total_formed(now, shard, None);
        }
    }

    fn combine_mistakenly(&mut self, now: Time, shard: u32) {
        let parts = self.round.parts_of(shard);
        let sets: Vec<&UnitSet> = parts.iter().map(|entry| &entry.signed.contribution.units).collect();
        let Some(chosen) = self.mistaken_cover(&self.round.plan.all(), &sets) else { return };
        let cover = chosen.into_iter().map(|index| parts[index].signed.clone()).collect();
        self.combine_cover(now, shard, cover);
    }

    /// Answer to [`Effect::Combine`].
    pub(super) fn combined(&mut self, now: Time, from: StateRef, shard: u32, payload: PayloadRef) {
        if self.is_working_on(from) {
            self.held.insert(payload);
            self.total_formed(now, shard, Some(payload));
        }
    }

    fn total_formed(&mut self, now: Time, shard: u32, payload: Option<PayloadRef>) {
        let Some(cover) = self.round.sharding.get_mut(shard).and_then(|known| known.combining.take()) else { return };
        let add = |sum: Option<(Tally, Tally)>, signed: &SignedContribution| {
            let part = &signed.contribution;
            let (training, evaluation) = sum?;
            Some((training.checked_add(part.training)?, evaluation.checked_add(part.evaluation)?))
        };
        let Some((training, evaluation)) = cover.iter().fold(Some(Default::default()), add) else {
            return self.stop_for_losses();
        };
        let signed = self.sign_total(shard, training, evaluation, payload);
        let others: Vec<PeerId> = self.round.sharding.roster.keys().filter(|peer| **peer != self.me).copied().collect();
        others.into_iter().for_each(|peer| self.offer(peer, &signed));
        self.file_shard(now, shard, Entry::ready(signed, now));
    }

    fn sign_total(
        &self,
        shard: u32,
        training: Tally,
        evaluation: Tally,
        payload: Option<PayloadRef>,
    ) -> SignedContribution {
        let contribution = Contribution {
            run: self.run,
            peer: self.me,
            from: self.round.from,
            units: self.round.plan.all(),
            shard: Some(shard),
            training,
            evaluation,
            elapsed_us: 0,
            payload,
        };
        SignedContribution::sign(contribution, &self.config.key)
    }

    /// Gives a total to those who asked for it, and to everyone if this peer has become its owner.
    fn serve_total(&mut self, shard: u32) {
        let Some(known) = self.round.sharding.get_mut(shard) else { return };
        let mut to = std::mem::take(&mut known.waiting);
        let spoken_for = known.total_of(&self.me).is_some();
        if self.round.sharding.active && !spoken_for && self.round.sharding.known_owner(shard) == Some(self.me) {
            to.extend(self.round.sharding.roster.keys());
        }
        let Some(signed) = (!to.is_empty()).then(|| self.vouched_total(shard)).flatten() else { return };
        to.remove(&self.me);
        to.into_iter().for_each(|peer| self.offer(peer, &signed));
    }

    /// This peer's own word for a total: another peer's counts only when it comes from that peer.
    fn vouched_total(&mut self, shard: u32) -> Option<SignedContribution> {
        let known = self.round.sharding.get(shard)?;
        if let Some(own) = known.total_of(&self.me) {
            return Some(own.clone());
        }
        let Contribution { training, evaluation, payload, .. } = known.total()?.contribution;
        let signed = self.sign_total(shard, training, evaluation, payload);
        let now = self.round.began;
        self.round.sharding.get_mut(shard)?.totals.push(Entry::ready(signed.clone(), now));
        Some(signed)
    }

    fn apply_shards(&mut self) {
        let totals: Option<Vec<SignedContribution>> =
            self.round.sharding.shards.iter().map(|shard| shard.total().cloned()).collect();
        let Some(cover) = totals else { return };
        self.round.applying = true;
        self.emit(Effect::Apply { from: self.round.from, cover });
    }

    /// Every unit of a shard is here, but only in sums that overlap: asks for the sums of just what is
    /// missing beside the best disjoint choice.
    fn untangle_shard(&mut self, now: Time, shard: u32) {
        let parts = self.round.parts_of(shard);
        if let Some(rest) = self.own_remainder(&parts) {
            if self.round.wanted.insert((self.me, rest.clone(), Some(shard))) {
                self.ask(now, self.me, rest, shard);
            }
            return;
        }
        let sets: Vec<&UnitSet> = parts.iter().map(|entry| &entry.signed.contribution.units).collect();
        let (_, mut left) = disjoint_choice(&self.round.plan.all(), &sets);
        let makers: Vec<(PeerId, UnitSet)> = parts
            .iter()
            .map(|entry| (entry.signed.contribution.peer, entry.signed.contribution.units.clone()))
            .collect();
        for (peer, units) in makers {
            let part: UnitSet = left.iter().filter(|unit| units.contains(*unit)).collect();
            if part.is_empty() {
                continue;
            }
            left = left.difference(&part);
            if self.round.wanted.insert((peer, part.clone(), Some(shard))) {
                self.ask(now, peer, part, shard);
            }
        }
    }

    fn ask(&mut self, now: Time, peer: PeerId, units: UnitSet, shard: u32) {
        if peer == self.me {
            self.shard_wanted(now, peer, units, shard);
        } else {
            self.send(peer, Message::UnitsWanted { from: self.round.from, units, shard: Some(shard) });
        }
    }

    /// A peer asks for a shard of the sum of `units`: of the whole round from an owner, of some units from
    /// whoever is to compute them.
    pub(super) fn shard_wanted(&mut self, now: Time, peer: PeerId, units: UnitSet, shard: u32) {
        if self.round.sharding.get(shard).is_none() {
            return;
        }
        if units == self.round.plan.all() {
            match self.vouched_total(shard) {
                Some(total) => self.offer(peer, &total),
                None => {
                    self.round.sharding.get_mut(shard).map(|known| known.waiting.insert(peer));
                }
            }
            return;
        }
        let mut left = units;
        let pieces = self.round.sharding.get(shard).map(|known| known.pieces_of(&self.me)).unwrap_or_default();
        for piece in &pieces {
            if peer != self.me && piece.contribution.units.is_subset(&left) {
                left = left.difference(&piece.contribution.units);
                self.offer(peer, piece);
            }
        }
        // What is in a sum that is announced already must be summed again, by itself.
        let announced = pieces.iter().fold(UnitSet::new(), |all, piece| all.union(&piece.contribution.units));
        let computed = self.round.computed();
        let again = |unit: &u32| computed.contains(*unit) && (!self.round.sharding.active || announced.contains(*unit));
        let again: UnitSet = left.iter().filter(again).collect();
        left = left.difference(&again);
        if !again.is_empty() {
            self.round.requests.push((peer, again.clone(), Some(shard)));
            self.sum_shards(now, again);
        }
        if !left.is_empty() {
            self.round.sharding.get_mut(shard).map(|known| known.subscribers.insert(peer));
            self.compute_together(now, left);
        }
    }

    /// Has the sum of computed units formed in shards; evaluations have no vector and need no sum.
    pub(super) fn sum_shards(&mut self, now: Time, units: UnitSet) {
        if self.round.has_gradient(&units) {
            self.emit(Effect::Split { from: self.round.from, units });
        } else {
            self.contribute_shards(now, &units, &[]);
        }
    }

    /// Peers were lost: their shards have other owners now, who need this peer's pieces.
    pub(super) fn reroute(&mut self, now: Time) {
        if !self.round.sharding.active {
            return;
        }
        for shard in self.round.sharding.moved() {
            let Some(owner) = self.round.sharding.known_owner(shard) else { continue };
            if owner == self.me {
                self.progress_shard(now, shard);
            } else {
                let pieces = self.round.sharding.get(shard).map(|known| known.pieces_of(&self.me)).unwrap_or_default();
                pieces.iter().for_each(|piece| self.offer(owner, piece));
            }
        }
    }

    /// Whether this peer is to form the total of a shard: it is the owner, or others take it for the owner.
    fn is_responsible(&self, shard: u32) -> bool {
        let owner = self.round.sharding.active && self.round.sharding.known_owner(shard) == Some(self.me);
        let others = |entry: &Entry| entry.signed.contribution.peer != self.me;
        owner || self.round.sharding.get(shard).is_some_and(|known| known.pieces.iter().any(others))
    }

    /// Shards whose total this peer is to form and cannot form yet, with the units that they lack.
    fn lacking_shards(&self) -> Vec<(u32, UnitSet)> {
        let open = |shard: &u32| {
            let known = self.round.sharding.get(*shard);
            known.is_some_and(|known| known.total().is_none() && known.combining.is_none())
        };
        let open = self.round.sharding.indices().filter(open).filter(|shard| self.is_responsible(*shard));
        open.map(|shard| (shard, self.round.missing_in(shard))).filter(|(_, units)| !units.is_empty()).collect()
    }

    /// Units that shards of this peer lack.
    pub(super) fn lacking_units(&self) -> UnitSet {
        self.lacking_shards().iter().fold(UnitSet::new(), |all, (_, units)| all.union(units))
    }

    /// Asks those who owe units by now for what this peer's shards lack.
    pub(super) fn ask_debtors(&mut self, now: Time, orphans: &UnitSet) {
        let mut asks: BTreeMap<(PeerId, u32), UnitSet> = BTreeMap::new();
        for (shard, units) in self.lacking_shards() {
            for unit in units.iter().filter(|unit| orphans.contains(*unit)) {
                if let Some(debtor) = self.round.debtor(unit).filter(|debtor| *debtor != self.me) {
                    asks.entry((debtor, shard)).or_default().insert(unit);
                }
            }
        }
        asks.into_iter().for_each(|((peer, shard), units)| self.ask(now, peer, units, shard));
    }

    /// When to look for what is late, if this peer goes shard by shard: by what is known by then of how long
    /// things take.
    pub(super) fn chase_at(&self) -> Option<Time> {
        let peers = u32::try_from(self.round.sharding.roster.len()).unwrap_or(u32::MAX).max(1);
        let share = self.round.plan.total().div_ceil(peers);
        // What is looked for has come over two hops.
        let wait = self.pace.overdue_after(share, 1) + self.pace.in_flight();
        self.round.sharding.active.then(|| self.round.sharding.chased + wait)
    }

    /// Looks for what is late. Not while somebody is ahead: then the next state exists already and is
    /// fetched.
    pub(super) fn chase(&mut self, now: Time) {
        let due = self.chase_at().is_some_and(|at| at <= now);
        if !due || self.phase != Phase::Working || self.round.applying || self.is_mutated(Mutant::NoBackups) {
            return;
        }
        self.round.sharding.chased = now;
        if !self.ahead(now).is_empty() {
            return;
        }
        let attempt = self.round.sharding.chases;
        self.round.sharding.chases = attempt.saturating_add(1);
        self.take_over_debts(now);
        self.chase_units(now, attempt);
        self.chase_totals(now, attempt);
        let order = ranking(&self.round.sharding.seed, u32::MAX, &self.round.sharding.roster);
        let place = order.iter().position(|peer| *peer == self.me).and_then(|place| u32::try_from(place).ok());
        let alone = place.is_some_and(|place| attempt >= ATTEMPTS_BEFORE_ALONE.saturating_add(place));
        if alone && !self.is_fixed() {
            self.compute_together(now, self.round.plan.all());
        }
    }

    /// Asks for late units: whoever owes them, since its message may be lost, and one more peer each time.
    fn chase_units(&mut self, now: Time, attempt: u32) {
        let mut asks: BTreeMap<(PeerId, u32), UnitSet> = BTreeMap::new();
        let mut mine: BTreeMap<PeerId, UnitSet> = BTreeMap::new();
        let mut backups: BTreeMap<u32, Option<PeerId>> = BTreeMap::new();
        for (shard, units) in self.lacking_shards() {
            for unit in units.iter() {
                let Some(debtor) = self.round.debtor(unit) else { continue };
                let backup = *backups.entry(unit).or_insert_with(|| self.backup(unit, &debtor, attempt));
                for peer in [Some(debtor), backup].into_iter().flatten().filter(|peer| *peer != self.me) {
                    asks.entry((peer, shard)).or_default().insert(unit);
                }
                if backup == Some(self.me) && !self.round.own.contains_key(&unit) {
                    mine.entry(debtor).or_default().insert(unit);
                }
            }
        }
        asks.into_iter().for_each(|((peer, shard), units)| self.ask(now, peer, units, shard));
        for (instead_of, units) in mine {
            let round = self.round.from.round;
            units.iter().for_each(|unit| self.emit(Effect::Record(Event::Backup { round, unit, instead_of })));
            self.compute_together(now, units);
        }
    }

    fn backup(&self, unit: u32, debtor: &PeerId, attempt: u32) -> Option<PeerId> {
        if self.is_fixed() {
            return None;
        }
        let order = ranking(&self.round.from.digest, unit, &self.round.sharding.roster);
        order.into_iter().filter(|peer| peer != debtor).nth(attempt as usize)
    }

    /// Asks owners for late totals, and gives up those that were asked often enough.
    fn chase_totals(&mut self, now: Time, attempt: u32) {
        let all = self.round.plan.all();
        for shard in self.round.sharding.indices() {
            let open = self.round.sharding.get(shard).is_some_and(|known| known.total().is_none());
            let owner = self.round.sharding.known_owner(shard).filter(|owner| open && *owner != self.me);
            let Some(owner) = owner else { continue };
            self.ask(now, owner, all.clone(), shard);
            if attempt >= OWNER_ATTEMPTS && !self.is_fixed() {
                self.round.sharding.dropped.insert(owner);
            }
        }
        self.reroute(now);
    }
}
