//! `peerless models`.

use clap::Args;
use peerless_training::models;
use serde_json::json;

use crate::output::{self, Align, table, thousands};

const EXAMPLES: &str = "\
Examples:
  peerless models
  peerless models --json";

/// List the models. The vector is what a function reads and writes: parameters and buffers. Unit is the memory that a
/// function needed for 64 samples on one thread, measured.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ModelsArgs {
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ModelsArgs) -> anyhow::Result<()> {
    let models = models();
    if args.json {
        let model = |info: &peerless_training::ModelInfo| {
            json!({
                "name": info.name, "description": info.description, "parameters": info.parameters,
                "buffers": info.buffers, "input": info.input, "classes": info.classes,
                "vector_bytes": vector_bytes(info),
                "measured_unit_memory_mb": unit_memory_mb(info.name),
            })
        };
        return output::json(&models.iter().map(model).collect::<Vec<_>>());
    }
    let columns = [
        ("model", Align::Left),
        ("parameters", Align::Right),
        ("buffers", Align::Right),
        ("vector, MB", Align::Right),
        ("unit, MB", Align::Right),
        ("input", Align::Left),
        ("classes", Align::Right),
        ("", Align::Left),
    ];
    let row = |info: &peerless_training::ModelInfo| {
        let input = info.input.map(|side| side.to_string()).join("x");
        vec![
            info.name.into(),
            thousands(info.parameters),
            thousands(info.buffers),
            format!("{:.1}", vector_bytes(info) as f64 / 1e6),
            unit_memory_mb(info.name).map_or_else(|| "?".into(), thousands),
            input,
            info.classes.to_string(),
            info.description.into(),
        ]
    };
    output::data(&table(&columns, &models.iter().map(row).collect::<Vec<_>>()))
}

/// Largest resident set of a process that computes units of 64 samples on one thread, in MB, as
/// `crates/training/examples/unit_memory.rs` measured it (docs/models.md).
fn unit_memory_mb(model: &str) -> Option<u64> {
    match model {
        "lenet5" => Some(20),
        "squeezenet1.1" => Some(42),
        "mobilenet-v3-small" => Some(59),
        "resnet18" => Some(599),
        "densenet121" => Some(330),
        "vgg11" => Some(2_016),
        _ => None,
    }
}

/// What a function reads, and writes as its gradient: parameters and buffers in f32.
fn vector_bytes(info: &peerless_training::ModelInfo) -> u64 {
    4 * (info.parameters + info.buffers)
}
