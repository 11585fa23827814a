//! The `peerless` command: trains one model on many peers with no server in the middle.

mod commands;
mod compare;
mod cost;
mod data;
mod ending;
mod exchange;
mod failure;
mod functions;
mod gradient_store;
mod logging;
mod lost_work;
mod model;
mod output;
mod place;
mod plan;
mod prices;
mod projection;
mod runs;
mod spec;
#[cfg(feature = "s3")]
mod step_functions;
mod train;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  peerless train                      LeNet-5 on MNIST with 4 peers
  peerless train --help               everything that can be set
  peerless status                     the newest run
  peerless plan                       what time and money it would take with more functions
  peerless project                    which architecture wins at how many peers, with which failures
  peerless cost --as lambda-x86:1769  what it would have cost on AWS Lambda
  peerless compare experiments/2-worker-dies.toml
  peerless export -o model.safetensors
  peerless eval model.safetensors";

/// Peer-to-peer machine learning training: no server, stateless functions, and the same model bit
/// for bit whatever dies on the way.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 110, after_help = format!("{EXAMPLES}\n\n{}", failure::HELP))]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a model with several peers on this machine, and watch them
    Train(Box<commands::train::TrainArgs>),
    /// Start or invite single peers, on this or several machines
    Peer(Box<commands::peer::PeerArgs>),
    /// Show what the peers of a run are doing
    Status(commands::status::StatusArgs),
    /// Show a run on a local web page while it trains, and as metrics
    Dashboard(commands::dashboard::DashboardArgs),
    /// Send the traces of a run to an OpenTelemetry collector
    Trace(commands::trace::TraceArgs),
    /// Show what a run costs, and what of that was of no use
    Cost(commands::cost::CostArgs),
    /// Predict time and cost on other numbers of peers, functions and memory, or hold a run against it
    Plan(Box<commands::plan::PlanArgs>),
    /// Run a matrix of topologies, faults and sizes, and say what each costs and survives
    Compare(commands::compare::CompareArgs),
    /// Project time and cost of architectures that do not fit on this machine, and say where which one wins
    Project(Box<commands::project::ProjectArgs>),
    /// Check a run from its ledgers and states, and recompute parts of it
    Verify(commands::verify::VerifyArgs),
    /// List the runs on this machine, or show one
    Runs(commands::runs::RunsArgs),
    /// Write a run's model as safetensors
    Export(commands::export::ExportArgs),
    /// Write what others run for Peerless: a round as a state machine of AWS Step Functions
    #[cfg(feature = "s3")]
    Deploy(Box<commands::deploy::DeployArgs>),
    /// Evaluate a model on the whole test set
    Eval(commands::eval::EvalArgs),
    /// List and pull datasets
    Data(commands::data::DataArgs),
    /// Measure what a run costs on this machine
    Bench(commands::bench::BenchArgs),
    /// Train while random peers and functions are killed, stopped and restarted, and compare all states
    Soak(commands::soak::SoakArgs),
    /// Run the protocol under virtual time with faults, and check that nothing goes wrong
    Simulate(commands::simulate::SimulateArgs),
    /// List the models that can be trained
    Models(commands::models::ModelsArgs),
    Function(commands::function::FunctionCommand),
}

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    // Before anything else: functions wait for it, and it must be the only thread.
    if arguments.next().is_some_and(|command| command == functions::SANDBOX_COMMAND) {
        return peerless_sandbox::launch(arguments);
    }
    let result = match Cli::parse().command {
        Command::Train(args) => commands::train::run(*args),
        Command::Peer(args) => commands::peer::run(*args),
        Command::Status(args) => commands::status::run(&args),
        Command::Dashboard(args) => commands::dashboard::run(args),
        Command::Trace(args) => commands::trace::run(args),
        Command::Cost(args) => commands::cost::run(&args),
        Command::Plan(args) => commands::plan::run(&args),
        Command::Compare(args) => commands::compare::run(&args),
        Command::Project(args) => commands::project::run(&args),
        Command::Verify(args) => commands::verify::run(&args),
        Command::Runs(args) => commands::runs::run(&args),
        Command::Export(args) => commands::export::run(&args),
        #[cfg(feature = "s3")]
        Command::Deploy(args) => commands::deploy::run(&args),
        Command::Eval(args) => commands::eval::run(&args),
        Command::Data(args) => commands::data::run(&args),
        Command::Bench(args) => commands::bench::run(&args),
        Command::Soak(args) => commands::soak::run(&args),
        Command::Simulate(args) => commands::simulate::run(&args),
        Command::Models(args) => commands::models::run(&args),
        Command::Function(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::label("error", &failure::message(&error));
            if let Some(hint) = failure::hint(&error) {
                output::label("hint", hint);
            }
            ExitCode::from(failure::exit_code(&error))
        }
    }
}
