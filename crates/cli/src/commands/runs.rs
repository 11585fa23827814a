//! `peerless runs`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::PeerStatus;
use peerless_protocol::PeerId;
use peerless_store::{Ledger, RoundRecord, ledger_path};
use serde_json::{Value, json};

use crate::cost::{self, Projection};
use crate::lost_work::LostWork;
use crate::output::{self, Align, label, percent, table, thousands};
use crate::runs::{self, LocalPeer};

const EXAMPLES: &str = "\
Examples:
  peerless runs list
  peerless runs show
  peerless runs show runs/mine --json";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    command: RunsCommand,
}

#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// List the runs in a folder
    #[command(after_help = "Examples:\n  peerless runs list\n  peerless runs list --dir /data/runs --json")]
    List {
        /// Folder with run directories
        #[arg(long, value_name = "FOLDER", default_value = runs::RUNS)]
        dir: PathBuf,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a run trains, how far it is and where its time went
    #[command(after_help = "Examples:\n  peerless runs show\n  peerless runs show runs/mine --json")]
    Show {
        /// Run directory [default: the newest below runs/]
        run: Option<PathBuf>,
        /// Write JSON
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(args: &RunsArgs) -> anyhow::Result<()> {
    match &args.command {
        RunsCommand::List { dir, json } => list(dir, *json),
        RunsCommand::Show { run, json } => show(run.as_deref(), *json),
    }
}

/// How far a run is, from its most advanced peer.
struct Progress {
    state: &'static str,
    steps: u64,
    accuracy: Option<f64>,
    digest: Option<String>,
}

fn progress(peers: &[LocalPeer]) -> Progress {
    let newest: Option<&PeerStatus> =
        peers.iter().filter_map(|peer| peer.status.as_ref()).max_by_key(|status| status.round);
    let finished = newest.is_some_and(|status| status.finish_reason.is_some());
    let state = match (finished, peers.iter().any(|peer| peer.alive)) {
        (true, _) => "finished",
        (false, true) => "running",
        (false, false) => "stopped",
    };
    Progress {
        state,
        steps: newest.map_or(0, |status| status.steps),
        accuracy: newest.and_then(|status| status.evaluation).map(|evaluation| evaluation.accuracy),
        digest: newest.map(|status| status.state_digest.to_string()),
    }
}

fn list(folder: &Path, json: bool) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for (path, run) in runs::list(folder)? {
        let run = match run {
            Ok(run) => run,
            Err(error) => {
                label("warning", &error.to_string());
                continue;
            }
        };
        let progress = progress(&runs::peers(&run)?);
        documents.push(list_document(&run, &progress));
        rows.push(vec![
            path.display().to_string(),
            run.spec().model.clone(),
            run.spec().dataset.name.clone(),
            progress.state.to_owned(),
            format!("{}/{}", thousands(progress.steps), thousands(run.spec().rounds)),
            progress.accuracy.map_or_else(|| "-".into(), percent),
            progress.digest.map_or_else(|| "-".into(), |digest| digest.chars().take(8).collect()),
        ]);
    }
    if json {
        return output::json(&documents);
    }
    if rows.is_empty() {
        output::say(&format!("there is no run in {}; start one: peerless train", folder.display()));
        return Ok(());
    }
    let columns = [
        ("run", Align::Left),
        ("model", Align::Left),
        ("dataset", Align::Left),
        ("state", Align::Left),
        ("round", Align::Right),
        ("accuracy", Align::Right),
        ("digest", Align::Left),
    ];
    output::data(&table(&columns, &rows))
}

fn list_document(run: &RunDirectory, progress: &Progress) -> Value {
    let spec = run.spec();
    json!({
        "run_dir": run.path(), "run_id": spec.id(), "model": spec.model, "dataset": spec.dataset.name,
        "created_unix_us": run.created_unix_us(), "state": progress.state, "rounds_done": progress.steps,
        "rounds": spec.rounds, "test_accuracy": progress.accuracy, "state_digest": progress.digest,
    })
}

fn show(path: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let run = runs::open(path)?;
    let peers = runs::peers(&run)?;
    let progress = progress(&peers);
    let totals: Vec<_> = peers.iter().filter_map(|peer| Some((peer, totals(peer)?))).collect();
    let topology = peers.iter().find_map(|peer| Some(peer.status.as_ref()?.topology)).unwrap_or_default().as_str();
    let lost_work = lost_work(&run);
    if json {
        let mut document = list_document(&run, &progress);
        document["topology"] = topology.into();
        document["lost_work"] = serde_json::to_value(lost_work)?;
        document["spec"] = serde_json::to_value(run.spec())?;
        document["peers"] = totals.iter().map(|(peer, totals)| peer_document(peer, totals)).collect();
        return output::json(&document);
    }
    let spec = run.spec();
    let lines = [
        format!("run        {} in {}", spec.id(), run.path().display()),
        format!("model      {} on {}, seed {}", spec.model, spec.dataset.name, spec.seed),
        format!(
            "batch      {} units of {} samples per round",
            thousands(spec.units_per_round.into()),
            thousands(spec.samples_per_unit.into())
        ),
        format!("topology   {topology}"),
        format!("optimizer  {}", serde_json::to_string(&spec.optimizer)?),
        format!("rate       {}", serde_json::to_string(&spec.learning_rate)?),
        format!("progress   {}, {} of {} rounds", progress.state, thousands(progress.steps), thousands(spec.rounds)),
        format!("accuracy   {}", progress.accuracy.map_or_else(|| "not evaluated yet".into(), percent)),
        format!("state      {}", progress.digest.as_deref().unwrap_or("-")),
        format!("lost work  {}", lost_work.map_or_else(|| "-".to_owned(), |lost_work| lost_work.text())),
        String::new(),
        "mean milliseconds of a round".to_owned(),
        times_table(&totals),
    ];
    output::data(&lines.join("\n"))
}

/// What failures cost since the run began, the time between two sessions included; `None` if a ledger cannot be read.
fn lost_work(run: &RunDirectory) -> Option<LostWork> {
    let reading = cost::read(run, &Projection::default());
    let lost = reading.and_then(|reading| Ok(LostWork::of(run, &reading, 0)?));
    lost.inspect_err(|error| label("warning", &format!("{error:#}"))).ok()
}

/// What a peer's ledger says.
struct Totals {
    peer: PeerId,
    counts: runs::PeerTotals,
    rounds: Vec<RoundRecord>,
}

fn totals(peer: &LocalPeer) -> Option<Totals> {
    let id = peer.status.as_ref()?.peer;
    let read = || -> anyhow::Result<Totals> {
        let counts = runs::totals(&peer.directory, &id)?;
        let rounds = Ledger::open_read_only(&ledger_path(&peer.directory))?.rounds(0, u32::MAX)?;
        Ok(Totals { peer: id, counts, rounds })
    };
    read().inspect_err(|error| label("warning", &format!("{error:#}"))).ok()
}

impl Totals {
    /// Mean milliseconds of the parts of a round, in the order of the table's columns.
    fn times(&self) -> [f64; 6] {
        let mut sums = [0; 6];
        for round in &self.rounds {
            let times = &round.times;
            let parts =
                [times.compute_us, times.sum_us, times.transfer_us, times.update_us, times.digest_us, times.wait_us];
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum += part;
            }
        }
        sums.map(|sum| sum as f64 / 1e3 / self.rounds.len().max(1) as f64)
    }
}

const PARTS: [&str; 6] = ["compute", "sum", "transfer", "update", "digest", "wait"];

fn times_table(totals: &[(&LocalPeer, Totals)]) -> String {
    let mut columns = vec![("peer", Align::Left), ("id", Align::Left), ("rounds", Align::Right)];
    columns.extend(PARTS.map(|part| (part, Align::Right)));
    columns.extend([("contributions", Align::Right), ("backups", Align::Right), ("invocations", Align::Right)]);
    let row = |(peer, totals): &(&LocalPeer, Totals)| {
        let mut row = vec![peer.name.clone(), totals.peer.short(), thousands(totals.rounds.len() as u64)];
        row.extend(totals.times().map(|mean| format!("{mean:.1}")));
        let counts = &totals.counts;
        row.extend([counts.contributions, counts.backup_units, counts.invocations].map(thousands));
        row
    };
    table(&columns, &totals.iter().map(row).collect::<Vec<_>>())
}

fn peer_document(peer: &LocalPeer, totals: &Totals) -> Value {
    let times: serde_json::Map<String, Value> =
        PARTS.iter().zip(totals.times()).map(|(part, mean)| (format!("{part}_ms"), json!(mean))).collect();
    let counts = &totals.counts;
    json!({
        "name": peer.name, "id": totals.peer, "alive": peer.alive, "rounds_applied": totals.rounds.len(),
        "mean_round": times, "contributions": counts.contributions, "backup_units": counts.backup_units,
        "invocations": counts.invocations, "cold_starts": counts.cold_starts, "failed": counts.failed,
        "retried": counts.retried,
    })
}
