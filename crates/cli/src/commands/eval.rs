//! `peerless eval`.

use std::path::{Path, PathBuf};

use clap::Args;
use peerless_protocol::{Digest, RunSpec, StateHeader, Tally, evaluation_samples};
use peerless_store::Model;
use peerless_training::use_threads;
use serde_json::json;

use crate::failure::Advise;
use crate::output::{self, percent, thousands};
use crate::{data, runs};

const EXAMPLES: &str = "\
Examples:
  peerless eval                         the newest run
  peerless eval runs/mine
  peerless eval model.safetensors --json";

/// Counts right predictions over the whole test set: the same number as during training.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EvalArgs {
    /// Exported file, checkpoint or run directory [default: the newest run below runs/]
    #[arg(value_name = "FILE|RUN")]
    model: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

struct Loaded {
    from: PathBuf,
    spec: RunSpec,
    header: StateHeader,
    vector: Vec<f32>,
    digest: Digest,
}

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<()> {
    let model = match args.model.as_deref() {
        Some(file) if file.is_file() => read_file(file)?,
        run => read_run(run)?,
    };
    data::ensure(&model.spec.dataset.name)?;
    data::verify_for(&model.spec)?;
    let tally = evaluate(&model)?;
    if args.json {
        return output::json(&json!({
            "file": model.from, "run_id": model.header.run, "rounds": model.header.steps,
            "state_digest": model.digest, "samples": tally.samples, "correct": tally.correct,
            "test_accuracy": tally.accuracy(), "test_loss": tally.mean_loss(),
        }));
    }
    output::data(&format!(
        "model     {} after {} rounds, {}\naccuracy  {} ({} of {} test samples)\nloss      {:.4}",
        model.spec.model,
        thousands(model.header.steps),
        model.from.display(),
        percent(tally.accuracy()),
        thousands(tally.correct),
        thousands(tally.samples),
        tally.mean_loss()
    ))
}

fn read_file(file: &Path) -> anyhow::Result<Loaded> {
    let Model { spec, header, vector, state_digest } =
        Model::read(file).hint("`peerless export` writes files that can be evaluated")?;
    Ok(Loaded { from: file.to_owned(), spec, header, vector, digest: state_digest })
}

fn read_run(run: Option<&Path>) -> anyhow::Result<Loaded> {
    let (from, checkpoint) = runs::newest_checkpoint(&runs::open(run)?)?;
    let (state, digest) = (checkpoint.state, checkpoint.reference.digest);
    Ok(Loaded { from, spec: checkpoint.spec, header: state.header, vector: state.vector, digest })
}

/// In the same units as during training, so that each sample is computed in the same batch.
fn evaluate(model: &Loaded) -> anyhow::Result<Tally> {
    let spec = &model.spec;
    let mut trainer = data::trainer(&spec.model, &spec.dataset.name)?;
    // Without effect on the result; should it not succeed, the library chooses.
    let _ = use_threads(std::thread::available_parallelism().map_or(1, usize::from));
    let mut total = Tally::default();
    for unit in 0..spec.evaluation_units() {
        let tally = trainer.evaluate(&model.vector, evaluation_samples(spec, unit))?;
        total = total.checked_add(tally).ok_or_else(|| anyhow::anyhow!("the sum of losses does not fit"))?;
    }
    Ok(total)
}
