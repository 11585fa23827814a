//! What a kill -9 of a peer costs the others.

use anyhow::{Context, ensure};
use clap::Args;
use peerless_store::RoundRecord;
use serde::Serialize;

use super::percentile;
use super::run::FinishedRun;
use crate::data;
use crate::output::{self, Align, say, table};

/// Rounds from one kill to the restart of the peer, and from there to the next kill: long enough for
/// the run to be steady again.
const ROUNDS_DEAD: u64 = 15;
const ROUNDS_ALIVE: u64 = 45;
/// Rounds before the first kill.
const ROUNDS_BEFORE: u64 = 40;

#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// Peers of the run
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u64).range(2..=64))]
    peers: u64,
    /// Kills, of one peer after the other; each is restarted before the next kill
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=500))]
    kills: u64,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    peers: u64,
    kills: usize,
    /// Median time between two commits when nothing happens.
    normal_round_ms: f64,
    /// For each kill, the longest time between two commits around it at any surviving peer, less the
    /// normal round.
    gaps_ms: Vec<f64>,
    median_ms: f64,
    p95_ms: f64,
    worst_ms: f64,
    state_digest: serde_json::Value,
}

pub(super) fn run(args: &RecoveryArgs) -> anyhow::Result<()> {
    data::ensure("mnist")?;
    let (flags, rounds) = flags(args);
    say(&format!("training {rounds} rounds with {} peers and {} kills", args.peers, args.kills));
    let run = FinishedRun::train(&flags)?;
    let kills = kills(&run.summary)?;
    ensure!(kills.len() as u64 == args.kills, "only {} of {} kills took place", kills.len(), args.kills);
    let commits = run.rounds()?;
    let normal = normal_round(&commits);
    let gaps: Vec<f64> = kills.iter().map(|kill| (longest_gap(&commits, kill) - normal).max(0.0)).collect();
    let report = Report {
        peers: args.peers,
        kills: gaps.len(),
        normal_round_ms: normal,
        median_ms: percentile(&gaps, 50),
        p95_ms: percentile(&gaps, 95),
        worst_ms: percentile(&gaps, 100),
        gaps_ms: gaps,
        state_digest: run.summary["state_digest"].clone(),
    };
    if args.json { output::json(&report) } else { output::data(&report.text()) }
}

fn flags(args: &RecoveryArgs) -> (Vec<String>, u64) {
    let mut flags = Vec::new();
    let mut round = ROUNDS_BEFORE;
    for kill in 0..args.kills {
        let peer = kill % args.peers + 1;
        flags.extend(["--fault".to_owned(), format!("kill:{peer}@{round}")]);
        flags.extend(["--fault".to_owned(), format!("restart:{peer}@{}", round + ROUNDS_DEAD)]);
        round += ROUNDS_DEAD + ROUNDS_ALIVE;
    }
    let settings = [("--peers", args.peers), ("--rounds", round), ("--evaluate-every", round)];
    flags.extend(settings.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.to_string()]));
    (flags, round)
}

/// A kill that took place.
struct Kill {
    at_us: u64,
    peer: String,
}

fn kills(summary: &serde_json::Value) -> anyhow::Result<Vec<Kill>> {
    let events = summary["events"].as_array().context("the summary has no events")?;
    let is_kill = |event: &&serde_json::Value| {
        let took_place = |detail: &str| detail.starts_with("kill:") && detail.contains("(pid ");
        event["kind"] == "fault" && event["detail"].as_str().is_some_and(took_place)
    };
    let kill = |event: &serde_json::Value| {
        let at_us = event["at_unix_us"].as_u64().context("an event has no time")?;
        let peer = event["peer"].as_str().context("a kill names no peer")?.to_owned();
        Ok(Kill { at_us, peer })
    };
    events.iter().filter(is_kill).map(kill).collect()
}

/// Median time between two commits, in milliseconds. Kills and restarts touch few of them.
fn normal_round(commits: &[(String, Vec<RoundRecord>)]) -> f64 {
    let intervals = commits.iter().flat_map(|(_, rounds)| rounds.windows(2));
    let applied = intervals.filter(|pair| pair[1].round == pair[0].round + 1 && pair[1].training_samples > 0);
    let times: Vec<f64> = applied.map(|pair| (pair[1].at_us.saturating_sub(pair[0].at_us)) as f64 / 1000.0).collect();
    percentile(&times, 50)
}

/// The longest time between two commits, in milliseconds, of which the later one is the first or
/// second after the kill, at any peer that was not killed: the round under way may be hit, or the
/// next one.
fn longest_gap(commits: &[(String, Vec<RoundRecord>)], kill: &Kill) -> f64 {
    let survivors = commits.iter().filter(|(name, _)| *name != kill.peer);
    let gaps = survivors.flat_map(|(_, rounds)| {
        let next = rounds.partition_point(|round| round.at_us <= kill.at_us);
        let around = rounds.get(next.saturating_sub(1)..(next + 2).min(rounds.len())).unwrap_or_default();
        around.windows(2).map(|pair| (pair[1].at_us.saturating_sub(pair[0].at_us)) as f64 / 1000.0)
    });
    gaps.fold(0.0, f64::max)
}

impl Report {
    fn text(&self) -> String {
        let columns = [("kill -9 of a peer: gap beyond the normal round", Align::Left), ("ms", Align::Right)];
        let row = |name: &str, value: f64| vec![name.to_owned(), format!("{value:.1}")];
        let rows = [
            row("median", self.median_ms),
            row("95th percentile", self.p95_ms),
            row("worst", self.worst_ms),
            row("normal round", self.normal_round_ms),
        ];
        format!("{}\n\n{} kills, {} peers", table(&columns, &rows), self.kills, self.peers)
    }
}
