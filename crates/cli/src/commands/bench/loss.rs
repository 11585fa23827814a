//! A run's training loss beside that of a plain loop on the same work.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use anyhow::{Context, anyhow};
use clap::Args;
use peerless_peer::run_directory::RunDirectory;
use peerless_protocol::{Decisions, EpochOrder, Optimizer, RunSpec, Schedule, Tally, evaluation_samples, unit_seed};
use peerless_store::{Ledger, ledger_path};
use peerless_training::baseline::{PlainTraining, PlainUnit};
use peerless_training::use_threads;
use serde::Serialize;

use crate::failure::{advised, code};
use crate::output::{self, Align, percent, say, table};
use crate::{data, runs};

/// Rounds that the table shows, the last one besides; JSON has all.
const ROWS: usize = 12;
/// Rounds read from a ledger at a time.
const BATCH: u32 = 10_000;

#[derive(Debug, Args)]
pub(crate) struct LossArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// Rounds from the first one on [default: all that the run has done]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    rounds: Option<u64>,
    /// Do not evaluate the test set at the end, which takes minutes with large models
    #[arg(long)]
    no_evaluation: bool,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    model: String,
    dataset: String,
    rounds: Vec<Round>,
    /// Largest difference of a round's losses, relative to the loop's.
    largest_difference: f64,
    loop_test: Option<Test>,
    /// Of the run's final state; `None` if it has not been evaluated after these rounds.
    run_test: Option<Test>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    round: u64,
    loop_loss: f64,
    run_loss: f64,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Test {
    accuracy: f64,
    loss: f64,
}

/// What the ledgers of a run say.
#[derive(Debug, Default)]
struct Recorded {
    losses: BTreeMap<u64, f64>,
    /// By the number of rounds that led to the state.
    tests: BTreeMap<u64, Test>,
}

pub(super) fn run(args: &LossArgs) -> anyhow::Result<()> {
    let run = runs::open(args.run.as_deref())?;
    let spec = run.spec();
    let (momentum, nesterov) = check(spec)?;
    let recorded = Recorded::read(&run)?;
    let done = (0..).take_while(|round| recorded.losses.contains_key(round)).count() as u64;
    let rounds = args.rounds.map_or(done, |wanted| wanted.min(done));
    if rounds == 0 {
        return Err(advised(anyhow!("no round of {} is recorded", run.path().display()), code::USAGE, None));
    }
    data::ensure(&spec.dataset.name)?;
    data::verify_for(spec)?;
    let trainer = data::trainer(&spec.model, &spec.dataset.name)?;
    // Without effect on the result; should it not succeed, the library chooses.
    let _ = use_threads(available_parallelism().map_or(1, usize::from));
    let mut training = PlainTraining::new(trainer, spec.seed, momentum, nesterov)?;
    let compared = train(&mut training, spec, &recorded, rounds)?;
    let loop_test = if args.no_evaluation { None } else { Some(evaluate(&mut training, spec)?) };
    let difference = |round: &Round| (round.run_loss - round.loop_loss).abs() / round.loop_loss.abs();
    let report = Report {
        model: spec.model.clone(),
        dataset: spec.dataset.name.clone(),
        largest_difference: compared.iter().map(difference).fold(0.0, f64::max),
        rounds: compared,
        loop_test,
        run_test: recorded.tests.get(&rounds).copied(),
    };
    if args.json { output::json(&report) } else { output::data(&report.text()) }
}

/// The momentum of a spec that the plain loop can follow, and whether it looks ahead.
fn check(spec: &RunSpec) -> anyhow::Result<(f32, bool)> {
    let plain = match spec.optimizer {
        Optimizer::Momentum { momentum, nesterov, weight_decay: 0.0 } => Some((momentum as f32, nesterov)),
        Optimizer::Sgd { weight_decay: 0.0 } => Some((0.0, false)),
        _ => None,
    };
    let plateau = matches!(spec.learning_rate.schedule, Schedule::ReduceOnPlateau { .. });
    plain.filter(|_| spec.clip_norm.is_none() && !plateau).ok_or_else(|| {
        let hint = "a run with the default optimizer and schedule can be compared";
        let what = "the plain loop knows SGD with momentum alone: no other optimizer, no clipping, no plateaus";
        advised(anyhow!(what), code::USAGE, Some(hint.to_owned()))
    })
}

impl Recorded {
    fn read(run: &RunDirectory) -> anyhow::Result<Self> {
        let mut recorded = Self::default();
        for (_, path) in run.peers()? {
            recorded.add(&path)?;
        }
        Ok(recorded)
    }

    /// Takes in a peer's ledger. Which one a round is taken from makes no difference: they agree.
    fn add(&mut self, peer: &Path) -> anyhow::Result<()> {
        let path = ledger_path(peer);
        let ledger = Ledger::open_read_only(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut next = 0;
        loop {
            let rounds = ledger.rounds(next, BATCH)?;
            let Some(last) = rounds.last() else { return Ok(()) };
            next = last.round + 1;
            for round in rounds {
                self.losses.extend(round.training_loss.map(|loss| (round.round, loss)));
                let test = round.evaluation.and_then(|tested| {
                    let accuracy = tested.correct as f64 / tested.samples.max(1) as f64;
                    Some(Test { accuracy, loss: tested.loss? })
                });
                self.tests.extend(test.map(|test| (round.round, test)));
            }
        }
    }
}

fn train(training: &mut PlainTraining, spec: &RunSpec, recorded: &Recorded, rounds: u64) -> anyhow::Result<Vec<Round>> {
    let mut order = EpochOrder::new(spec, 0);
    let mut compared = Vec::new();
    for (&round, &run_loss) in recorded.losses.range(..rounds) {
        let epoch = EpochOrder::epoch_of(spec, round);
        if order.epoch() != epoch {
            order = EpochOrder::new(spec, epoch);
        }
        let unit = |unit| PlainUnit { samples: order.samples(spec, round, unit), seed: unit_seed(spec, round, unit) };
        let units: Vec<PlainUnit<'_>> = (0..spec.units_per_round).map(unit).collect();
        let loop_loss = training.step(&units, spec.learning_rate.rate(round, &Decisions::default()))?;
        if (round + 1) % 20 == 0 || round + 1 == rounds {
            say(&format!("round {} of {rounds}: loop {loop_loss:.4}, run {run_loss:.4}", round + 1));
        }
        compared.push(Round { round, loop_loss, run_loss });
    }
    Ok(compared)
}

fn evaluate(training: &mut PlainTraining, spec: &RunSpec) -> anyhow::Result<Test> {
    let mut total = Tally::default();
    for unit in 0..spec.evaluation_units() {
        let tally = training.evaluate(evaluation_samples(spec, unit))?;
        total = total.checked_add(tally).context("the sum of losses does not fit")?;
    }
    Ok(Test { accuracy: total.accuracy(), loss: total.mean_loss() })
}

impl Report {
    fn text(&self) -> String {
        let columns = ["round", "plain loop", "run", "difference"].map(|name| (name, Align::Right));
        let stride = self.rounds.len().div_ceil(ROWS).max(1);
        let last = self.rounds.len().saturating_sub(1);
        let shown = self.rounds.iter().enumerate().filter(|(index, _)| index % stride == 0 || *index == last);
        let rows: Vec<Vec<String>> = shown.map(|(_, round)| round.row()).collect();
        let test = |name: &str, test: &Option<Test>| {
            let text = |test: &Test| format!("\n{name}  {}, test loss {:.4}", percent(test.accuracy), test.loss);
            test.as_ref().map_or_else(String::new, text)
        };
        format!(
            "training loss of {} on {}\n{}\n\nlargest difference of a round  {:.1e} of the loop's loss{}{}",
            self.model,
            self.dataset,
            table(&columns, &rows),
            self.largest_difference,
            test("test accuracy of the loop     ", &self.loop_test),
            test("test accuracy of the run      ", &self.run_test),
        )
    }
}

impl Round {
    fn row(&self) -> Vec<String> {
        let difference = format!("{:+.1e}", self.run_loss - self.loop_loss);
        vec![self.round.to_string(), format!("{:.4}", self.loop_loss), format!("{:.4}", self.run_loss), difference]
    }
}
