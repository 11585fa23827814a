//! Tells in words what the ledgers' events and the lives of processes say: what was lost, who noticed, what the others did
//! about it, and how it came back.

mod incident;

use std::collections::{BTreeMap, BTreeSet};

use peerless_protocol::PeerId;

use super::observation::{Observation, Observations, Seen};
use crate::snapshot::{Peer, PeerCondition, Story, Tone};
use incident::{Incident, Kind, Rounds};

/// Most stories that are told, the newest ones.
const MAX_STORIES: usize = 100;
/// Things of the same kind that are so close, in microseconds, are told as one.
const TOGETHER_US: u64 = 5_000_000;
/// How long after a peer was back its catching up belongs to that, in microseconds.
const AFTERMATH_US: u64 = 30_000_000;
/// How long before its last sign of life a peer may have been lost to others, and how long after its beginning one joins
/// late, in microseconds.
const SLACK_US: u64 = 3_000_000;

/// How far the clocks of two machines may be apart, in microseconds.
const CLOCKS_US: u64 = 250_000;

/// What stories are told from besides observations.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Names of the peers of this machine.
    pub names: BTreeMap<PeerId, String>,
    /// The peers now.
    pub peers: &'a [Peer],
    /// When rounds were done first, by time.
    pub ends: Vec<u64>,
    /// When peers got the final state.
    pub finished: BTreeMap<PeerId, u64>,
    /// Usual time of a round, in microseconds.
    pub usual_us: Option<u64>,
}

impl Scene<'_> {
    fn name(&self, peer: &PeerId) -> String {
        self.names.get(peer).cloned().unwrap_or_else(|| peer.short())
    }

    /// Whether a peer has the final state at that time, or within `slack_us` of it.
    fn has_finished(&self, name: &str, at_us: u64, slack_us: u64) -> bool {
        let id = self.names.iter().find(|(_, known)| *known == name).map(|(id, _)| id);
        id.and_then(|id| self.finished.get(id)).is_some_and(|finished| *finished <= at_us.saturating_add(slack_us))
    }

    /// `peer 3`, or `the parameter server`.
    fn call(&self, name: &str) -> String {
        let server = self.peers.iter().any(|peer| peer.name == name && peer.server);
        if server { "the parameter server".to_owned() } else { format!("peer {name}") }
    }
}

/// The stories of a run, oldest first.
pub fn tell(observations: &Observations, scene: &Scene<'_>) -> Vec<Story> {
    let mut teller = Teller { scene, incidents: Vec::new(), latest: BTreeMap::new(), others: Vec::new() };
    observations.iter().for_each(|observation| teller.hear(observation));
    teller.look_at_lives();
    let told = teller.incidents.iter().map(|incident| incident.story(scene));
    let mut stories: Vec<Story> = told.chain(teller.others).collect();
    stories.sort_by(|one, other| (one.at_us, &one.title).cmp(&(other.at_us, &other.title)));
    let old = stories.len().saturating_sub(MAX_STORIES);
    stories.drain(..old);
    stories
}

struct Teller<'a> {
    scene: &'a Scene<'a>,
    incidents: Vec<Incident>,
    /// The newest incident of each peer.
    latest: BTreeMap<String, usize>,
    others: Vec<Story>,
}

impl Teller<'_> {
    fn hear(&mut self, observation: &Observation) {
        match &observation.seen {
            Seen::Lost(peer) => self.lost(observation, peer, Kind::Lost),
            Seen::Suspected(peer) => self.lost(observation, peer, Kind::Silent),
            Seen::Connected(peer) | Seen::Heard(peer) => self.back(observation, peer),
            Seen::Backup(peer) => self.backup(observation, peer),
            Seen::CatchUp { to, .. } => self.catch_up(observation, *to),
            Seen::Redone(round) => self.redone(observation, *round),
            Seen::UnitFailed { unit, peer, cause } => {
                let at = peer.map(|peer| self.scene.name(&peer)).unwrap_or_else(|| observation.by.clone());
                // All peers hear of it; the one that it failed at is enough.
                if at == observation.by {
                    let title = format!("Unit {unit} failed at {}", self.scene.call(&at));
                    self.note(observation, Tone::Trouble, at, title, format!("Others compute it. Cause: {cause}"));
                }
            }
            Seen::Divergence { round, lost: true } => {
                let title =
                    format!("{} had another state for round {round}", capital(&self.scene.call(&observation.by)));
                let text = "It takes the state that more peers hold. Machines with other numerics are a usual cause.";
                self.note(observation, Tone::Trouble, observation.by.clone(), title, text.to_owned());
            }
            Seen::Divergence { .. } => {}
            Seen::BudgetUsedUp => {
                let title = format!("The budget of {} is used up", self.scene.call(&observation.by));
                let text = "It leaves with a checkpoint; others go on.".to_owned();
                self.note(observation, Tone::Trouble, observation.by.clone(), title, text);
            }
        }
    }

    fn note(&mut self, observation: &Observation, tone: Tone, peer: String, title: String, text: String) {
        let (at_us, round) = (observation.at_us, observation.round);
        self.others.push(Story { at_us, round, tone, peer: Some(peer), title, text });
    }

    fn open(&mut self, name: &str) -> Option<&mut Incident> {
        let index = *self.latest.get(name)?;
        self.incidents.get_mut(index).filter(|incident| incident.back_us.is_none())
    }

    /// The newest incident of a peer if it is over since a while at most.
    fn recent(&mut self, name: &str, at_us: u64, within_us: u64) -> Option<&mut Incident> {
        let index = *self.latest.get(name)?;
        let incident = self.incidents.get_mut(index)?;
        let within_us = if incident.is_interruption() { within_us } else { within_us.min(TOGETHER_US) };
        let recent = incident.back_us.is_none_or(|back| back.saturating_add(within_us) >= at_us);
        recent.then_some(incident)
    }

    fn begin(&mut self, incident: Incident) {
        self.latest.insert(incident.peer.clone(), self.incidents.len());
        self.incidents.push(incident);
    }

    fn lost(&mut self, observation: &Observation, peer: &PeerId, kind: Kind) {
        let (name, at_us, by) = (self.scene.name(peer), observation.at_us, observation.by.clone());
        // At the end everybody says good-bye, once it has the final state; the clocks of two machines differ a little.
        if self.scene.has_finished(&name, at_us, CLOCKS_US) || self.scene.has_finished(&by, at_us, 0) {
            return;
        }
        // Whoever was cut off itself has lost all others from where it stands.
        if self.recent(&by, at_us, SLACK_US).is_some_and(|incident| incident.is_interruption()) {
            return;
        }
        if let Some(incident) = self.open(&name) {
            incident.witnesses.entry(by).or_insert(at_us);
            if kind == Kind::Lost {
                incident.kind = Kind::Lost;
            }
            return;
        }
        let mut incident = Incident::new(kind, name, at_us, observation.round);
        incident.witnesses.insert(by, at_us);
        self.begin(incident);
    }

    fn back(&mut self, observation: &Observation, peer: &PeerId) {
        let name = self.scene.name(peer);
        if let Some(incident) = self.open(&name) {
            incident.back_us = Some(observation.at_us);
        }
    }

    fn backup(&mut self, observation: &Observation, peer: &PeerId) {
        let (name, at_us) = (self.scene.name(peer), observation.at_us);
        if let Some(incident) = self.recent(&name, at_us, TOGETHER_US) {
            incident.backups += 1;
            if let (Kind::Slow, Some(_)) = (incident.kind, incident.back_us) {
                incident.back_us = Some(at_us);
            }
            return;
        }
        let mut incident = Incident::new(Kind::Slow, name, at_us, observation.round);
        (incident.backups, incident.back_us) = (1, Some(at_us));
        self.begin(incident);
    }

    fn catch_up(&mut self, observation: &Observation, to: u64) {
        let (name, at_us) = (observation.by.clone(), observation.at_us);
        if let Some(incident) = self.recent(&name, at_us, AFTERMATH_US) {
            incident.caught_up = incident.caught_up.max(Some(to));
            if incident.kind == Kind::Behind {
                incident.back_us = Some(at_us);
            }
            return;
        }
        let mut incident = Incident::new(Kind::Behind, name, at_us, observation.round);
        (incident.caught_up, incident.back_us) = (Some(to), Some(at_us));
        self.begin(incident);
    }

    fn redone(&mut self, observation: &Observation, round: u64) {
        let at_us = observation.at_us;
        let server = self.scene.peers.iter().find(|peer| peer.server).map(|peer| peer.name.clone());
        for name in server.iter().chain([&observation.by]) {
            if let Some(incident) = self.recent(name, at_us, AFTERMATH_US) {
                Rounds::extend(&mut incident.redone, round);
                if incident.kind == Kind::Redone {
                    incident.back_us = Some(at_us);
                }
                return;
            }
        }
        let mut incident = Incident::new(Kind::Redone, observation.by.clone(), at_us, observation.round);
        incident.back_us = Some(at_us);
        Rounds::extend(&mut incident.redone, round);
        self.begin(incident);
    }

    /// What no other peer was there to see.
    fn look_at_lives(&mut self) {
        let begin = self.scene.peers.iter().filter_map(|peer| peer.lives.first()).map(|life| life.0).min();
        for peer in self.scene.peers {
            for pair in peer.lives.windows(2) {
                self.started_again(peer, pair[0].1, pair[1].0);
            }
            let joined = peer.lives.first().map(|life| life.0);
            if let (Some(at_us), Some(begin)) = (joined, begin)
                && at_us > begin.saturating_add(SLACK_US)
            {
                let title = format!("{} joined", capital(&self.scene.call(&peer.name)));
                let text = format!("{} after the first peer was started.", duration(at_us - begin));
                self.tell_of(peer, at_us, Tone::Note, title, text);
            }
            self.look_at_end(peer);
        }
    }

    fn started_again(&mut self, peer: &Peer, from_us: u64, at_us: u64) {
        let covers = |incident: &&mut Incident| {
            incident.peer == peer.name
                && incident.kind != Kind::Slow
                && incident.at_us.saturating_add(SLACK_US) >= from_us
                && incident.at_us <= at_us
        };
        if let Some(incident) = self.incidents.iter_mut().rev().find(covers) {
            incident.restarted_us = Some(at_us);
            return;
        }
        let title = format!("{} was started again", capital(&self.scene.call(&peer.name)));
        let off = duration(at_us.saturating_sub(from_us));
        let text = format!("It goes on from what it has on disk, {off} after its last record.");
        self.tell_of(peer, at_us, Tone::Recovered, title, text);
    }

    fn look_at_end(&mut self, peer: &Peer) {
        let name = capital(&self.scene.call(&peer.name));
        let at_us = peer.lives.last().map_or(0, |life| life.1);
        let (tone, title, text) = match peer.condition {
            PeerCondition::Dead if self.open(&peer.name).is_none() => {
                let text = "Nobody else was there to notice: this is the time of its last record.";
                (Tone::Trouble, format!("{name} died"), text.to_owned())
            }
            PeerCondition::Failed => {
                let error = peer.error.clone().unwrap_or_else(|| "no reason is known".to_owned());
                (Tone::Trouble, format!("{name} ended with an error"), error)
            }
            PeerCondition::Left => {
                (Tone::Note, format!("{name} left"), "It has written a checkpoint; others go on without it.".to_owned())
            }
            _ => return,
        };
        self.tell_of(peer, at_us, tone, title, text);
    }

    fn tell_of(&mut self, peer: &Peer, at_us: u64, tone: Tone, title: String, text: String) {
        self.others.push(Story { at_us, round: None, tone, peer: Some(peer.name.clone()), title, text });
    }
}

/// With a capital letter, as at the beginning of a sentence.
fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// `35 ms`, `3.2 s`, `4 min 5 s`.
pub fn duration(us: u64) -> String {
    match us {
        0..1_000_000 => format!("{} ms", us.div_ceil(1_000)),
        1_000_000..60_000_000 => format!("{:.1} s", us as f64 / 1e6),
        60_000_000..3_600_000_000 => format!("{} min {} s", us / 60_000_000, us / 1_000_000 % 60),
        _ => format!("{} h {} min", us / 3_600_000_000, us / 60_000_000 % 60),
    }
}

/// `peer 1`, `peers 1 and 3`, `peers 1, 3 and 4`, of a few; the number of more.
fn peers(names: &BTreeSet<&str>) -> String {
    let mut names: Vec<&str> = names.iter().copied().collect();
    names.sort_by_key(|name| (name.parse::<u64>().unwrap_or(u64::MAX), *name));
    match names.as_slice() {
        [] => "nobody".to_owned(),
        ["server"] => "the parameter server".to_owned(),
        [one] => format!("peer {one}"),
        [some @ .., last] if names.len() <= 6 => format!("peers {} and {last}", some.join(", ")),
        _ => format!("{} peers", names.len()),
    }
}
