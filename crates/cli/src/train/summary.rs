//! What a run came to: a table for people, JSON for programs (see docs/train-json.md).

use std::time::Duration;

use peerless_functions::prices::Money;
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::PeerStatus;
use peerless_protocol::{Digest, FinishReason, PeerId, RunId};
use serde::Serialize;

use super::events::Event;
use super::peers::{Exit, Peer};
use super::watch::Watch;
use crate::cost::{self, Bill, Projection};
use crate::lost_work::LostWork;
use crate::output::{Align, percent, table, thousands};
use crate::runs::{self, PeerTotals};

/// Version of the JSON summary; it grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// The summary of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    version: u32,
    run_id: RunId,
    name: String,
    run_dir: String,
    finish_reason: Option<FinishReason>,
    rounds: u64,
    samples: u64,
    train_s: Option<f64>,
    wall_s: f64,
    samples_per_s: Option<f64>,
    test_accuracy: Option<f64>,
    test_loss: Option<f64>,
    state_digest: Option<Digest>,
    fingerprint: Option<Digest>,
    peers: Vec<PeerSummary>,
    functions: Functions,
    cost: Cost,
    lost_work: LostWork,
    memory: Memory,
    bytes_sent: u64,
    events: Vec<Event>,
    #[serde(skip)]
    test_samples: u32,
}

/// One peer, over all its processes.
#[derive(Debug, Serialize)]
struct PeerSummary {
    name: String,
    id: Option<PeerId>,
    pid: Option<u32>,
    state_digest: Option<Digest>,
    rounds: u64,
    contributions: u64,
    backup_units: u64,
    refused: u64,
    exit: String,
}

/// What the run has cost since it began, by the ledgers that can be read.
#[derive(Debug, Default, Serialize)]
struct Cost {
    total_usd: Money,
    functions_usd: Money,
    peers_usd: Money,
    wasted_usd: Money,
    wasted_share: f64,
    budget_usd: Option<Money>,
}

/// The largest resident sets, each of one process.
#[derive(Debug, Default, Serialize)]
struct Memory {
    /// Of the peers in this session.
    peer_bytes: u64,
    /// Of functions since the run began, as far as they say.
    function_bytes: u64,
}

/// The functions of all peers since the run began.
#[derive(Debug, Default, Serialize)]
struct Functions {
    invocations: u64,
    cold_starts: u64,
    failed: u64,
    retried: u64,
    /// Of the peers' last processes.
    hedged: u64,
}

impl Summary {
    /// Sums up a run that has been watched to its end.
    pub(crate) fn new(watch: &Watch, wall: Duration) -> Self {
        let finished: Vec<&PeerStatus> = finished(&watch.peers).collect();
        let spec = watch.run.spec();
        let last = finished.first().copied();
        let rounds = last.map_or(0, |status| status.steps);
        let train_s = train_seconds(watch.training_since, &finished);
        let in_session = rounds.saturating_sub(watch.training_since.map_or(0, |(_, steps)| steps));
        let (peers, functions, function_bytes) = summarise(&watch.peers);
        let peer_bytes = watch.peers.iter().map(|peer| peer.memory.bytes()).max().unwrap_or_default();
        let (cost, lost_work) = by_the_ledgers(watch);
        Self {
            version: VERSION,
            run_id: spec.id(),
            name: name(&watch.run),
            run_dir: watch.run.path().display().to_string(),
            finish_reason: last.and_then(|status| status.finish_reason),
            rounds,
            samples: rounds * spec.samples_per_round(),
            train_s,
            wall_s: wall.as_secs_f64(),
            samples_per_s: train_s.map(|seconds| (in_session * spec.samples_per_round()) as f64 / seconds),
            test_accuracy: last.and_then(|status| status.evaluation).map(|evaluation| evaluation.accuracy),
            test_loss: last.and_then(|status| status.evaluation).map(|evaluation| evaluation.loss),
            state_digest: last.map(|status| status.state_digest),
            fingerprint: last.and_then(|status| status.fingerprint),
            peers,
            functions,
            cost,
            lost_work,
            memory: Memory { peer_bytes, function_bytes },
            bytes_sent: watch.peers.iter().map(Peer::bytes_sent).sum(),
            events: watch.events.clone(),
            test_samples: spec.dataset.test_samples,
        }
    }

    /// Whether all peers that have a final state have the same one.
    pub(crate) fn agrees(&self) -> bool {
        self.finished().all(|peer| peer.state_digest == self.state_digest)
    }

    fn finished(&self) -> impl Iterator<Item = &PeerSummary> {
        let finished = Exit::Finished.to_string();
        self.peers.iter().filter(move |peer| peer.exit == finished)
    }

    /// The summary for people.
    pub(crate) fn text(&self) -> String {
        let reason = match self.finish_reason {
            Some(FinishReason::Rounds) => "all rounds are done",
            Some(FinishReason::Accuracy) => "the accuracy asked for is reached",
            Some(FinishReason::EarlyStopping) => "the test loss stopped falling",
            None => "unknown",
        };
        let mut lines = vec![
            format!("run        {} in {}", self.run_id.short(), self.run_dir),
            format!("rounds     {} with {} samples: {reason}", thousands(self.rounds), thousands(self.samples)),
        ];
        if let (Some(accuracy), Some(loss)) = (self.test_accuracy, self.test_loss) {
            let samples = thousands(self.test_samples.into());
            lines.push(format!("test       accuracy {}, loss {loss:.4} on {samples} samples", percent(accuracy)));
        }
        lines.push(format!("time       {}", self.times()));
        let Functions { invocations, cold_starts, failed, retried, hedged } = self.functions;
        lines.push(format!(
            "functions  {} invocations, {} cold starts, {} failed, {} retried, {} hedged",
            thousands(invocations),
            thousands(cold_starts),
            thousands(failed),
            thousands(retried),
            thousands(hedged)
        ));
        lines.push(format!("lost work  {}", self.lost_work.text()));
        if self.cost.total_usd > Money::ZERO {
            lines.push(format!("cost       {}", self.cost.text()));
        }
        if let Some(digest) = self.state_digest {
            lines.push(format!("state      {digest}"));
            let same = self.finished().filter(|peer| peer.state_digest == self.state_digest).count();
            lines.push(format!("           held by {same} of {} finished peers", self.finished().count()));
        }
        let refused: u64 = self.peers.iter().map(|peer| peer.refused).sum();
        if refused > 0 {
            lines.push(format!("refused    {} messages; `peerless status` says whose", thousands(refused)));
        }
        lines.push(String::new());
        lines.push(self.peer_table());
        lines.join("\n")
    }

    fn times(&self) -> String {
        let wall = format!("{:.1} s in all", self.wall_s);
        match (self.train_s, self.samples_per_s) {
            (Some(train), Some(speed)) => {
                format!("{train:.1} s training, {wall}, {} samples/s", thousands(speed as u64))
            }
            _ => wall,
        }
    }

    fn peer_table(&self) -> String {
        let columns = [
            ("peer", Align::Left),
            ("id", Align::Left),
            ("pid", Align::Right),
            ("rounds", Align::Right),
            ("contributions", Align::Right),
            ("backups", Align::Right),
            ("state", Align::Left),
            ("end", Align::Left),
        ];
        let row = |peer: &PeerSummary| {
            vec![
                peer.name.clone(),
                peer.id.map_or_else(|| "-".into(), |id| id.short()),
                peer.pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
                thousands(peer.rounds),
                thousands(peer.contributions),
                thousands(peer.backup_units),
                peer.state_digest.map_or_else(|| "-".into(), |digest| digest.short()),
                peer.exit.clone(),
            ]
        };
        table(&columns, &self.peers.iter().map(row).collect::<Vec<_>>())
    }
}

impl Cost {
    fn text(&self) -> String {
        let Self { total_usd, functions_usd, peers_usd, wasted_usd, wasted_share, budget_usd } = self;
        let budget = budget_usd.map(|budget| format!(" of a budget of {budget}")).unwrap_or_default();
        let wasted = percent(*wasted_share);
        format!(
            "{total_usd}{budget}: functions {functions_usd} ({wasted_usd} or {wasted} of no use), peers {peers_usd}"
        )
    }
}

fn by_the_ledgers(watch: &Watch) -> (Cost, LostWork) {
    // A summary without a bill is better than none; `peerless cost` says what cannot be read.
    let Ok(reading) = cost::read(&watch.run, &Projection::default()) else { return Default::default() };
    let since_us = watch.events.first().map_or(0, |event| event.at_unix_us);
    let lost_work = LostWork::of(&watch.run, &reading, since_us).unwrap_or_default();
    let total = Bill::of(&reading).total;
    let cost = Cost {
        total_usd: total.total(),
        functions_usd: total.charge.total(),
        peers_usd: total.machine,
        wasted_usd: total.wasted,
        wasted_share: total.wasted_share(),
        budget_usd: watch.budget,
    };
    (cost, lost_work)
}

fn finished(peers: &[Peer]) -> impl Iterator<Item = &PeerStatus> {
    peers.iter().filter(|peer| peer.exit() == Some(Exit::Finished)).filter_map(|peer| peer.status.as_ref())
}

/// From the first round of this session to the first final state.
fn train_seconds(since: Option<(u64, u64)>, finished: &[&PeerStatus]) -> Option<f64> {
    let (start, _) = since?;
    let end = finished.iter().filter_map(|status| status.finished_unix_us).min()?;
    (end > start).then(|| (end - start) as f64 / 1e6)
}

/// The peers, their functions, and the largest resident set of a function.
fn summarise(peers: &[Peer]) -> (Vec<PeerSummary>, Functions, u64) {
    let mut functions = Functions::default();
    let mut memory = 0;
    let mut summaries = Vec::new();
    let server = peers.iter().find(|peer| peer.is_server());
    for peer in peers {
        let mut totals = peer.status.as_ref().map(|status| totals(peer, status)).unwrap_or_default();
        // Workers apply no rounds: what they contributed is in the server's ledger.
        if let (Some(server), Some(status)) = (server, &peer.status) {
            totals.contributions = runs::contributions(&server.directory, &status.peer).unwrap_or_default();
        }
        memory = totals.function_memory.max(memory);
        functions.invocations += totals.invocations;
        functions.cold_starts += totals.cold_starts;
        functions.failed += totals.failed;
        functions.retried += totals.retried;
        let status = peer.status.as_ref();
        functions.hedged += status.map_or(0, |status| status.functions.hedged);
        summaries.push(PeerSummary {
            name: peer.name.clone(),
            id: status.map(|status| status.peer),
            pid: peer.pid(),
            state_digest: status.map(|status| status.state_digest),
            rounds: status.map_or(0, |status| status.steps),
            contributions: totals.contributions,
            backup_units: totals.backup_units,
            refused: totals.refused,
            exit: peer.exit().map_or_else(|| "running".to_owned(), |exit| exit.to_string()),
        });
    }
    (summaries, functions, memory)
}

/// From the ledger, which counts all processes of the peer; where it cannot be read, those of the
/// last process.
fn totals(peer: &Peer, status: &PeerStatus) -> PeerTotals {
    runs::totals(&peer.directory, &status.peer).unwrap_or(PeerTotals {
        contributions: status.contributions,
        backup_units: status.backup_units,
        invocations: status.functions.invocations,
        cold_starts: status.functions.cold_starts,
        failed: status.functions.failed,
        retried: status.functions.retried,
        refused: status.refused,
        function_memory: 0,
    })
}

/// The last part of the run directory's path.
fn name(run: &RunDirectory) -> String {
    let path = run.path();
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}
