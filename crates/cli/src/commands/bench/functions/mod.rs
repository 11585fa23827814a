//! What it costs to have work done by functions: the call, the start, and the bytes.

mod calls;
mod traffic;

use clap::Args;
use serde::Serialize;

use self::calls::Calls;
use self::traffic::Traffic;
use super::percentile;
use crate::data;
use crate::functions::IsolationArgs;
use crate::output::{self, Align, percent, say, table, thousands};

#[derive(Debug, Args)]
pub(crate) struct FunctionsArgs {
    /// Warm calls
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// Repetitions of everything that starts functions
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Functions that start at the same time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    at_once: u16,
    /// Rounds of the run whose traffic is counted
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    isolation: IsolationArgs,
}

#[derive(Debug, Serialize)]
struct Report {
    cores: usize,
    functions_at_once: u16,
    calls: Calls,
    traffic: Traffic,
}

pub(super) fn run(args: &FunctionsArgs) -> anyhow::Result<()> {
    data::ensure("mnist")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    say("calling functions of this machine");
    let calls = runtime.block_on(calls::measure(args))?;
    say("training with a function that has neither state nor dataset");
    let traffic = traffic::measure(args.rounds)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let report = Report { cores, functions_at_once: args.at_once, calls, traffic };
    if args.json { output::json(&report) } else { output::data(&report.text()) }
}

/// Times, in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    median_us: f64,
    p95_us: f64,
    worst_us: f64,
}

impl Times {
    fn of(us: &[f64]) -> Self {
        let [median_us, p95_us, worst_us] = [50, 95, 100].map(|part| percentile(us, part));
        Self { median_us, p95_us, worst_us }
    }

    fn row(&self, what: String) -> Vec<String> {
        let time = |us: f64| if us < 1000.0 { format!("{us:.0} µs") } else { format!("{:.1} ms", us / 1000.0) };
        vec![what, time(self.median_us), time(self.p95_us), time(self.worst_us)]
    }
}

impl Report {
    fn text(&self) -> String {
        let Self { calls, traffic, .. } = self;
        let columns = [
            ("functions of this machine", Align::Left),
            ("median", Align::Right),
            ("95 %", Align::Right),
            ("worst", Align::Right),
        ];
        let rows = [
            calls.warm.row("warm call without work".to_owned()),
            calls.cold.row("cold call without work".to_owned()),
            calls.cold_at_once.row(format!("{} cold calls at once, until the last has ended", self.functions_at_once)),
            calls.first_gradient.row("cold call: gradient of 64 images, LeNet-5".to_owned()),
            calls.warm_gradient.row("warm call: the same".to_owned()),
        ];
        let memory = thousands(calls.gradient_memory_bytes / 1024);
        let moved = [("bytes of tensors, each way through the gateway", Align::Left), ("bytes", Align::Right)];
        let bytes = |what: &str, bytes: u64| vec![what.to_owned(), thousands(bytes)];
        let rows_moved = [
            bytes("read by functions", traffic.read_bytes),
            bytes("at least to be read", traffic.least_read_bytes),
            bytes("written by functions", traffic.written_bytes),
            bytes("at least to be written", traffic.least_written_bytes),
        ];
        format!(
            "{}\n\nmemory of a function with one gradient done: {memory} KiB\n\n{}\n\n{} gradient units and {} evaluation units in {} requests: {} of the least bytes",
            table(&columns, &rows),
            table(&moved, &rows_moved),
            traffic.gradient_units,
            traffic.evaluation_units,
            traffic.requests,
            percent(traffic.ratio()),
        )
    }
}
