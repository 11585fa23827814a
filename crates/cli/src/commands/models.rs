//! `peerless models`.

use clap::Args;
use peerless_training::models;
use serde_json::json;

use crate::output::{self, Align, table, thousands};

const EXAMPLES: &str = "\
Examples:
  peerless models
  peerless models --json";

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
            })
        };
        return output::json(&models.iter().map(model).collect::<Vec<_>>());
    }
    let columns = [
        ("model", Align::Left),
        ("parameters", Align::Right),
        ("buffers", Align::Right),
        ("vector, MB", Align::Right),
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
            input,
            info.classes.to_string(),
            info.description.into(),
        ]
    };
    output::data(&table(&columns, &models.iter().map(row).collect::<Vec<_>>()))
}

/// What a function reads, and writes as its gradient: parameters and buffers in f32.
fn vector_bytes(info: &peerless_training::ModelInfo) -> u64 {
    4 * (info.parameters + info.buffers)
}
