//! `peerless data`: datasets on this machine.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use peerless_training::datasets::{DatasetError, DatasetInfo, PullOptions, datasets, default_dir, verify};
use serde_json::json;

use crate::data;
use crate::output::{self, Align, table, thousands};

const EXAMPLES: &str = "\
Examples:
  peerless data list
  peerless data pull cifar10
  peerless data pull mnist --from ~/Downloads

Datasets are kept in $PEERLESS_DATA, else in ~/.cache/peerless/datasets.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Debug, Subcommand)]
enum DataCommand {
    /// List the known datasets and whether they are here
    #[command(after_help = "Examples:\n  peerless data list\n  peerless data list --json")]
    List {
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch a dataset, unless it is here; every file is checked against its digest
    #[command(after_help = "Examples:\n  peerless data pull mnist\n  peerless data pull mnist --from ~/Downloads")]
    Pull {
        /// Dataset, as in `peerless data list`
        name: String,
        /// Take the files (plain or .gz) from this folder and ask nobody else
        #[arg(long, value_name = "FOLDER")]
        from: Option<PathBuf>,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: &DataArgs) -> anyhow::Result<()> {
    match &args.command {
        DataCommand::List { json } => list(*json),
        DataCommand::Pull { name, from, json } => pull(name, from.clone(), *json),
    }
}

fn list(json: bool) -> anyhow::Result<()> {
    let state = |info: &DatasetInfo| match verify(info.name, &default_dir()) {
        Ok(()) => "here",
        Err(DatasetError::Missing { .. }) => "not here",
        Err(_) => "damaged",
    };
    let folder = |info: &DatasetInfo| default_dir().join(info.folder).display().to_string();
    if json {
        let dataset = |info: &DatasetInfo| {
            json!({
                "name": info.name, "description": info.description, "train_samples": info.train_samples,
                "test_samples": info.test_samples, "bytes": info.bytes, "digest": info.digest,
                "state": state(info), "folder": folder(info),
            })
        };
        return output::json(&datasets().iter().map(dataset).collect::<Vec<_>>());
    }
    let columns = [
        ("dataset", Align::Left),
        ("train", Align::Right),
        ("test", Align::Right),
        ("MB", Align::Right),
        ("state", Align::Left),
        ("folder", Align::Left),
    ];
    let row = |info: &DatasetInfo| {
        vec![
            info.name.to_owned(),
            thousands(info.train_samples.into()),
            thousands(info.test_samples.into()),
            format!("{:.1}", info.bytes as f64 / 1e6),
            state(info).to_owned(),
            folder(info),
        ]
    };
    output::data(&table(&columns, &datasets().iter().map(row).collect::<Vec<_>>()))
}

fn pull(name: &str, from: Option<PathBuf>, json: bool) -> anyhow::Result<()> {
    let folder = data::fetch(name, &PullOptions { from, ..PullOptions::default() })?;
    if json {
        return output::json(&json!({ "name": name, "folder": folder }));
    }
    output::data(&folder.display().to_string())
}
