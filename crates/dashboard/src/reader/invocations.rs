//! Totals over the invocations of all peers.

use std::collections::BTreeMap;

use peerless_functions::prices::Money;
use peerless_peer::tail::News;
use peerless_peer::waste::{Fate, FirstResults};

use crate::snapshot::{Functions, Peer};

/// Units whose first result is remembered: what is computed again is computed again soon.
const REMEMBERED_UNITS: usize = 100_000;
/// Outcomes that are told apart; there are about ten.
const MAX_OUTCOMES: usize = 32;

/// What an invocation took.
#[derive(Debug, Clone, Copy)]
struct Effort {
    ledger: usize,
    cost: Money,
    us: u64,
}

/// Totals of one ledger.
#[derive(Debug, Default)]
struct Totals {
    outcomes: BTreeMap<String, u64>,
    invocations: u64,
    cold_starts: u64,
    failed: u64,
    retried: u64,
    discarded: u64,
    repeated: u64,
    us: u64,
    wasted_us: u64,
    cost: Money,
    wasted: Money,
}

/// Totals over the invocations of all peers.
#[derive(Debug)]
pub struct Invocations {
    ledgers: BTreeMap<usize, Totals>,
    first: FirstResults<Effort>,
}

impl Default for Invocations {
    fn default() -> Self {
        Self { ledgers: BTreeMap::new(), first: FirstResults::with_limit(REMEMBERED_UNITS) }
    }
}

impl Invocations {
    /// Takes in what is new in a ledger.
    pub fn add(&mut self, ledger: usize, news: &News) {
        for record in &news.invocations {
            let fate = Fate::of(&record.outcome);
            let effort = Effort { ledger, cost: news.sessions.charge(record).total(), us: record.duration_us };
            let totals = self.ledgers.entry(ledger).or_default();
            if totals.outcomes.len() < MAX_OUTCOMES || totals.outcomes.contains_key(&record.outcome) {
                *totals.outcomes.entry(record.outcome.clone()).or_default() += 1;
            }
            totals.invocations += 1;
            totals.cold_starts += u64::from(record.cold);
            totals.retried += u64::from(record.attempt > 1);
            totals.failed += u64::from(fate == Fate::Failed);
            totals.discarded += u64::from(fate == Fate::Discarded);
            totals.us += effort.us;
            totals.cost += effort.cost;
            let ended = record.started_at_us.saturating_add(record.duration_us);
            let useless = match (fate, record.round.zip(record.unit)) {
                (Fate::Used, Some(unit)) => self.first.add(unit, ended, effort),
                (Fate::Used, None) => None,
                _ => Some(effort),
            };
            let Some(useless) = useless else { continue };
            let totals = self.ledgers.entry(useless.ledger).or_default();
            totals.repeated += u64::from(fate == Fate::Used);
            totals.wasted_us += useless.us;
            totals.wasted += useless.cost;
        }
    }

    /// What all invocations cost.
    pub fn cost(&self) -> Money {
        self.ledgers.values().map(|totals| totals.cost).sum()
    }

    /// What those cost that were of no use.
    pub fn wasted(&self) -> Money {
        self.ledgers.values().map(|totals| totals.wasted).sum()
    }

    /// The functions for the snapshot.
    pub fn view(&self, peers: &[Peer]) -> Functions {
        let sum = |of: fn(&Totals) -> u64| self.ledgers.values().map(of).sum::<u64>();
        let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
        for (outcome, times) in self.ledgers.values().flat_map(|totals| &totals.outcomes) {
            *outcomes.entry(outcome).or_default() += times;
        }
        let busy = peers.iter().map(|peer| peer.functions_busy).sum();
        Functions {
            busy,
            idle: peers.iter().map(|peer| peer.functions).sum::<usize>().saturating_sub(busy),
            outcomes: outcomes.into_iter().map(|(outcome, times)| (outcome.to_owned(), times)).collect(),
            invocations: sum(|totals| totals.invocations),
            cold_starts: sum(|totals| totals.cold_starts),
            failed: sum(|totals| totals.failed),
            retried: sum(|totals| totals.retried),
            discarded: sum(|totals| totals.discarded),
            repeated: sum(|totals| totals.repeated),
            function_s: sum(|totals| totals.us) as f64 / 1e6,
            wasted_s: sum(|totals| totals.wasted_us) as f64 / 1e6,
        }
    }
}
