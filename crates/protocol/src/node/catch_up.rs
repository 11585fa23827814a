//! Falling behind, joining and diverging: taking a state from others.

use std::collections::BTreeMap;
use std::time::Duration;

use super::io::{Effect, Event, StateMeta};
use super::{Fetching, Node, Phase};
use crate::ids::{Digest, PeerId};
use crate::message::Heartbeat;
use crate::mutant::Mutant;
use crate::state::StateRef;
use crate::time::Time;

/// How long a peer whose newest state could not be had does not count as being ahead: time for others
/// to be asked, and for backups.
pub(super) const DOUBT: Duration = Duration::from_secs(1);

/// Rounds for which the digests of all peers are remembered and compared.
pub(super) const HISTORY_ROUNDS: usize = 8;

impl Node {
    /// Remembers which digest a peer has for a round, and compares it with the own one.
    pub(super) fn observe_state(&mut self, now: Time, peer: PeerId, state: StateRef) {
        // The window is that of the own state: what others claim must not push out what can be compared.
        let (own, span) = (self.state.state.round, HISTORY_ROUNDS as u64);
        let out_of_reach = state.round > own.saturating_add(span) && peer != self.me;
        if out_of_reach || state.round.saturating_add(span) <= own {
            return;
        }
        let digests = self.history.entry(state.round).or_default();
        let news = digests.insert(peer, state.digest) != Some(state.digest);
        // Who has the same can only speak for it. In a crowd that saves a look at everyone for everyone.
        let differs = peer == self.me || digests.get(&self.me) != Some(&state.digest);
        self.history.retain(|round, _| round.saturating_add(span) > own);
        if news && differs {
            self.check_divergence(now, state.round);
        }
    }

    fn check_divergence(&mut self, now: Time, round: u64) {
        let Some(digests) = self.history.get(&round) else { return };
        let Some(&own) = digests.get(&self.me) else { return };
        let Some(peer) = digests.iter().find(|(_, digest)| **digest != own).map(|(peer, _)| *peer) else { return };
        let winner = winner(digests);
        let holders: Vec<PeerId> = digests.iter().filter(|(_, d)| **d == winner).map(|(peer, _)| *peer).collect();
        self.emit(Effect::Record(Event::Divergence { round, own, winner, peer }));
        if winner != own {
            self.fetch_newest(now, &holders);
        }
    }

    /// Starts to catch up if others are ahead: at once by two rounds, and by one round after the
    /// time that messages in flight may take.
    pub(super) fn check_behind(&mut self, now: Time) {
        let busy = self.fetching.is_some() || self.round.applying || self.is_mutated(Mutant::ForgetsToCatchUp);
        if busy || !matches!(self.phase, Phase::Working | Phase::Gathering) {
            return;
        }
        let winners = self.winners_over_this();
        if !winners.is_empty() {
            self.fetch_newest(now, &winners);
            return;
        }
        let ahead = self.ahead(now);
        let Some(most) = ahead.iter().map(|(_, heartbeat)| heartbeat.state.round).max() else {
            self.behind_since = None;
            return;
        };
        let since = *self.behind_since.get_or_insert(now);
        let patience_over = now.since(since) >= self.pace.in_flight();
        if most >= self.state.state.round + 2 || patience_over || self.phase == Phase::Gathering {
            let donors: Vec<PeerId> = ahead.into_iter().map(|(peer, _)| peer).collect();
            self.fetch_newest(now, &donors);
        }
    }

    /// Peers in reach whose state is newer than this one's.
    pub(super) fn ahead(&self, now: Time) -> Vec<(PeerId, Heartbeat)> {
        let usable = self.neighbours.iter().filter(|(_, n)| !n.suspected && n.doubted_until <= now);
        let known = usable.filter_map(|(peer, neighbour)| Some((*peer, neighbour.last?)));
        known.filter(|(_, heartbeat)| heartbeat.state.round > self.state.state.round).collect()
    }

    fn fetch_newest(&mut self, now: Time, holders: &[PeerId]) {
        self.behind_since = Some(now);
        if self.fetching.is_some() {
            return;
        }
        let trusted = |peer: &&PeerId| self.neighbours.get(peer).is_some_and(|n| n.doubted_until <= now);
        let heartbeats =
            holders.iter().filter(trusted).filter_map(|peer| Some((*peer, self.neighbours.get(peer)?.last?)));
        let offers: Vec<(PeerId, Heartbeat)> =
            heartbeats.filter(|(_, offer)| offer.state_bytes <= self.config.max_state_bytes).collect();
        let Some(newest) = offers.iter().map(|(_, offer)| offer.state.round).max() else { return };
        let mut votes = BTreeMap::new();
        let newest_offers = offers.iter().filter(|(_, offer)| offer.state.round == newest);
        newest_offers.for_each(|(peer, offer)| {
            votes.insert(*peer, offer.state.digest);
        });
        let digest = winner(&votes);
        let Some(bytes) = offers.iter().find(|(_, offer)| offer.state.digest == digest).map(|(_, o)| o.state_bytes)
        else {
            return;
        };
        let state = StateRef { round: newest, digest };
        let donors: Vec<PeerId> = votes.into_iter().filter(|(_, d)| *d == digest).map(|(peer, _)| peer).collect();
        self.fetching = Some(Fetching { state, donors: donors.clone() });
        self.emit(Effect::Record(Event::CatchUp { from: self.state.state.round, to: state }));
        self.emit(Effect::FetchState { state, bytes, donors });
    }

    pub(super) fn state_fetched(&mut self, now: Time, meta: StateMeta) {
        if self.fetching.take_if(|fetching| fetching.state == meta.state).is_none() {
            return;
        }
        // The own round may have been applied while the state was under way; going back is right
        // only if the own state is the one that lost a comparison.
        let lost = !self.winners_over_this().is_empty() || self.is_mutated(Mutant::AdoptsAnOlderState);
        if meta.state.round > self.state.state.round || lost {
            self.history.values_mut().for_each(|digests| {
                digests.remove(&self.me);
            });
            self.adopt(now, meta);
            self.broadcast_heartbeat(now);
        }
    }

    pub(super) fn state_unavailable(&mut self, now: Time, state: StateRef) {
        let Some(fetching) = self.fetching.take_if(|fetching| fetching.state == state) else { return };
        // The next heartbeat of another peer, or of these after a while, starts another attempt.
        for donor in fetching.donors {
            if let Some(neighbour) = self.neighbours.get_mut(&donor) {
                neighbour.doubted_until = now + DOUBT;
            }
        }
    }

    /// Waits no longer for a state once all that were asked for it are gone or silent: a download across a
    /// partition would keep this peer from work until it times out.
    pub(super) fn give_up_on_lost_donors(&mut self) {
        let lost = |donor: &PeerId| self.neighbours.get(donor).is_none_or(|neighbour| neighbour.suspected);
        if self.fetching.as_ref().is_some_and(|fetching| fetching.donors.iter().all(lost)) {
            self.fetching = None;
        }
    }

    /// Peers whose state of this peer's round wins against this peer's; empty if none does.
    fn winners_over_this(&self) -> Vec<PeerId> {
        let Some(digests) = self.history.get(&self.state.state.round) else { return Vec::new() };
        let winner = winner(digests);
        if winner == self.state.state.digest {
            return Vec::new();
        }
        digests.iter().filter(|(_, digest)| **digest == winner).map(|(peer, _)| *peer).collect()
    }
}

/// The digest that most peers hold; the smaller one in a tie.
fn winner(digests: &BTreeMap<PeerId, Digest>) -> Digest {
    let mut votes: BTreeMap<Digest, usize> = BTreeMap::new();
    digests.values().for_each(|digest| *votes.entry(*digest).or_default() += 1);
    let most = votes.values().copied().max().unwrap_or(0);
    votes.into_iter().find(|(_, count)| *count == most).map_or(Digest([0; 32]), |(digest, _)| digest)
}
