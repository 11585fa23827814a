//! One failure, from its beginning to its end.

use std::collections::BTreeMap;

use super::{Scene, capital, duration, peers};
use crate::snapshot::{PeerCondition, Story, Tone};

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its connections went down.
    Lost,
    /// It said nothing for a while.
    Silent,
    /// Its units came late.
    Slow,
    /// It was behind the others.
    Behind,
    /// It does rounds again.
    Redone,
}

/// Rounds that were done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rounds {
    first: u64,
    last: u64,
}

impl Rounds {
    pub(super) fn extend(rounds: &mut Option<Self>, round: u64) {
        let known = rounds.get_or_insert(Self { first: round, last: round });
        *known = Self { first: known.first.min(round), last: known.last.max(round) };
    }

    fn name(self) -> String {
        let Self { first, last } = self;
        if first == last { format!("Round {first} was") } else { format!("Rounds {first} to {last} were") }
    }
}

/// A failure.
#[derive(Debug)]
pub(super) struct Incident {
    pub(super) kind: Kind,
    pub(super) peer: String,
    pub(super) at_us: u64,
    round: Option<u64>,
    /// Who noticed, and when.
    pub(super) witnesses: BTreeMap<String, u64>,
    /// Its units that others computed as well.
    pub(super) backups: u64,
    pub(super) restarted_us: Option<u64>,
    /// When it was over.
    pub(super) back_us: Option<u64>,
    /// The state that it took from others.
    pub(super) caught_up: Option<u64>,
    pub(super) redone: Option<Rounds>,
}

impl Incident {
    pub(super) fn new(kind: Kind, peer: String, at_us: u64, round: Option<u64>) -> Self {
        Self {
            kind,
            peer,
            at_us,
            round,
            witnesses: BTreeMap::new(),
            backups: 0,
            restarted_us: None,
            back_us: None,
            caught_up: None,
            redone: None,
        }
    }

    pub(super) fn story(&self, scene: &Scene<'_>) -> Story {
        let name = capital(&scene.call(&self.peer));
        let title = match self.kind {
            Kind::Lost => format!("{name} was lost"),
            Kind::Silent => format!("{name} was silent"),
            Kind::Slow => format!("{name} was slow"),
            Kind::Behind => format!("{name} was behind"),
            Kind::Redone => format!("{name} did rounds again"),
        };
        let parts = [
            self.noticed(),
            self.consequence(scene),
            self.pause(scene),
            self.restarted(),
            self.outcome(scene),
            self.repeated(),
        ];
        let text = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
        let (at_us, round, peer) = (self.at_us, self.round, Some(self.peer.clone()));
        Story { at_us, round, tone: self.tone(), peer, title, text }
    }

    fn tone(&self) -> Tone {
        match (self.kind, self.back_us) {
            (Kind::Slow | Kind::Behind, _) => Tone::Note,
            (_, Some(_)) => Tone::Recovered,
            (_, None) => Tone::Trouble,
        }
    }

    pub(super) fn is_interruption(&self) -> bool {
        matches!(self.kind, Kind::Lost | Kind::Silent)
    }

    fn noticed(&self) -> Option<String> {
        let last = self.witnesses.values().max()?;
        let who = capital(&peers(&self.witnesses.keys().map(String::as_str).collect()));
        let span = last.saturating_sub(self.at_us);
        let within = if span > 0 { format!(" within {}", duration(span)) } else { String::new() };
        Some(format!("{who} noticed{within}."))
    }

    fn consequence(&self, scene: &Scene<'_>) -> Option<String> {
        let server = scene.peers.iter().any(|peer| peer.server && peer.name == self.peer);
        let taken = match self.backups {
            0 => None,
            1 => Some("One of its units was computed by another one as well.".to_owned()),
            backups => Some(format!("{backups} of its units were computed by others as well.")),
        };
        match (self.is_interruption(), server) {
            (true, true) => Some("Workers wait for another server.".to_owned()),
            (true, false) => taken.or_else(|| Some("The others share its units.".to_owned())),
            (false, _) => taken,
        }
    }

    /// The longest time without a round that began before the others had got over it.
    fn pause(&self, scene: &Scene<'_>) -> Option<String> {
        let window_us = self.back_us.unwrap_or(u64::MAX).clamp(self.at_us + 1, self.at_us.saturating_add(2_000_000));
        let after = scene.ends.partition_point(|end| *end <= self.at_us);
        if !self.is_interruption() || after == 0 {
            return None;
        }
        let gaps = scene.ends[after - 1..].windows(2).take_while(|pair| pair[0] < window_us);
        let Some(longest) = gaps.map(|pair| pair[1] - pair[0]).max() else {
            return Some("No round was done since.".to_owned());
        };
        let usual = scene.usual_us.map(|us| format!("; {} are usual", duration(us))).unwrap_or_default();
        Some(format!("The longest time without a finished round was {}{usual}.", duration(longest)))
    }

    fn restarted(&self) -> Option<String> {
        let after = duration(self.restarted_us?.saturating_sub(self.at_us));
        Some(format!("Its process was started again after {after}."))
    }

    fn outcome(&self, scene: &Scene<'_>) -> Option<String> {
        let took = self.caught_up.map(|state| format!("took state {state} from others"));
        let back = self.back_us.map(|back| duration(back.saturating_sub(self.at_us)));
        match (self.is_interruption(), back, took) {
            (false, _, took) => took.map(|took| format!("It {took}.")),
            (true, Some(back), Some(took)) => Some(format!("It was back after {back} and {took}.")),
            (true, Some(back), None) => Some(format!("It was back after {back}.")),
            (true, None, _) => {
                let peer = scene.peers.iter().find(|peer| peer.name == self.peer);
                let left = peer.is_some_and(|peer| peer.condition == PeerCondition::Left);
                Some(if left { "It had been asked to leave." } else { "It has not come back." }.to_owned())
            }
        }
    }

    fn repeated(&self) -> Option<String> {
        self.redone.map(|rounds| format!("{} done again.", rounds.name()))
    }
}
