//! `peerless deploy`: what others run for Peerless.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Subcommand};
use peerless_peer::data_path::BucketConfig;
use peerless_training::datasets;
use serde_json::json;

use crate::failure::Advise;
use crate::output::{self, say};
use crate::runs;
use crate::step_functions::{Machine, Round, definition, tasks};

const EXAMPLES: &str = "\
Examples:
  peerless deploy step-functions --function peerless-unit --bucket s3://models/team-a -o round/
  peerless deploy step-functions runs/mine --function arn:aws:lambda:eu-central-1:123456789012:function:peerless-unit \\
      --bucket s3://models/team-a --bucket-region eu-central-1 --hours 2 -o round/

The newest checkpoint is the state that the round starts from. Credentials sign URLs and are taken from the environment
(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or the role of this machine. Nothing is uploaded: the commands that do are
printed. docs/step-functions.md says what this is for, and what not.";

/// Arguments of `peerless deploy`.
#[derive(Debug, Args)]
pub(crate) struct DeployArgs {
    #[command(subcommand)]
    command: DeployCommand,
}

#[derive(Debug, Subcommand)]
enum DeployCommand {
    /// Write one round of a run as a state machine of AWS Step Functions, with the tasks of its units
    StepFunctions(StepFunctionsArgs),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct StepFunctionsArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// Lambda function that computes units, by name or ARN
    #[arg(long, value_name = "NAME")]
    function: String,
    /// Bucket for the tasks, the state, the dataset and the gradients: s3://NAME or s3://NAME/PREFIX
    #[arg(long, value_name = "URL")]
    bucket: BucketConfig,
    /// The bucket's store, for other stores than AWS
    #[arg(long, value_name = "URL")]
    bucket_endpoint: Option<String>,
    /// The bucket's region [default: AWS_REGION, or us-east-1]
    #[arg(long, value_name = "REGION")]
    bucket_region: Option<String>,
    /// Most functions at a time
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    functions: u32,
    /// Hours for which the URLs in the tasks are good
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=168))]
    hours: u16,
    /// Folder to write into, which must not exist
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Write what was made to stdout as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &DeployArgs) -> anyhow::Result<()> {
    match &args.command {
        DeployCommand::StepFunctions(args) => step_functions(args),
    }
}

fn step_functions(args: &StepFunctionsArgs) -> anyhow::Result<()> {
    let bucket = BucketConfig {
        endpoint: args.bucket_endpoint.clone(),
        region: args.bucket_region.clone(),
        ..args.bucket.clone()
    };
    let run = runs::open(args.run.as_deref())?;
    let (_, checkpoint) = runs::newest_checkpoint(&run)?;
    let spec = run.spec();
    if checkpoint.state.header.finished.is_some() {
        return Err(anyhow!("{} is finished: there is no further round", run.path().display()));
    }
    let files = datasets::files(&spec.dataset.name, &datasets::default_dir())?;
    let parameters: Vec<u8> = checkpoint.state.vector.iter().flat_map(|element| element.to_le_bytes()).collect();
    let number = checkpoint.reference.round;
    let round = Round {
        spec,
        number,
        parameters: &parameters,
        dataset: files.keys().cloned().collect(),
        folder: format!("step-functions/{}/round-{number}", spec.id().short()),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let lifetime = Duration::from_secs(3600 * u64::from(args.hours));
    let tasks = runtime.context("cannot start the runtime")?.block_on(tasks(&round, &bucket, lifetime));
    let tasks = tasks.hint("credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role")?;
    let key = |name: &str| format!("{}/{}", bucket.prefix, round.key(name));
    let comment = format!("Peerless: round {number} of run {}, {} units", spec.id().short(), tasks.len());
    let machine = definition(&Machine {
        function: &args.function,
        bucket: &bucket.bucket,
        tasks: &key("tasks.json"),
        results: &key("results"),
        concurrency: args.functions,
        seconds: lifetime.as_secs(),
        comment: &comment,
    });
    fs::create_dir(&args.output).with_context(|| format!("cannot make {}", args.output.display()))?;
    write(&args.output.join("parameters.f32"), &parameters)?;
    write(&args.output.join("tasks.json"), &serde_json::to_vec(&tasks)?)?;
    write(&args.output.join("state-machine.json"), &serde_json::to_vec_pretty(&machine)?)?;
    let uploads = uploads(args, &bucket, &round, files.into_iter().collect());
    if args.json {
        return output::json(&json!({
            "folder": args.output, "run_id": spec.id(), "round": number, "state_digest": checkpoint.reference.digest,
            "units": tasks.len(), "bucket": bucket.bucket, "tasks_key": key("tasks.json"),
            "results_prefix": key("results"), "commands": uploads,
        }));
    }
    say("tasks.json holds rights to the bucket: keep it secret");
    output::data(&uploads.join("\n"))
}

/// Readable by its owner alone: tasks are secrets.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The commands that put everything in its place and start the round.
fn uploads(
    args: &StepFunctionsArgs,
    bucket: &BucketConfig,
    round: &Round<'_>,
    files: Vec<(String, PathBuf)>,
) -> Vec<String> {
    let endpoint = bucket.endpoint.as_ref().map(|url| format!(" --endpoint-url {url}")).unwrap_or_default();
    let folder = args.output.display();
    let copy = |from: String, key: &str| format!("aws s3 cp{endpoint} {from} {bucket}/{key}");
    let mut commands: Vec<String> = files
        .into_iter()
        .map(|(name, path)| copy(path.display().to_string(), &format!("datasets/{}/{name}", round.spec.dataset.name)))
        .collect();
    for name in ["parameters.f32", "tasks.json"] {
        commands.push(copy(format!("{folder}/{name}"), &round.key(name)));
    }
    let name = format!("peerless-{}-round-{}", round.spec.id().short(), round.number);
    commands.push(format!(
        "aws stepfunctions create-state-machine --name {name} --role-arn ROLE --definition file://{folder}/state-machine.json"
    ));
    commands.push(format!("aws stepfunctions start-execution --state-machine-arn ARN --name {name}"));
    commands
}
