//! `peerless bench`: what a run costs on this machine, measured side by side.

mod functions;
mod loss;
mod recovery;
mod run;
mod throughput;
mod unit;

use clap::{Args, Subcommand};

const EXAMPLES: &str = "\
Examples:
  peerless bench throughput           2 peers against a plain training loop, alternating
  peerless bench unit                 a unit's gradient by model, with the core's peak beside it
  peerless bench functions            what a call, a cold start and a unit's bytes cost
  peerless bench loss runs/mine       the run's training loss beside a plain training loop's
  peerless bench recovery             what kill -9, SIGSTOP, a partition and a dead function cost
  peerless bench recovery --fault kill --repetitions 50

Measure on a machine that does nothing else, with a release build.";

/// Arguments of `peerless bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Samples per second of a run against a plain single-process loop, and where a round's time goes
    Throughput(throughput::ThroughputArgs),
    /// Training loss of a run, round by round, beside that of a plain single-process loop on the same work
    Loss(loss::LossArgs),
    /// Time of a unit's gradient on one thread by model and batch, and where it goes
    Unit(unit::UnitArgs),
    /// Time until the next round, and work done again, after faults of real peers and functions
    Recovery(recovery::RecoveryArgs),
    /// Time of function calls, warm and cold, and bytes moved per unit against the least possible
    Functions(functions::FunctionsArgs),
}

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    match &args.command {
        BenchCommand::Throughput(args) => throughput::run(args),
        BenchCommand::Loss(args) => loss::run(args),
        BenchCommand::Unit(args) => unit::run(args),
        BenchCommand::Recovery(args) => recovery::run(args),
        BenchCommand::Functions(args) => functions::run(args),
    }
}

/// The value that `percent` per cent of the values do not exceed; 0 without values.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!([0, 50, 95, 100].map(|percent| percentile(&values, percent)), [1.0, 3.0, 5.0, 5.0]);
        assert_eq!(percentile(&[], 50), 0.0);
    }
}
