//! What a finished run left: its summary, its ledgers, and what the peers said last.

use std::collections::BTreeMap;

use anyhow::Context;
use peerless_functions::prices::Money;
use peerless_peer::bill::Sessions;
use peerless_peer::local::SERVER;
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::PeerStatus;
use peerless_protocol::{Digest, RunId};
use peerless_store::{Ledger, RoundRecord, RoundTimes, ledger_path};
use serde::Deserialize;

use super::outcome::{Curves, Evaluated, Life, LifeSpan, LifeState, Measured, RoundSplit};

/// Most points of a curve that are kept: more than a chart has pixels.
const MAX_POINTS: usize = 4000;

/// The part of `train --json` that is used here.
#[derive(Debug, Deserialize)]
pub(crate) struct Summary {
    run_id: RunId,
    run_dir: std::path::PathBuf,
    rounds: u64,
    train_s: Option<f64>,
    samples_per_s: Option<f64>,
    test_accuracy: Option<f64>,
    state_digest: Option<Digest>,
    functions: Functions,
    cost: Cost,
    lost_work: Lost,
    memory: Memory,
    bytes_sent: u64,
    events: Vec<Event>,
}

#[derive(Debug, Deserialize)]
struct Functions {
    invocations: u64,
}

#[derive(Debug, Deserialize)]
struct Cost {
    functions_usd: Money,
    peers_usd: Money,
    wasted_usd: Money,
}

#[derive(Debug, Deserialize)]
struct Lost {
    rounds_redone: u64,
    samples_recomputed: u64,
    stalled_s: f64,
}

#[derive(Debug, Deserialize)]
struct Memory {
    peer_bytes: u64,
    function_bytes: u64,
}

#[derive(Debug, Deserialize)]
struct Event {
    at_unix_us: u64,
    kind: String,
    peer: Option<String>,
    detail: String,
}

/// One peer's ledger, and what its process said last.
struct Peer {
    name: String,
    rounds: Vec<RoundRecord>,
    /// Rounds that were applied again, with when they were before.
    redone: Vec<(u64, u64)>,
    /// For the server: the longest time that a contributor's units took, by round.
    elapsed_us: BTreeMap<u64, u64>,
    training_since_us: Option<u64>,
    charges: Charges,
}

/// What a peer has cost by when.
#[derive(Debug, Default)]
struct Charges {
    /// When an invocation ended, and what it cost in dollars.
    invocations: Vec<(u64, f64)>,
    /// From when to when a process lived, and what it cost.
    sessions: Vec<(u64, u64, f64)>,
}

/// Reads all that a comparison needs of a run; `target` is the accuracy whose time is measured.
pub(crate) fn measured(summary: &Summary, target: Option<f64>) -> anyhow::Result<Measured> {
    let run = RunDirectory::open(&summary.run_dir)?;
    let mut peers = Vec::new();
    for (name, directory) in run.peers()? {
        peers.push(Peer::read(name, &directory).with_context(|| format!("peer in {}", directory.display()))?);
    }
    let curves = curves(summary, &peers);
    let reached = |at: &&Evaluated| target.is_some_and(|target| at.accuracy >= target);
    Ok(Measured {
        run_id: Some(summary.run_id),
        state_digest: summary.state_digest,
        rounds: summary.rounds,
        test_accuracy: summary.test_accuracy,
        train_s: summary.train_s.unwrap_or_default(),
        target_s: curves.evaluations.iter().find(reached).map(|evaluated| evaluated.at_s),
        samples_per_s: summary.samples_per_s.unwrap_or_default(),
        rounds_redone: summary.lost_work.rounds_redone,
        stalled_s: summary.lost_work.stalled_s,
        samples_recomputed: summary.lost_work.samples_recomputed,
        invocations: summary.functions.invocations,
        functions_usd: dollars(summary.cost.functions_usd),
        peers_usd: dollars(summary.cost.peers_usd),
        wasted_usd: dollars(summary.cost.wasted_usd),
        peer_memory: summary.memory.peer_bytes,
        function_memory: summary.memory.function_bytes,
        bytes_sent: summary.bytes_sent,
        curves,
    })
}

fn dollars(money: Money) -> f64 {
    money.decimal(12).parse().unwrap_or_default()
}

impl Peer {
    fn read(name: String, directory: &std::path::Path) -> anyhow::Result<Self> {
        let ledger = Ledger::open_read_only(&ledger_path(directory))?;
        let rounds = ledger.rounds(0, u32::MAX)?;
        let mut elapsed_us: BTreeMap<u64, u64> = BTreeMap::new();
        if name == SERVER {
            let end = rounds.last().map_or(0, |round| round.round + 1);
            for contribution in ledger.contributions(0, end)?.into_iter().filter(|contribution| contribution.accepted) {
                let elapsed = contribution.proof.map_or(0, |proof| proof.elapsed_us);
                let longest = elapsed_us.entry(contribution.round).or_default();
                *longest = elapsed.max(*longest);
            }
        }
        let status = PeerStatus::read(directory)?;
        Ok(Self {
            name,
            redone: ledger.rounds_redone()?,
            elapsed_us,
            training_since_us: status.and_then(|status| status.training_since_unix_us),
            charges: Charges::read(&ledger)?,
            rounds,
        })
    }

    /// When it began to train. What a process says is gone with it: the first round of all is older where all have been
    /// started again, and began as long before its end as it took when it was done last.
    fn began(&self) -> Option<u64> {
        let first = self.applied().first().map(|&(at_us, number)| {
            let record = self.rounds.iter().find(|record| record.round == number);
            at_us.saturating_sub(record.map_or(0, |record| duration_us(&record.times)))
        });
        first.into_iter().chain(self.training_since_us).min()
    }

    /// When this peer applied which round, in the order of time.
    fn applied(&self) -> Vec<(u64, u64)> {
        let last = self.rounds.iter().map(|round| (round.at_us, round.round));
        let mut applied: Vec<(u64, u64)> =
            last.chain(self.redone.iter().map(|&(round, at_us)| (at_us, round))).collect();
        applied.sort_unstable();
        applied
    }
}

fn duration_us(times: &RoundTimes) -> u64 {
    let RoundTimes { compute_us, sum_us, transfer_us, update_us, digest_us, wait_us } = times;
    compute_us + sum_us + transfer_us + update_us + digest_us + wait_us
}

impl Charges {
    fn read(ledger: &Ledger) -> anyhow::Result<Self> {
        let sessions = Sessions::read(ledger)?;
        let mut invocations = Vec::new();
        ledger.visit_invocations(|record| {
            let ended = record.started_at_us.saturating_add(record.duration_us);
            invocations.push((ended, dollars(sessions.charge(&record).total())));
        })?;
        let exchanged = sessions.exchanged(ledger)?;
        invocations.extend(exchanged.iter().map(|exchanged| (exchanged.at_us, dollars(exchanged.cost))));
        let session = |session: &peerless_peer::bill::Session| {
            let cost = dollars(session.tariff.machine_time(session.length_us()));
            (session.started_at_us, session.last_at_us, cost)
        };
        Ok(Self { invocations, sessions: sessions.all().iter().map(session).collect() })
    }

    /// What was spent until then, in dollars.
    fn until(&self, at_us: u64) -> f64 {
        let invocations = self.invocations.iter().filter(|(ended, _)| *ended <= at_us).map(|(_, usd)| usd);
        let sessions = self.sessions.iter().map(|&(from, to, usd)| {
            let lasted = at_us.clamp(from, to.max(from)) - from;
            usd * lasted as f64 / to.saturating_sub(from).max(1) as f64
        });
        invocations.sum::<f64>() + sessions.sum::<f64>()
    }
}

/// Who tells how the run went: the server, or the peer that applied the most rounds.
fn reference(peers: &[Peer]) -> Option<&Peer> {
    let server = peers.iter().find(|peer| peer.name == SERVER);
    server.or_else(|| peers.iter().max_by_key(|peer| peer.rounds.len()))
}

fn curves(summary: &Summary, peers: &[Peer]) -> Curves {
    let start_us = peers
        .iter()
        .filter_map(Peer::began)
        .min()
        .or_else(|| summary.events.first().map(|event| event.at_unix_us))
        .unwrap_or_default();
    let seconds = |at_us: u64| (at_us as f64 - start_us as f64) / 1e6;
    let progress = progress(peers);
    let end_us = progress.last().map_or(start_us, |&(at_us, _)| at_us);
    let faults = summary.events.iter().filter(|event| event.kind == "fault");
    let label = |event: &Event| event.detail.split(" (").next().unwrap_or_default().to_owned();
    let every = progress.len().div_ceil(MAX_POINTS).max(1);
    Curves {
        evaluations: evaluations(peers, seconds),
        // The first one and the last one are kept in any case.
        progress: progress.iter().rev().step_by(every).rev().map(|&(at_us, round)| (seconds(at_us), round)).collect(),
        faults: faults.map(|event| (seconds(event.at_unix_us), label(event))).collect(),
        lives: lives(summary, &progress, end_us, seconds),
        split: reference(peers).map(split).unwrap_or_default(),
    }
}

/// Rounds as the run got on: with a server as that one applied them, and as any peer did where all have done rounds again;
/// else the first that applied each.
fn progress(peers: &[Peer]) -> Vec<(u64, u64)> {
    if let Some(server) = peers.iter().find(|peer| peer.name == SERVER) {
        return server.applied();
    }
    if let Some(peer) = peers.first().filter(|_| peers.iter().all(|peer| !peer.redone.is_empty())) {
        return peer.applied();
    }
    let mut applied: Vec<(u64, u64)> = peers.iter().flat_map(Peer::applied).collect();
    applied.sort_unstable();
    let mut newest = None;
    applied.retain(|&(_, round)| {
        let further = newest.is_none_or(|newest| round > newest);
        newest = newest.max(Some(round));
        further
    });
    applied
}

fn evaluations(peers: &[Peer], seconds: impl Fn(u64) -> f64) -> Vec<Evaluated> {
    let mut first: BTreeMap<u64, (u64, f64)> = BTreeMap::new();
    for round in peers.iter().flat_map(|peer| &peer.rounds) {
        let Some(evaluation) = round.evaluation.filter(|evaluation| evaluation.samples > 0) else { continue };
        let accuracy = evaluation.correct as f64 / evaluation.samples as f64;
        let known = first.entry(round.round).or_insert((round.at_us, accuracy));
        known.0 = known.0.min(round.at_us);
    }
    let evaluated = |&(at_us, accuracy): &(u64, f64)| {
        let spent_usd = peers.iter().map(|peer| peer.charges.until(at_us)).sum();
        Evaluated { at_s: seconds(at_us), spent_usd, accuracy }
    };
    first.values().map(evaluated).collect()
}

/// From the events: processes that start and end, and faults that stop them.
fn lives(summary: &Summary, progress: &[(u64, u64)], end_us: u64, seconds: impl Fn(u64) -> f64) -> Vec<Life> {
    let mut changes: BTreeMap<&str, Vec<(u64, LifeState)>> = BTreeMap::new();
    for event in &summary.events {
        let Some(peer) = event.peer.as_deref() else { continue };
        let changes = changes.entry(peer).or_default();
        let again = !changes.is_empty();
        let state = match (event.kind.as_str(), event.detail.split(':').next()) {
            ("peer-started" | "peer-attached", _) if again => LifeState::CatchingUp,
            ("peer-started" | "peer-attached", _) | ("fault", Some("cont")) => LifeState::Alive,
            ("peer-died" | "peer-left", _) => LifeState::Dead,
            ("peer-finished", _) => LifeState::Finished,
            ("fault", Some("stop" | "slow")) => LifeState::Stopped,
            _ => continue,
        };
        changes.push((event.at_unix_us, state));
        if state == LifeState::CatchingUp {
            changes.extend(caught_up(progress, event.at_unix_us).map(|at_us| (at_us, LifeState::Alive)));
        }
    }
    let life = |(peer, mut changes): (&str, Vec<(u64, LifeState)>)| {
        changes.sort_by_key(|&(at_us, _)| at_us);
        let last = changes.last().map_or(end_us, |&(at_us, _)| at_us).max(end_us);
        let ends = changes.iter().skip(1).map(|&(at_us, _)| at_us).chain([last]);
        let spans = changes.iter().zip(ends).map(|(&(from, state), to)| LifeSpan {
            from_s: seconds(from),
            to_s: seconds(to),
            state,
        });
        Life { peer: peer.to_owned(), spans: spans.filter(|span| span.to_s > span.from_s).collect() }
    };
    changes.into_iter().map(life).collect()
}

/// When the run was further than it had been before this time.
fn caught_up(progress: &[(u64, u64)], since_us: u64) -> Option<u64> {
    let before = progress.iter().filter(|(at_us, _)| *at_us <= since_us).map(|&(_, round)| round).max();
    progress.iter().find(|&&(at_us, round)| at_us > since_us && Some(round) > before).map(|&(at_us, _)| at_us)
}

/// A server computes nothing, and waits for what the slowest worker computes: that part of its waiting is computing.
fn split(peer: &Peer) -> RoundSplit {
    let training: Vec<&RoundRecord> = peer.rounds.iter().filter(|round| round.training_samples > 0).collect();
    let mean = |of: &dyn Fn(&RoundRecord) -> u64| {
        training.iter().map(|round| of(round)).sum::<u64>() as f64 / training.len().max(1) as f64 / 1000.0
    };
    let elsewhere = |round: &RoundRecord| {
        let elapsed = peer.elapsed_us.get(&round.round).copied().unwrap_or_default();
        elapsed.min(round.times.wait_us)
    };
    RoundSplit {
        compute_ms: mean(&|round| round.times.compute_us + elsewhere(round)),
        sum_ms: mean(&|round| round.times.sum_us),
        transfer_ms: mean(&|round| round.times.transfer_us),
        update_ms: mean(&|round| round.times.update_us),
        digest_ms: mean(&|round| round.times.digest_us),
        wait_ms: mean(&|round| round.times.wait_us - elsewhere(round)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spending_grows_with_calls_and_with_time() {
        let charges = Charges { invocations: vec![(10, 1.0), (30, 2.0)], sessions: vec![(0, 100, 10.0)] };
        assert_eq!([0, 10, 50, 1000].map(|at| charges.until(at)), [0.0, 2.0, 8.0, 13.0]);
    }

    #[test]
    fn a_run_whose_processes_were_all_started_again_began_with_its_first_round() {
        let round = |number, at_us| RoundRecord {
            round: number,
            at_us,
            state_digest: Digest::of(b""),
            training_samples: 1,
            training_correct: 0,
            training_loss: None,
            evaluation: None,
            times: RoundTimes { compute_us: 900, wait_us: 100, ..RoundTimes::default() },
            units_computed: 1,
            backup_units: 0,
        };
        let peer = Peer {
            name: "1".into(),
            rounds: vec![round(0, 6000), round(1, 7000)],
            redone: vec![(0, 2000), (1, 3000)],
            elapsed_us: BTreeMap::new(),
            training_since_us: Some(5000),
            charges: Charges::default(),
        };
        assert_eq!(peer.began(), Some(1000));
        assert_eq!(progress(&[peer]), [(2000, 0), (3000, 1), (6000, 0), (7000, 1)]);
    }

    #[test]
    fn a_server_that_came_back_catches_up_until_it_is_further_than_ever() {
        let progress = [(1, 0), (2, 1), (3, 2), (10, 1), (11, 2), (12, 3)];
        assert_eq!(caught_up(&progress, 8), Some(12));
        assert_eq!(caught_up(&progress[..5], 8), None);
    }

    #[test]
    fn a_life_is_made_of_starts_deaths_and_faults() {
        let event = |at_unix_us, kind: &str, peer: &str, detail: &str| Event {
            at_unix_us,
            kind: kind.into(),
            peer: Some(peer.into()),
            detail: detail.into(),
        };
        let events = vec![
            event(0, "peer-started", "server", "pid 1"),
            event(0, "peer-started", "1", "pid 2"),
            event(2_000_000, "fault", "1", "stop:1@3 (pid 2)"),
            event(3_000_000, "fault", "1", "cont:1@3 (pid 2)"),
            event(4_000_000, "peer-died", "server", "killed"),
            event(6_000_000, "peer-started", "server", "pid 3"),
            event(9_000_000, "peer-finished", "server", "finished"),
        ];
        let summary: Summary = serde_json::from_value(serde_json::json!({
            "run_id": Digest::of(b""), "run_dir": "", "rounds": 4, "functions": {"invocations": 0},
            "cost": {"functions_usd": "0", "peers_usd": "0", "wasted_usd": "0"},
            "lost_work": {"rounds_redone": 0, "samples_recomputed": 0, "stalled_s": 0.0},
            "memory": {"peer_bytes": 0, "function_bytes": 0}, "bytes_sent": 0, "events": []
        }))
        .unwrap();
        let progress = [(3_000_000, 1), (7_000_000, 1), (8_000_000, 2)];
        let lives = lives(&Summary { events, ..summary }, &progress, 9_500_000, |us| us as f64 / 1e6);
        let spans = |index: usize| lives[index].spans.iter().map(|span| (span.from_s, span.state)).collect::<Vec<_>>();
        use LifeState::{Alive, CatchingUp, Dead, Finished, Stopped};
        assert_eq!(spans(0), [(0.0, Alive), (2.0, Stopped), (3.0, Alive)]);
        assert_eq!(spans(1), [(0.0, Alive), (4.0, Dead), (6.0, CatchingUp), (8.0, Alive), (9.0, Finished)]);
    }
}
