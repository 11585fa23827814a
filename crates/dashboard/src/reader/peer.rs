//! What is known of one peer, from its status and its ledger.

use std::collections::BTreeMap;
use std::path::Path;

use peerless_functions::prices::Money;
use peerless_peer::local::{LocalPeer, PEER_COMMAND, SERVER};
use peerless_peer::process::is_alive;
use peerless_peer::status::{PeerStatus, Phase};
use peerless_peer::tail::{LedgerTail, Limits, News, TailError};
use peerless_peer::waste::Fate;
use peerless_protocol::PeerId;
use peerless_store::{InvocationRecord, RoundTimes};

use crate::snapshot::{Peer, PeerCondition, Times};

/// Rounds that the split of a round's time is a mean over.
const TIMED_ROUNDS: usize = 50;
/// Rounds behind the newest state from which on a peer is catching up. One behind is usual, and two for a moment.
const BEHIND: u64 = 3;
/// How long a peer may say nothing while others go on, in microseconds: an evaluation takes less.
const SILENCE_US: u64 = 3_000_000;

/// What is known of one peer.
#[derive(Debug, Default)]
pub struct PeerReader {
    /// Its number, in the order in which peers were seen first.
    pub number: usize,
    tail: LedgerTail,
    /// What it said last; kept when it cannot be read any more.
    pub status: Option<PeerStatus>,
    /// Whether its process lives.
    pub alive: bool,
    /// Its key, known from the first status on.
    pub id: Option<PeerId>,
    /// Lives of its process.
    pub lives: Vec<(u64, u64)>,
    machine: Money,
    exchange: Money,
    refused: u64,
    rounds_applied: u64,
    units: u64,
    backup_units: u64,
    newest: BTreeMap<u64, RoundTimes>,
}

impl PeerReader {
    /// A peer that nothing is known of.
    pub fn new(number: usize) -> Self {
        Self { number, ..Self::default() }
    }

    /// Takes in what the peer says about itself; whether it can be read. If not, what it said before stays.
    pub fn look(&mut self, peer: LocalPeer) -> bool {
        let Some(status) = peer.status else {
            self.alive = self.status.as_ref().is_some_and(|known| is_alive(known.pid, PEER_COMMAND));
            return self.status.is_none();
        };
        self.alive = peer.alive;
        self.id = Some(status.peer);
        self.status = Some(status);
        true
    }

    /// Reads on in its ledger, at most `limit` records of a kind.
    pub fn read_ledger(&mut self, directory: &Path, limit: u32) -> Result<News, TailError> {
        let news = self.tail.read(directory, Limits::each(limit))?;
        self.lives = news.sessions.all().iter().map(|session| (session.started_at_us, session.last_at_us)).collect();
        self.machine = news.sessions.machine_time();
        self.exchange += news.events.iter().filter_map(|event| Some(news.sessions.exchange(event)?.cost)).sum();
        self.refused = news.refused;
        // Not from the rounds: workers of a parameter server apply none.
        let computed = |record: &&InvocationRecord| record.unit.is_some() && Fate::of(&record.outcome) == Fate::Used;
        self.units += news.invocations.iter().filter(computed).count() as u64;
        for round in &news.rounds {
            self.rounds_applied += 1;
            self.backup_units += u64::from(round.backup_units);
            self.newest.insert(round.round, round.times);
            if self.newest.len() > TIMED_ROUNDS {
                self.newest.pop_first();
            }
        }
        Ok(news)
    }

    /// What its machine cost, and what it asked of a bucket for the exchange of sums.
    pub fn cost(&self) -> Money {
        self.machine + self.exchange
    }

    /// Where the peer is in its life, when the most advanced one is at `front` and spoke at `spoken_us`.
    fn condition(&self, front: u64, spoken_us: u64) -> PeerCondition {
        let Some(status) = &self.status else { return PeerCondition::Waiting };
        let silent = spoken_us.saturating_sub(status.updated_unix_us) > SILENCE_US;
        match status.phase {
            Phase::Finished => PeerCondition::Finished,
            Phase::Left => PeerCondition::Left,
            Phase::Failed => PeerCondition::Failed,
            Phase::Starting | Phase::Training if !self.alive => PeerCondition::Dead,
            Phase::Starting => PeerCondition::Starting,
            Phase::Training if silent => PeerCondition::Silent,
            Phase::Training if status.round.saturating_add(BEHIND) <= front => PeerCondition::CatchingUp,
            Phase::Training => PeerCondition::Training,
        }
    }

    /// The peer for the snapshot.
    pub fn view(&self, name: &str, front: u64, spoken_us: u64, now_us: u64) -> Peer {
        let status = self.status.as_ref();
        let condition = self.condition(front, spoken_us);
        let processes = status.map(|status| status.functions.processes.as_slice()).unwrap_or_default();
        let processes = if self.alive { processes } else { &[] };
        let moved = status.and_then(|status| status.functions.data_path.as_ref());
        Peer {
            name: name.to_owned(),
            id: self.id,
            server: name == SERVER,
            condition,
            pid: status.map(|status| status.pid),
            steps: status.map_or(0, |status| status.steps),
            round: status.map_or(0, |status| status.round),
            neighbours: status.filter(|_| self.alive).map_or(0, |status| status.neighbours),
            functions_busy: processes.iter().filter(|function| function.busy).count(),
            functions: processes.len(),
            rounds_applied: self.rounds_applied,
            units: self.units,
            backup_units: self.backup_units,
            refused: self.refused,
            divergences: status.map_or(0, |status| status.divergences),
            data_path_bytes: moved.map(|moved| (moved.bytes_in, moved.bytes_out)),
            error: status.and_then(|status| status.error.clone()),
            age_s: status.map(|status| now_us.saturating_sub(status.updated_unix_us) as f64 / 1e6),
            lives: self.lives(condition, now_us),
            times: self.times(),
        }
    }

    /// A process that lives goes on to now, whenever it wrote last.
    fn lives(&self, condition: PeerCondition, now_us: u64) -> Vec<(u64, u64)> {
        let mut lives = self.lives.clone();
        if let Some(last) = lives.last_mut().filter(|_| condition.is_live()) {
            last.1 = last.1.max(now_us);
        }
        lives
    }

    fn times(&self) -> Option<Times> {
        let rounds = self.newest.len();
        let mean = |of: fn(&RoundTimes) -> u64| {
            self.newest.values().map(of).map(|us| us as f64).sum::<f64>() / rounds.max(1) as f64 / 1e3
        };
        (rounds > 0).then(|| Times {
            rounds: rounds as u64,
            compute_ms: mean(|times| times.compute_us),
            sum_ms: mean(|times| times.sum_us),
            transfer_ms: mean(|times| times.transfer_us),
            update_ms: mean(|times| times.update_us),
            digest_ms: mean(|times| times.digest_us),
            wait_ms: mean(|times| times.wait_us),
        })
    }
}
