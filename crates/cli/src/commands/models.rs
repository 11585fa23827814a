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
                "input": info.input, "classes": info.classes,
            })
        };
        return output::json(&models.iter().map(model).collect::<Vec<_>>());
    }
    let columns = [
        ("model", Align::Left),
        ("parameters", Align::Right),
        ("input", Align::Left),
        ("classes", Align::Right),
        ("", Align::Left),
    ];
    let row = |info: &peerless_training::ModelInfo| {
        let input = info.input.map(|side| side.to_string()).join("x");
        vec![info.name.into(), thousands(info.parameters), input, info.classes.to_string(), info.description.into()]
    };
    output::data(&table(&columns, &models.iter().map(row).collect::<Vec<_>>()))
}
