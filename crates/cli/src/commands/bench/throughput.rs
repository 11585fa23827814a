//! A run against a plain loop.

use anyhow::ensure;
use clap::Args;
use peerless_store::RoundRecord;
use peerless_training::baseline::{PlainLoop, plain_loop};
use peerless_training::datasets::{Dataset, default_dir};
use serde::Serialize;

use super::percentile;
use super::run::FinishedRun;
use crate::data;
use crate::output::{self, Align, say, table, thousands};

/// The job: LeNet-5 on MNIST with the global batch that `train` uses by default.
const UNITS: usize = 4;
const SAMPLES_PER_UNIT: usize = 64;

/// Rounds at the start that are not counted: functions start, connections come up.
const WARM_UP_ROUNDS: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct ThroughputArgs {
    /// Peers of the run
    #[arg(long, value_name = "N", default_value_t = 2)]
    peers: u16,
    /// Rounds of each run and steps of each loop
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(50..))]
    rounds: u64,
    /// Repetitions, loop and run taking turns
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    cores: usize,
    peers: u16,
    rounds: u64,
    /// Medians over the repetitions, in samples per second.
    loop_256x1: f64,
    loop_64x4: f64,
    run: f64,
    /// Median over the repetitions of the run's speed over the faster loop's of the same repetition.
    ratio: f64,
    repeats: Vec<Repeat>,
    /// Medians over all rounds of all peers, in microseconds.
    round_us: Breakdown,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Repeat {
    loop_256x1: f64,
    loop_64x4: f64,
    run: f64,
}

#[derive(Debug, Default, Serialize)]
struct Breakdown {
    compute: f64,
    sum: f64,
    transfer: f64,
    update: f64,
    digest: f64,
    wait: f64,
    whole: f64,
}

pub(super) fn run(args: &ThroughputArgs) -> anyhow::Result<()> {
    data::ensure("mnist")?;
    let mut dataset = Dataset::open("mnist", &default_dir())?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut repeats = Vec::new();
    let mut rounds = Vec::new();
    for number in 1..=args.repeats {
        let mut plain = |batch, passes_per_step| measure_loop(&mut dataset, batch, passes_per_step, args.rounds, cores);
        let (loop_256x1, loop_64x4) = (plain(UNITS * SAMPLES_PER_UNIT, 1)?, plain(SAMPLES_PER_UNIT, UNITS)?);
        let (run, applied) = measure_run(args)?;
        rounds.extend(applied);
        repeats.push(Repeat { loop_256x1, loop_64x4, run });
        let speeds = [loop_256x1, loop_64x4, run].map(|speed| thousands(speed as u64));
        let [whole, units, run] = speeds;
        say(&format!("{number} of {}: loop 256x1 {whole}, loop 64x4 {units}, run {run} samples/s", args.repeats));
    }
    let report = Report {
        cores,
        peers: args.peers,
        rounds: args.rounds,
        loop_256x1: median(&repeats, |repeat| repeat.loop_256x1),
        loop_64x4: median(&repeats, |repeat| repeat.loop_64x4),
        run: median(&repeats, |repeat| repeat.run),
        ratio: median(&repeats, |repeat| repeat.run / repeat.loop_256x1.max(repeat.loop_64x4)),
        round_us: breakdown(&rounds),
        repeats,
    };
    if args.json { output::json(&report) } else { output::data(&report.text()) }
}

fn measure_loop(
    dataset: &mut Dataset,
    batch: usize,
    passes_per_step: usize,
    steps: u64,
    threads: usize,
) -> anyhow::Result<f64> {
    let steps = usize::try_from(steps)?;
    let plan = PlainLoop { batch, passes_per_step, steps, threads, learning_rate: 0.05, momentum: 0.9 };
    Ok(plain_loop(dataset, plan)?.samples_per_second())
}

/// Speed of a run between its rounds' commits, and those rounds.
fn measure_run(args: &ThroughputArgs) -> anyhow::Result<(f64, Vec<RoundRecord>)> {
    let flags = [("--peers", u64::from(args.peers)), ("--rounds", args.rounds), ("--evaluate-every", args.rounds)];
    let flags: Vec<String> = flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), value.to_string()]).collect();
    let run = FinishedRun::train(&flags)?;
    let mut speeds = Vec::new();
    let mut counted = Vec::new();
    for (name, rounds) in run.rounds()? {
        let training: Vec<RoundRecord> =
            rounds.into_iter().filter(|round| round.training_samples > 0).skip(WARM_UP_ROUNDS).collect();
        let (Some(first), Some(last)) = (training.first(), training.last()) else { continue };
        ensure!(
            last.round - first.round + 1 == training.len() as u64,
            "peer {name} has not applied every round itself"
        );
        let samples: u64 = training[1..].iter().map(|round| round.training_samples).sum();
        speeds.push(samples as f64 * 1e6 / (last.at_us.saturating_sub(first.at_us).max(1)) as f64);
        counted.extend(training);
    }
    ensure!(!speeds.is_empty(), "no peer has applied a round");
    Ok((percentile(&speeds, 50), counted))
}

fn median(repeats: &[Repeat], value: impl Fn(&Repeat) -> f64) -> f64 {
    percentile(&repeats.iter().map(value).collect::<Vec<_>>(), 50)
}

fn breakdown(rounds: &[RoundRecord]) -> Breakdown {
    let median = |part: fn(&RoundRecord) -> u64| {
        percentile(&rounds.iter().map(|round| part(round) as f64).collect::<Vec<_>>(), 50)
    };
    Breakdown {
        compute: median(|round| round.times.compute_us),
        sum: median(|round| round.times.sum_us),
        transfer: median(|round| round.times.transfer_us),
        update: median(|round| round.times.update_us),
        digest: median(|round| round.times.digest_us),
        wait: median(|round| round.times.wait_us),
        whole: median(|round| {
            let times = round.times;
            times.compute_us + times.sum_us + times.transfer_us + times.update_us + times.digest_us + times.wait_us
        }),
    }
}

impl Report {
    fn text(&self) -> String {
        let columns = [("LeNet-5 on MNIST, global batch 256", Align::Left), ("samples/s, median", Align::Right)];
        let row = |name: String, speed: f64| vec![name, thousands(speed as u64)];
        let rows = [
            row(format!("plain loop, 256 x 1, {} threads", self.cores), self.loop_256x1),
            row(format!("plain loop, 64 x 4, {} threads", self.cores), self.loop_64x4),
            row(format!("peerless, {} peers", self.peers), self.run),
        ];
        let parts = &self.round_us;
        let named = [
            ("compute", parts.compute),
            ("sum", parts.sum),
            ("transfer", parts.transfer),
            ("update", parts.update),
            ("digest", parts.digest),
            ("wait", parts.wait),
            ("whole round", parts.whole),
        ];
        let part = |(name, us): (&str, f64)| vec![name.to_owned(), format!("{:.2} ms", us / 1000.0)];
        let columns_of_parts = [("where a round's time goes", Align::Left), ("median", Align::Right)];
        format!(
            "{}\n\nratio to the faster loop of the same repetition, median: {:.2}\n\n{}",
            table(&columns, &rows),
            self.ratio,
            table(&columns_of_parts, &named.map(part))
        )
    }
}
