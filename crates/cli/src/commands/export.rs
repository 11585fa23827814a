//! `peerless export`.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::output::{self, percent, say};
use crate::runs;

const EXAMPLES: &str = "\
Examples:
  peerless export -o model.safetensors                the newest run
  peerless export runs/mine -o model.safetensors
  python -c \"from safetensors.torch import load_file; print(load_file('model.safetensors').keys())\"";

/// The file holds the model's tensors by name, and run, round and accuracy as metadata. Weights of
/// linear layers have the shape [in, out]; PyTorch's modules want them transposed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// File to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ExportArgs) -> anyhow::Result<()> {
    let run = runs::open(args.run.as_deref())?;
    let (_, checkpoint) = runs::newest_checkpoint(&run)?;
    peerless_store::export(&args.output, &checkpoint.spec, &checkpoint.state)?;
    let header = &checkpoint.state.header;
    if args.json {
        return output::json(&json!({
            "file": args.output, "run_id": header.run, "rounds": header.steps, "finish_reason": header.finished,
            "state_digest": checkpoint.reference.digest,
            "test_accuracy": header.evaluation.map(|evaluation| evaluation.tally.accuracy()),
            "evaluated_round": header.evaluation.map(|evaluation| evaluation.round),
        }));
    }
    if header.finished.is_none() {
        say(&format!("the run is not finished: this is the newest checkpoint, after {} rounds", header.steps));
    }
    if let Some(evaluation) = header.evaluation {
        let accuracy = percent(evaluation.tally.accuracy());
        say(&format!("test accuracy {accuracy}, measured after round {}", evaluation.round));
    }
    output::data(&args.output.display().to_string())
}
