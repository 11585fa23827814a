//! `peerless simulate`: the protocol under virtual time, with faults, from seeds.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use clap::Args;
use peerless_simulation::{Campaign, PerRound, Quantiles, Report, Scenario, Span, run_seed, timeline};
use serde_json::{Value, json};

use crate::failure::{advised, code};
use crate::output::{self, Align, say, table, thousands};

const EXAMPLES: &str = "\
Examples:
  peerless simulate                                     1,000 seeds of every kind of fault, 2 to 16 peers
  peerless simulate --seeds 10000                       the long mode
  peerless simulate --scenario partitions --peers 8
  peerless simulate --scenario scale --peers 100 --seeds 3
  peerless simulate --scenario my.toml                  a scenario of your own; see docs/simulation.md
  peerless simulate --scenario mixed --replay 42        what happened in seed 42, line by line
  peerless simulate --list                              the built-in scenarios";

/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SimulateArgs {
    /// Peers at the start: a number, or a range such as 2..16 of which each seed draws one
    #[arg(long, value_name = "N|FROM..TO")]
    peers: Option<Span>,
    /// Seeds to run
    #[arg(long, default_value = "1000", value_name = "N")]
    seeds: NonZeroU64,
    /// The first seed
    #[arg(long, default_value = "0", value_name = "SEED")]
    first_seed: u64,
    /// A built-in scenario or a TOML file
    #[arg(long, default_value = "mixed", value_name = "NAME|FILE")]
    scenario: String,
    /// Print what happened in one seed, in the order of virtual time
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "first_seed", "jobs"])]
    replay: Option<u64>,
    /// List the built-in scenarios
    #[arg(long, conflicts_with_all = ["replay", "seeds", "first_seed", "peers", "jobs"])]
    list: bool,
    /// Threads; as many as the machine has without it
    #[arg(long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &SimulateArgs) -> anyhow::Result<()> {
    if args.list {
        return list(args.json);
    }
    let scenario = Scenario::load(&args.scenario)?;
    let scenario = match args.peers {
        Some(peers) => scenario.with_peers(peers)?,
        None => scenario,
    };
    match args.replay {
        Some(seed) => replay(args, &scenario, seed),
        None => campaign(args, scenario),
    }
}

fn list(json: bool) -> anyhow::Result<()> {
    let scenarios = Scenario::built_in()?;
    if json {
        let one = |s: &Scenario| json!({ "name": s.name, "about": s.about, "peers": s.peers.to_string() });
        return output::json(&scenarios.iter().map(one).collect::<Vec<_>>());
    }
    let columns = [("scenario", Align::Left), ("peers", Align::Left), ("what it is", Align::Left)];
    let row = |s: &Scenario| vec![s.name.clone(), s.peers.to_string(), s.about.clone()];
    output::data(&table(&columns, &scenarios.iter().map(row).collect::<Vec<_>>()))
}

/// The line that shows a seed again.
fn replay_command(args: &SimulateArgs, seed: u64) -> String {
    let peers = args.peers.map(|peers| format!(" --peers {peers}")).unwrap_or_default();
    format!("peerless simulate --scenario {}{peers} --replay {seed}", args.scenario)
}

fn replay(args: &SimulateArgs, scenario: &Scenario, seed: u64) -> anyhow::Result<()> {
    let run = run_seed(scenario, seed, |setup| setup.record = true);
    let outcome = &run.outcome;
    if args.json {
        let line = |line: &peerless_simulation::Line| json!({ "us": line.at.0, "round": line.round, "peer": line.peer, "text": line.text });
        output::json(&json!({
            "scenario": scenario.name, "seed": seed, "peers": run.peers, "joiners": run.joiners,
            "violation": outcome.violation.as_ref().map(ToString::to_string),
            "lines": outcome.log.iter().map(line).collect::<Vec<_>>(),
        }))?;
    } else {
        output::data(&timeline(&outcome.log))?;
        let finished = outcome.finished.len();
        let seconds = outcome.ended.0 as f64 / 1e6;
        say(&format!(
            "seed {seed} of {}: {} peers and {} that came later, {finished} reached the final state, {seconds:.3} s of virtual time",
            scenario.name, run.peers, run.joiners
        ));
    }
    match &outcome.violation {
        Some(violation) => Err(advised(anyhow!("seed {seed}: {violation}"), code::VIOLATED, None)),
        None => Ok(()),
    }
}

fn campaign(args: &SimulateArgs, scenario: Scenario) -> anyhow::Result<()> {
    let available = || std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let jobs = args.jobs.map_or_else(available, NonZeroUsize::get);
    let campaign = Campaign { scenario, first_seed: args.first_seed, seeds: args.seeds.get(), jobs };
    let started = Instant::now();
    let told = Mutex::new(started);
    let report = campaign.run(|report| tell(&campaign, report, &told));
    let elapsed = started.elapsed().as_secs_f64();
    if args.json {
        output::json(&as_json(args, &campaign, &report, elapsed))?;
    } else {
        output::data(&as_table(&campaign, &report, elapsed))?;
    }
    if report.failures.is_empty() {
        return Ok(());
    }
    for failure in report.failures.iter().take(20) {
        say(&format!("seed {}: {}\n  {}", failure.seed, failure.violation, replay_command(args, failure.seed)));
    }
    let error = anyhow!("{} of {} seeds violated an invariant", report.failures.len(), report.seeds);
    Err(advised(error, code::VIOLATED, Some("the lines above replay what happened".into())))
}

fn tell(campaign: &Campaign, report: &Report, told: &Mutex<Instant>) {
    let Ok(mut last) = told.lock() else { return };
    if last.elapsed() >= PROGRESS_EVERY && report.seeds < campaign.seeds {
        *last = Instant::now();
        let (seeds, rounds) = (thousands(report.seeds), thousands(report.metrics.rounds));
        let of = thousands(campaign.seeds);
        say(&format!("{seeds} of {of} seeds, {rounds} rounds, {} violations", report.failures.len()));
    }
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:.1} ms", microseconds as f64 / 1e3)
}

fn mean(total: u64, count: u64) -> f64 {
    total as f64 / count.max(1) as f64
}

fn as_table(campaign: &Campaign, report: &Report, elapsed: f64) -> String {
    let metrics = &report.metrics;
    let (fewest, most) = report.peers.unwrap_or_default();
    let peers = if fewest == most { fewest.to_string() } else { format!("{fewest} to {most}") };
    let faults: u64 = metrics.faults.values().sum();
    let overhead = 100.0 * (mean(metrics.units, metrics.units_needed) - 1.0);
    let mut rows = vec![
        ("scenario".into(), campaign.scenario.name.clone()),
        ("seeds".into(), format!("{} from {}", thousands(report.seeds), campaign.first_seed)),
        ("peers at the start".into(), peers),
        ("rounds".into(), format!("{}, {:.0} per second", thousands(metrics.rounds), metrics.rounds as f64 / elapsed)),
        ("rounds of peers".into(), thousands(metrics.peer_rounds)),
        ("virtual time".into(), format!("{:.0} s in {elapsed:.1} s", metrics.virtual_time as f64 / 1e6)),
        ("units computed".into(), format!("{}, {overhead:.0} % more than needed", thousands(metrics.units))),
        ("faults".into(), thousands(faults)),
    ];
    rows.extend(metrics.faults.iter().map(|(kind, count)| (format!("  {kind}"), thousands(*count))));
    rows.push(("refused".into(), format!("{} messages", thousands(metrics.refused))));
    rows.push(("peers that gave up".into(), thousands(report.stopped)));
    rows.extend(traffic_rows(report));
    let quantiles = |durations: &[u64]| match Quantiles::of(durations) {
        Some(q) => format!(
            "median {}, 95th percentile {}, worst {} of {}",
            milliseconds(q.median),
            milliseconds(q.p95),
            milliseconds(q.worst),
            thousands(q.count as u64)
        ),
        None => "no peer was struck".into(),
    };
    rows.push(("time to detect".into(), quantiles(&metrics.detect)));
    rows.push(("time to recover".into(), quantiles(&metrics.recover)));
    rows.push(("violations".into(), thousands(report.failures.len() as u64)));
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, value)| vec![what, value]).collect();
    table(&[("what", Align::Left), ("value", Align::Left)], &rows)
}

fn traffic_rows(report: &Report) -> Vec<(String, String)> {
    let metrics = &report.metrics;
    let row = |what: &str, traffic: &PerRound| {
        let messages = mean(traffic.total.messages, metrics.peer_rounds);
        let bytes = mean(traffic.total.bytes, metrics.peer_rounds);
        let (most, most_bytes) = (thousands(traffic.most.messages), thousands(traffic.most.bytes));
        let text = format!("{messages:.1} messages, {bytes:.0} bytes; at most {most} messages, {most_bytes} bytes");
        (format!("{what} per peer and round"), text)
    };
    let payloads = mean(metrics.payload.total.bytes, metrics.peer_rounds) / report.payload_bytes.max(1) as f64;
    vec![
        row("control", &metrics.control),
        row("payload", &metrics.payload),
        ("payload in sizes of a payload".into(), format!("{payloads:.2} sent per peer and round")),
        ("states taken from others".into(), thousands(metrics.states.messages)),
    ]
}

fn as_json(args: &SimulateArgs, campaign: &Campaign, report: &Report, elapsed: f64) -> Value {
    let metrics = &report.metrics;
    let traffic = |traffic: &PerRound| {
        json!({
            "messages_mean": mean(traffic.total.messages, metrics.peer_rounds),
            "bytes_mean": mean(traffic.total.bytes, metrics.peer_rounds),
            "messages_max": traffic.most.messages,
            "bytes_max": traffic.most.bytes,
        })
    };
    let quantiles = |durations: &[u64]| {
        Quantiles::of(durations)
            .map(|q| json!({ "count": q.count, "median_us": q.median, "p95_us": q.p95, "worst_us": q.worst }))
    };
    let failure = |failure: &peerless_simulation::Failure| {
        json!({
            "seed": failure.seed, "invariant": failure.violation.invariant.name(),
            "violation": failure.violation.to_string(), "replay": replay_command(args, failure.seed),
        })
    };
    json!({
        "scenario": campaign.scenario.name,
        "first_seed": campaign.first_seed,
        "seeds": report.seeds,
        "peers_min": report.peers.map(|(fewest, _)| fewest),
        "peers_max": report.peers.map(|(_, most)| most),
        "rounds": metrics.rounds,
        "peer_rounds": metrics.peer_rounds,
        "rounds_per_second": metrics.rounds as f64 / elapsed,
        "elapsed_s": elapsed,
        "virtual_s": metrics.virtual_time as f64 / 1e6,
        "units_computed": metrics.units,
        "units_needed": metrics.units_needed,
        "faults": metrics.faults,
        "refused": metrics.refused,
        "gave_up": report.stopped,
        "payload_bytes": report.payload_bytes,
        "control_per_peer_and_round": traffic(&metrics.control),
        "payload_per_peer_and_round": traffic(&metrics.payload),
        "states_fetched": metrics.states.messages,
        "longest_end_us": metrics.longest_end,
        "detect": quantiles(&metrics.detect),
        "recover": quantiles(&metrics.recover),
        "violations": report.failures.iter().map(failure).collect::<Vec<_>>(),
    })
}
