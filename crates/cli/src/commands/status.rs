//! `peerless status`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use peerless_functions::prices::Money;
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::{DivergenceStatus, PeerStatus, RefusalStatus, unix_us};
use peerless_protocol::Digest;
use serde_json::{Value, json};

use crate::output::{self, Align, percent, table, thousands};
use crate::runs::{self, LocalPeer};
use crate::train::progress::cost;

const EXAMPLES: &str = "\
Examples:
  peerless status                the newest run
  peerless status runs/mine
  watch -n1 peerless status";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct StatusArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// The same as RUN
    #[arg(long, value_name = "RUN", conflicts_with = "run")]
    run_dir: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let run = runs::open(args.run.as_deref().or(args.run_dir.as_deref()))?;
    let peers = runs::peers(&run)?;
    if args.json { output::json(&document(&run, &peers)) } else { output::data(&text(&run, &peers)) }
}

fn text(run: &RunDirectory, peers: &[LocalPeer]) -> String {
    let spec = run.spec();
    let steps = statuses(peers).map(|status| status.steps).max().unwrap_or_default();
    let mut lines = vec![format!(
        "run {} in {}: {} on {}, round {} of {}",
        spec.id().short(),
        run.path().display(),
        spec.model,
        spec.dataset.name,
        thousands(steps),
        thousands(spec.rounds)
    )];
    if peers.is_empty() {
        lines.push("no peer has been started here".into());
        return lines.join("\n");
    }
    lines.extend([String::new(), peer_table(peers), String::new(), numerics(peers)]);
    lines.extend(agreement(peers));
    lines.extend(bill(peers));
    lines.extend(peers.iter().filter_map(gradient_store));
    lines.extend(peers.iter().flat_map(|peer| divergences(peer).into_iter().chain(refusals(peer))));
    lines.join("\n")
}

/// What the peers have spent.
fn bill(peers: &[LocalPeer]) -> Option<String> {
    let bills = || statuses(peers).filter_map(|status| status.bill);
    let spent = bills().map(|bill| bill.spent_usd).reduce(|sum, spent| sum + spent)?;
    let budget = bills().map(|bill| bill.budget_usd).sum::<Option<Money>>();
    let used_up = bills().filter(|bill| bill.used_up).count();
    let used_up = if used_up > 0 { format!("; the budget of {used_up} peers is used up") } else { String::new() };
    Some(format!("{}{used_up}; `peerless cost` has the bill", cost(spent, budget)))
}

/// Where the gradients of a peer are, if they are in a database.
fn gradient_store(peer: &LocalPeer) -> Option<String> {
    let store = peer.status.as_ref()?.gradient_store.as_ref()?;
    let how = match (&store.away, store.module) {
        (Some(reason), _) => format!("summed from files meanwhile: {reason}"),
        (None, Some(true)) => format!("in {}, summed by its module", store.server),
        (None, Some(false)) => format!("in {}, summed by the peer", store.server),
        (None, None) => format!("to be in {}", store.server),
    };
    let outages = match store.outages {
        0 => String::new(),
        1 => " (1 outage)".to_owned(),
        outages => format!(" ({} outages)", thousands(outages)),
    };
    Some(format!("gradients of peer {}: {how}{outages}", peer.name))
}

/// What a peer received and did not use.
fn refusals(peer: &LocalPeer) -> Vec<String> {
    let Some(status) = peer.status.as_ref().filter(|status| status.refused > 0) else { return Vec::new() };
    let name = &peer.name;
    let line = |refusal: &RefusalStatus| {
        let RefusalStatus { peer, kind, times, reason } = refusal;
        format!("refused at peer {name}: {} {kind} from {peer}, the first: {reason}", thousands(*times))
    };
    let mut lines: Vec<String> = status.refusals.iter().map(line).collect();
    let shown: u64 = status.refusals.iter().map(|refusal| refusal.times).sum();
    if status.refused > shown {
        lines.push(format!("refused at peer {name}: {} more from others", thousands(status.refused - shown)));
    }
    lines
}

/// Different states for one round that a peer has noticed.
fn divergences(peer: &LocalPeer) -> Vec<String> {
    let Some(status) = &peer.status else { return Vec::new() };
    let Some(last) = status.last_divergence.filter(|_| status.divergences > 0) else { return Vec::new() };
    let DivergenceStatus { round, own, winner, .. } = last;
    let side = if own == winner { "which counts" } else { "which lost to the other one" };
    vec![format!(
        "DIVERGENCE at peer {}: {} noticed, the last at state {}: it held {}, {side} ({} counts)",
        peer.name,
        thousands(status.divergences),
        thousands(round),
        own.short(),
        winner.short()
    )]
}

fn peer_table(peers: &[LocalPeer]) -> String {
    let columns = [
        ("peer", Align::Left),
        ("id", Align::Left),
        ("pid", Align::Right),
        ("phase", Align::Left),
        ("round", Align::Right),
        ("state", Align::Left),
        ("loss", Align::Right),
        ("accuracy", Align::Right),
        ("functions", Align::Right),
        ("backups", Align::Right),
        ("age", Align::Right),
    ];
    table(&columns, &peers.iter().map(row).collect::<Vec<_>>())
}

fn row(peer: &LocalPeer) -> Vec<String> {
    let unknown = || "-".to_owned();
    let Some(status) = &peer.status else {
        let mut row = vec![unknown(); 11];
        row[0].clone_from(&peer.name);
        row[3] = peer.phase().to_owned();
        return row;
    };
    let busy = status.functions.processes.iter().filter(|function| function.busy).count();
    vec![
        peer.name.clone(),
        status.peer.short(),
        status.pid.to_string(),
        peer.phase().to_owned(),
        thousands(status.steps),
        if has_state(status) { status.state_digest.short() } else { unknown() },
        status.training_loss.map_or_else(unknown, |loss| format!("{loss:.4}")),
        status.evaluation.map_or_else(unknown, |evaluation| percent(evaluation.accuracy)),
        if peer.alive { format!("{busy}/{}", status.functions.processes.len()) } else { unknown() },
        thousands(status.backup_units),
        age(status),
    ]
}

fn age(status: &PeerStatus) -> String {
    let seconds = unix_us().saturating_sub(status.updated_unix_us) / 1_000_000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Whether it has come as far as a state; before, its digest is zeros.
fn has_state(status: &PeerStatus) -> bool {
    status.state_digest.0 != [0; 32]
}

fn statuses(peers: &[LocalPeer]) -> impl Iterator<Item = &PeerStatus> {
    peers.iter().filter_map(|peer| peer.status.as_ref())
}

/// How many peers compute the same bits.
fn numerics(peers: &[LocalPeer]) -> String {
    let mut counts: BTreeMap<Digest, usize> = BTreeMap::new();
    for fingerprint in statuses(peers).filter_map(|status| status.fingerprint) {
        *counts.entry(fingerprint).or_default() += 1;
    }
    let known: usize = counts.values().sum();
    match counts.iter().max_by_key(|(_, count)| **count) {
        None => "numerics: not known yet".into(),
        Some((digest, &count)) if count == known => format!("numerics: all {known} peers share {}", digest.short()),
        Some((digest, count)) => format!("numerics: {count} of {known} peers share {}", digest.short()),
    }
}

/// Rounds at which more than one peer is, and whether their digests are the same.
fn rounds(peers: &[LocalPeer]) -> BTreeMap<u64, Vec<Digest>> {
    let mut rounds: BTreeMap<u64, Vec<Digest>> = BTreeMap::new();
    for status in statuses(peers).filter(|status| has_state(status)) {
        rounds.entry(status.round).or_default().push(status.state_digest);
    }
    rounds
}

fn agrees(digests: &[Digest]) -> bool {
    digests.windows(2).all(|pair| pair[0] == pair[1])
}

fn agreement(peers: &[LocalPeer]) -> Vec<String> {
    let rounds = rounds(peers);
    let differing: Vec<String> =
        rounds.iter().filter(|(_, digests)| !agrees(digests)).map(|(round, _)| thousands(*round)).collect();
    if !differing.is_empty() {
        return vec![format!("states: DIFFERENT among the peers at state {}", differing.join(", "))];
    }
    let together = rounds.values().filter(|digests| digests.len() > 1).map(Vec::len).sum::<usize>();
    match together {
        0 => vec!["states: no two peers are at the same round now".into()],
        together => vec![format!("states: the same on all {together} peers that are at the same round")],
    }
}

fn document(run: &RunDirectory, peers: &[LocalPeer]) -> Value {
    let peer = |peer: &LocalPeer| {
        json!({ "name": peer.name, "directory": peer.directory, "alive": peer.alive, "phase": peer.phase(),
                "status": peer.status })
    };
    json!({
        "run_id": run.spec().id(), "run_dir": run.path(), "rounds": run.spec().rounds,
        "states_agree": rounds(peers).values().all(|digests| agrees(digests)),
        "peers": peers.iter().map(peer).collect::<Vec<_>>(),
    })
}
