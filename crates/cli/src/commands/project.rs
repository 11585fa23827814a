//! `peerless project`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use peerless_functions::prices::Tariff;

use crate::failure::{Advise, code};
use crate::model::{ConstantArgs, FailureArgs, Machine, positive};
use crate::output::{self, say};
use crate::plan::{Sizes, constants_table, measure};
use crate::projection::{Inputs, ModelInput, Projection, Section, Setup, cells, rows, sweep};
use crate::spec::SpecArgs;
use crate::{data, place, prices};

/// Most failure rates in one map.
const MAX_RATES: usize = 64;
/// Most combinations of models, local steps, peers and rates, each of which has seven architectures.
const MAX_COMBINATIONS: usize = 20_000;

const EXAMPLES: &str = "\
Examples:
  peerless project                                    which architecture wins where: six models, 1 to 64 peers
  peerless project --table published                  the model beside published points, with errors
  peerless project --model vgg11 --peers 4 --rates 0,0.1 --table points
  peerless project --local-steps 1,4,16,64 --table best
  peerless project --csv > map.csv                    for charts
  peerless project --measure 5 --model lenet5 > here.toml && peerless project --measured here.toml

Everything that it prints is projected: docs/projection.md has the formulas, their sources, and how far they are off.";

/// Projects what a run takes and costs with peers, a parameter server, a ring of machines or functions at a store, with
/// failures, and says at how many peers, for which model and at which failure rate each is quickest and cheapest.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ProjectArgs {
    /// Models, as in `peerless models` [default: all that were measured]
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    model: Vec<String>,
    /// Numbers of peers or workers, such as 1,4,16 or 1..8
    #[arg(long, value_name = "N,N|A..B", default_value = "1,2,4,8,16,32,64")]
    peers: Sizes,
    /// Failures of each machine in an hour
    #[arg(long, value_name = "RATE,RATE", value_delimiter = ',', default_value = "0,0.01,0.1,1", value_parser = rate)]
    rates: Vec<f64>,
    /// Optimizer steps that a unit takes before it communicates
    #[arg(long, value_name = "N,N|A..B", default_value = "1,16")]
    local_steps: Sizes,
    /// Units of a round, whoever computes them
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    units_per_round: u32,
    /// Passes over the training set
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    epochs: u32,
    /// How many times as quick units are as they were measured, for another library or other processors
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = positive)]
    speed: f64,
    /// What to show
    #[arg(long, value_enum, value_name = "SECTION,SECTION", value_delimiter = ',', default_value = "map,best")]
    table: Vec<Section>,
    /// Show the constants of the model and where they are from
    #[arg(long)]
    constants: bool,
    /// Write one line for each combination, for charts
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
    /// Take measured units from this file instead of those that come with the program
    #[arg(long, value_name = "FILE")]
    measured: Option<PathBuf>,
    /// Measure so many units of each model on this machine, write them as a file for --measured, and do nothing else
    #[arg(long, value_name = "N", conflicts_with_all = ["measured", "json", "csv"],
        value_parser = clap::value_parser!(u32).range(1..=1000))]
    measure: Option<u32>,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    failures: FailureArgs,
    #[command(flatten)]
    changed: ConstantArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Machines and money")]
struct MachineArgs {
    /// Price of each machine, such as t2.large, or in dollars per hour
    #[arg(long, value_name = "NAME", default_value = "t2.large")]
    machine_price: String,
    /// Units that a machine computes at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1024))]
    machine_cores: u32,
    /// Memory of a machine, in MB
    #[arg(long, value_name = "MB", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    machine_memory: u32,
    /// Memory of a function, in MB; where it needs more it gets what it needs
    #[arg(long, value_name = "MB", default_value_t = 1769, value_parser = clap::value_parser!(u32).range(128..=10_240))]
    memory: u32,
    /// Price of functions
    #[arg(long, value_name = "NAME", default_value = "lambda-x86")]
    function_price: String,
    /// Price of requests to the bucket that functions read from and write to
    #[arg(long, value_name = "NAME", default_value = "s3")]
    bucket_price: String,
    /// Table with own prices, which add to and replace those that come with the program
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
}

pub(crate) fn run(args: &ProjectArgs) -> anyhow::Result<()> {
    if let Some(units) = args.measure {
        return output::data(measured_here(args, units)?.text().trim_end());
    }
    let inputs = match &args.measured {
        Some(path) => Inputs::read(path).code(code::USAGE)?,
        None => Inputs::built_in()?,
    };
    let setup = args.setup(&inputs)?;
    let table = prices::table(args.machine.prices.as_deref())?;
    let (points, left_out) = sweep(&inputs, &setup);
    let cells = cells(&setup, &points);
    let rows = rows(&inputs, &table, &setup.constants).code(code::USAGE)?;
    let projection = Projection { inputs: &inputs, setup: &setup, points, left_out, cells, rows };
    if args.json {
        return output::json(&projection.document());
    }
    if args.csv {
        return output::data(&projection.csv());
    }
    let mut text = projection.text(&args.table);
    if args.constants {
        let constants: Vec<_> = setup.constants.list().into_iter().chain(setup.failures.list()).collect();
        text = format!("{text}\n\n{}", constants_table(&constants));
    }
    output::data(&text)
}

impl ProjectArgs {
    fn setup(&self, inputs: &Inputs) -> anyhow::Result<Setup> {
        let models = if self.model.is_empty() { inputs.names() } else { self.model.clone() };
        if let Some(unknown) = models.iter().find(|name| !inputs.models.contains_key(*name)) {
            let what = anyhow!("{unknown} was not measured; there are: {}", inputs.names().join(", "));
            let hint = format!(
                "`peerless project --measure 5 --model {unknown} > here.toml` measures it for --measured here.toml"
            );
            return Err(crate::failure::advised(what, code::USAGE, Some(hint)));
        }
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates.dedup();
        let (peers, local_steps) = (sorted(&self.peers), sorted(&self.local_steps));
        let combinations = [models.len(), rates.len(), peers.len(), local_steps.len()].iter().product::<usize>();
        if rates.len() > MAX_RATES || combinations > MAX_COMBINATIONS {
            return Err(anyhow!(
                "{combinations} combinations are more than {MAX_COMBINATIONS}, or more than {MAX_RATES} rates"
            ))
            .code(code::USAGE);
        }
        let MachineArgs { machine_cores, machine_memory, memory, .. } = self.machine;
        Ok(Setup {
            models,
            peers,
            local_steps,
            rates,
            units_per_round: self.units_per_round,
            epochs: self.epochs,
            speed: self.speed,
            machine: Machine { cores: machine_cores, memory_mb: machine_memory },
            memory_mb: memory,
            constants: self.changed.constants(),
            failures: self.failures.constants(),
            tariff: self.machine.tariff()?,
        })
    }
}

impl MachineArgs {
    fn tariff(&self) -> anyhow::Result<Tariff> {
        let table = prices::table(self.prices.as_deref())?;
        let functions = table.rate(&self.function_price, None).code(code::USAGE)?;
        Ok(Tariff {
            platforms: [("lambda".to_owned(), functions)].into(),
            machine: Some(table.machine(&self.machine_price).code(code::USAGE)?),
            bucket: Some(table.bucket(&self.bucket_price).code(code::USAGE)?),
            egress: None,
        })
    }
}

fn sorted(sizes: &Sizes) -> Vec<u32> {
    sizes.0.iter().copied().collect()
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number: &f64| (0.0..=1e6).contains(number));
    number.ok_or_else(|| "expected failures of a machine in an hour, from 0 to 1000000".to_owned())
}

/// Measures the models with the defaults of a run on MNIST.
fn measured_here(args: &ProjectArgs, units: u32) -> anyhow::Result<Inputs> {
    let names = match &args.model[..] {
        [] => Inputs::built_in()?.names(),
        names => names.to_vec(),
    };
    let before = load();
    let mut models = BTreeMap::new();
    for name in names {
        let flags = SpecArgs::for_measuring(&name);
        let dataset = data::named(flags.dataset())?;
        let spec = flags.spec(dataset.spec())?;
        data::ensure(dataset.name)?;
        data::trainer(&spec.model, dataset.name)?;
        say(&format!("measuring {units} units of {name}"));
        let measured = measure(&spec, units)?;
        let input = ModelInput {
            dataset: spec.dataset.name.clone(),
            train_samples: spec.dataset.train_samples,
            samples_per_unit: spec.samples_per_unit,
            measured,
        };
        models.insert(name, input);
    }
    let load = format!("load average of a minute {before} before and {} after", load());
    let program = format!(
        "peerless {}{}",
        env!("CARGO_PKG_VERSION"),
        if cfg!(debug_assertions) { ", development build" } else { "" }
    );
    Ok(Inputs::new(place::today(), place::machine(), program, load, models))
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_that_no_machine_has_are_refused() {
        assert!(["-1", "NaN", "inf", "1e9", "", "x"].iter().all(|text| rate(text).is_err()));
        assert_eq!(rate(" 0.1"), Ok(0.1));
    }
}
