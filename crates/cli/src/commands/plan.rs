//! `peerless plan`.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use peerless_functions::prices::{Money, Price, PriceTable, Tariff};
use peerless_protocol::RunSpec;

use crate::cost::Projection;
use crate::failure::{Advise, advised, code};
use crate::model::{ConstantArgs, Costs, Job, Measured, Place, Prices, predict};
use crate::output::{self, say};
use crate::plan::{Grid, Plan, Point, Sizes, compare, constants_table, mark, measure};
use crate::prices::{self, FunctionAs};
use crate::spec::SpecArgs;
use crate::{data, runs};

const DEFAULT_PRICE: &str = "lambda-x86";
/// Around the size that comes with one whole core, 1,769 MB.
const DEFAULT_MEMORY_MB: &str = "512,1024,1769,3008";

const EXAMPLES: &str = "\
Examples:
  peerless plan                                            LeNet-5 on MNIST with functions on AWS Lambda
  peerless plan --peers 1..4 --functions 1,2,4,8 --units-per-round 16 --peer-price t2.large
  peerless plan --memory 512,1769 --function-price lambda-x86,lambda-arm64 --deadline 600 --json
  peerless plan --platform local                           processes of this machine, which costs nothing
  peerless plan --against runs/mine                        how far the model is off for a run that has been

It takes the flags of `peerless train` that say what is trained. Measure on a machine that does nothing else, with a
release build. docs/planning.md has the model and where its constants are from.";

/// Measures a few units here, and predicts the time and the cost of a run for each combination of peers, functions
/// and memory: a model with constants that can be changed, not a promise.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct PlanArgs {
    /// Where functions run: "lambda" on AWS Lambda with a machine for each peer, "local" on the cores of this machine
    #[arg(long, value_enum, default_value = "lambda")]
    platform: Place,
    /// Numbers of peers, such as 1,2,4 or 1..4
    #[arg(long, value_name = "N,N|A..B", default_value = "1..4")]
    peers: Sizes,
    /// Numbers of functions of each peer
    #[arg(long, value_name = "N,N|A..B", default_value = "1,2,4,8,16")]
    functions: Sizes,
    /// Sizes of a function's memory in MB
    #[arg(long, value_name = "MB,MB|A..B", default_value = DEFAULT_MEMORY_MB)]
    memory: Sizes,
    /// Units of each kind to measure, on one core and again on all cores
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    measure: u32,
    /// Only points that take no longer than this, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    deadline: Option<u32>,
    /// Only points that cost no more than this, in dollars
    #[arg(long, value_name = "DOLLARS")]
    budget: Option<Price>,
    /// Only points of the Pareto front
    #[arg(long)]
    front: bool,
    /// Predict this run as it was from what is measured now, and say how far that is off
    #[arg(long, value_name = "RUN", conflicts_with_all = ["platform", "peers", "functions", "memory", "deadline",
        "budget", "front", "function_price", "bucket_price", "egress_price"])]
    against: Option<PathBuf>,
    /// Show the constants of the model and where they are from
    #[arg(long)]
    constants: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    spec: SpecArgs,
    #[command(flatten)]
    money: MoneyArgs,
    #[command(flatten)]
    changed: ConstantArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Money")]
struct MoneyArgs {
    /// Prices of functions, such as lambda-x86,lambda-arm64; on this machine as if they ran there [default: lambda-x86
    /// on Lambda, nothing on this machine]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    function_price: Vec<String>,
    /// With --against: all invocations as if they had run for this price with so much memory
    #[arg(long = "as", value_name = "NAME:MB", requires = "against")]
    project: Option<FunctionAs>,
    /// Price of the machine that each peer runs on, such as t2.large, or in dollars per hour [default: nothing]
    #[arg(long, value_name = "NAME")]
    peer_price: Option<String>,
    /// Price of requests to the bucket that tensors travel through, such as s3 [default: nothing]
    #[arg(long, value_name = "NAME")]
    bucket_price: Option<String>,
    /// Price of the tensors that functions send, such as aws-internet [default: nothing]
    #[arg(long, value_name = "NAME")]
    egress_price: Option<String>,
    /// Table with own prices, which add to and replace those that come with the program
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
}

pub(crate) fn run(args: &PlanArgs) -> anyhow::Result<()> {
    match &args.against {
        Some(run) => against(args, run),
        None => plan(args),
    }
}

fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let prices = args.money.prices(args.platform)?;
    let dataset = data::named(args.spec.dataset())?;
    let spec = args.spec.spec(dataset.spec())?;
    data::ensure(dataset.name)?;
    data::trainer(&spec.model, dataset.name)?;
    let measured = measure_units(&spec, args.measure)?;
    let constants = args.changed.constants();
    let grid = Grid { peers: args.peers.clone(), functions: args.functions.clone(), memory_mb: args.memory.clone() };
    let (configurations, left_out) = grid.configurations(&spec, &measured, &constants, args.platform);
    let job = Job::whole(&spec, measured.elements);
    let mut points = Vec::new();
    for configuration in configurations {
        let prediction = predict(&job, &measured, &constants, args.platform, configuration);
        // Without a price, local functions of every size are the same.
        let rates: Vec<_> = match prices.functions.as_slice() {
            [] => vec![None],
            rates => rates.iter().map(Some).collect(),
        };
        for rate in rates {
            let tariff = prices.tariff(rate, args.platform, configuration.memory_mb);
            let costs = Costs::of(&tariff, &job, args.platform, configuration, &prediction);
            points.push(Point {
                configuration,
                price: rate.map(|rate| rate.name.clone()),
                allowed: args.allows(prediction.total_us(), costs.total()),
                prediction: prediction.clone(),
                costs,
                on_front: false,
            });
        }
    }
    points.dedup_by(|next, point| {
        let same = |a: &Point, b: &Point| {
            (a.configuration.peers, a.configuration.functions) == (b.configuration.peers, b.configuration.functions)
        };
        next.price.is_none() && same(next, point)
    });
    let plane: Vec<(u64, Money)> =
        points.iter().map(|point| (point.prediction.total_us().round() as u64, point.costs.total())).collect();
    for (point, on_front) in points.iter_mut().zip(mark(&plane)) {
        point.on_front = on_front;
    }
    points.sort_by(|a, b| a.prediction.total_us().total_cmp(&b.prediction.total_us()));
    if !points.iter().any(|point| point.allowed) {
        let what = anyhow!("no combination of peers, functions and memory keeps within the limits");
        return Err(what).hint("try more of each, a later --deadline or a larger --budget");
    }
    let plan = Plan {
        spec: &spec,
        place: args.platform,
        measured: &measured,
        constants: &constants,
        points,
        left_out,
        front_only: args.front,
        flags: args.spec.flags(),
    };
    if args.json {
        return output::json(&plan.document());
    }
    output::data(&with_constants(args, plan.text(), || constants_table(&constants.list())))
}

fn against(args: &PlanArgs, run: &std::path::Path) -> anyhow::Result<()> {
    if args.spec.is_given() {
        return Err(anyhow!("--against takes what was trained from the run")).code(code::USAGE);
    }
    let projection = args.money.projection()?;
    let run = runs::open(Some(run))?;
    data::verify_for(run.spec())?;
    let measured = measure_units(run.spec(), args.measure)?;
    let constants = args.changed.constants();
    let comparison = compare(&run, &measured, &constants, &projection)?;
    if args.json {
        return output::json(&comparison.document(&measured, &constants));
    }
    let spec = run.spec();
    let head =
        format!("run {} in {}: {} on {}", spec.id().short(), run.path().display(), spec.model, spec.dataset.name);
    let text = format!("{head}\n{}", comparison.text(&measured));
    output::data(&with_constants(args, text, || constants_table(&constants.list())))
}

fn with_constants(args: &PlanArgs, text: String, table: impl FnOnce() -> String) -> String {
    if args.constants { format!("{text}\n\n{}", table()) } else { text }
}

fn measure_units(spec: &RunSpec, units: u32) -> anyhow::Result<Measured> {
    say(&format!("measuring {units} units of each kind"));
    measure(spec, units)
}

impl PlanArgs {
    fn allows(&self, us: f64, cost: Money) -> bool {
        self.deadline.is_none_or(|seconds| us <= 1e6 * f64::from(seconds))
            && self.budget.is_none_or(|budget| cost <= Money::from(budget))
    }
}

impl MoneyArgs {
    fn prices(&self, place: Place) -> anyhow::Result<Prices> {
        let table = prices::table(self.prices.as_deref())?;
        let default = (self.function_price.is_empty() && place == Place::Lambda).then_some(DEFAULT_PRICE);
        let names = self.function_price.iter().map(String::as_str).chain(default);
        let functions = names.map(|name| table.rate(name, None)).collect::<Result<_, _>>().code(code::USAGE)?;
        Ok(Prices { tariff: self.tariff(&table)?, functions })
    }

    fn tariff(&self, table: &PriceTable) -> anyhow::Result<Tariff> {
        Ok(Tariff {
            machine: self.peer_price.as_deref().map(|name| table.machine(name)).transpose().code(code::USAGE)?,
            bucket: self.bucket_price.as_deref().map(|name| table.bucket(name)).transpose().code(code::USAGE)?,
            egress: self.egress_price.as_deref().map(|name| table.egress(name)).transpose().code(code::USAGE)?,
            ..Tariff::default()
        })
    }

    fn projection(&self) -> anyhow::Result<Projection> {
        let table = prices::table(self.prices.as_deref())?;
        let functions = self.project.as_ref().map(|project| {
            let memory = project.memory_mb.ok_or_else(|| {
                let hint = format!("say how much memory the functions would have, in MB: --as {}:1769", project.name);
                advised(anyhow!("--as {} names no memory", project.name), code::USAGE, Some(hint))
            })?;
            table.rate(&project.name, Some(memory)).code(code::USAGE)
        });
        let machine = self.peer_price.as_deref().map(|name| table.machine(name).code(code::USAGE));
        Ok(Projection {
            functions: functions.transpose()?,
            machine: machine.transpose()?,
            table: self.prices.is_some().then_some(table),
        })
    }
}
