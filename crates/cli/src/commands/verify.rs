//! `peerless verify`.

use std::path::PathBuf;

use clap::Args;
use peerless_peer::run_directory::RunDirectory;
use serde_json::{Value, json};

use crate::failure::{Advise, code};
use crate::output::{self, Align, table, thousands};
use crate::runs;
use crate::verify::{Evidence, Finding, Recomputed, Sample, Verified, verify};

const EXAMPLES: &str = "\
Examples:
  peerless verify                           the newest run, from its ledgers and files
  peerless verify runs/mine --recompute 0.05
  peerless verify runs/mine --recompute 1 --json

A run may be verified while it trains. The exit code is 8 if anything is not as it must be.

Recomputing needs the state that a contribution was computed from. States that are not on disk any more
are reached by replaying the rounds before them, from the nearest earlier state or from the beginning;
that takes about as long as training on this machine alone. --no-replay goes without them.";

/// Checks signatures, the cover of every round, the chain of state digests, agreement between the peers
/// that ran here, and states and checkpoints on disk.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct VerifyArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// The same as RUN
    #[arg(long, value_name = "RUN", conflicts_with = "run")]
    run_dir: Option<PathBuf>,
    /// Recompute this part of the contributions on this machine, such as 0.05, and compare bits
    #[arg(long, value_name = "FRACTION", value_parser = fraction)]
    recompute: Option<f64>,
    /// Decides which contributions are recomputed
    #[arg(long, value_name = "N", default_value_t = 1, requires = "recompute")]
    seed: u64,
    /// Recompute only from states that are on disk
    #[arg(long, requires = "recompute")]
    no_replay: bool,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

fn fraction(text: &str) -> Result<f64, String> {
    let fraction: Option<f64> = text.parse().ok();
    fraction.filter(|part| (0.0..=1.0).contains(part)).ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

pub(crate) fn run(args: &VerifyArgs) -> anyhow::Result<()> {
    let run = runs::open(args.run.as_deref().or(args.run_dir.as_deref()))?;
    let evidence = Evidence::gather(&run)?;
    let replay = !args.no_replay;
    let sample = args.recompute.map(|fraction| Sample { fraction, seed: args.seed, replay });
    let verified = verify(&evidence, sample.as_ref())?;
    if args.json {
        output::json(&document(&run, &evidence, &verified, sample.as_ref()))?;
    } else {
        output::data(&text(&run, &evidence, &verified))?;
    }
    match verified.findings.wrong() {
        0 => Ok(()),
        wrong => {
            Err(anyhow::anyhow!("{} findings: the run is not verified", thousands(wrong))).code(code::NOT_VERIFIED)
        }
    }
}

fn text(run: &RunDirectory, evidence: &Evidence, verified: &Verified) -> String {
    let newest = verified.newest.map_or_else(|| "no state".to_owned(), |newest| format!("state {}", thousands(newest)));
    let peers = evidence.peers.len();
    let mut lines = vec![
        format!("run {} in {}: {peers} peers, up to {newest}", evidence.run, run.path().display()),
        String::new(),
        counts(verified),
    ];
    if let Some(recomputed) = &verified.recomputed {
        lines.push(String::new());
        lines.extend(recomputation(recomputed));
    }
    let gaps = gaps(verified);
    if !gaps.is_empty() || !verified.findings.notes().is_empty() {
        lines.push(String::new());
    }
    if !gaps.is_empty() {
        lines.push(format!("note: states {gaps} are in no ledger here, and the rounds before them not checked"));
    }
    for (what, note) in verified.findings.notes() {
        lines.push(format!("note: {} {what}, the first: {}", thousands(note.times), note.first));
    }
    if verified.findings.wrong() > 0 {
        lines.extend([String::new(), findings(verified)]);
    }
    lines.join("\n")
}

fn counts(verified: &Verified) -> String {
    let columns = [("check", Align::Left), ("checked", Align::Right), ("wrong", Align::Right)];
    let rows = verified
        .findings
        .counts()
        .iter()
        .map(|(check, count)| vec![check.subject().to_owned(), thousands(count.checked), thousands(count.wrong)]);
    table(&columns, &rows.collect::<Vec<_>>())
}

fn recomputation(recomputed: &Recomputed) -> Vec<String> {
    let mut lines = vec![format!(
        "recomputed {} of {} contributions chosen: {} equal bit for bit, {} different, {} not comparable (other numerics)",
        thousands(recomputed.equal + recomputed.different + recomputed.not_comparable),
        thousands(recomputed.chosen),
        thousands(recomputed.equal),
        thousands(recomputed.different),
        thousands(recomputed.not_comparable),
    )];
    if recomputed.replayed_rounds > 0 {
        lines.push(format!("replayed {} rounds to reach their states", thousands(recomputed.replayed_rounds)));
    }
    if recomputed.out_of_reach > 0 {
        let why = recomputed.limit.as_deref().unwrap_or("their states are not on disk");
        lines.push(format!("out of reach: {} ({why})", thousands(recomputed.out_of_reach)));
    }
    lines
}

fn gaps(verified: &Verified) -> String {
    let text = |(first, last): &(u64, u64)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    let shown: Vec<String> = verified.gaps.iter().take(10).map(text).collect();
    let more = if verified.gaps.len() > shown.len() { ", ..." } else { "" };
    shown.join(", ") + more
}

fn findings(verified: &Verified) -> String {
    let line = |finding: &Finding| {
        let mut parts = vec![finding.check.subject().to_owned()];
        parts.extend(finding.round.map(|round| format!("round {round}")));
        parts.extend(finding.author.as_ref().map(ToString::to_string));
        parts.extend(finding.found_at.as_ref().map(|peer| format!("in the directory of peer {peer}")));
        format!("wrong: {}: {}", parts.join(", "), finding.what)
    };
    let shown = verified.findings.shown();
    let mut lines: Vec<String> = shown.iter().map(line).collect();
    let more = verified.findings.wrong() - shown.len() as u64;
    if more > 0 {
        lines.push(format!("and {} more", thousands(more)));
    }
    lines.join("\n")
}

fn document(run: &RunDirectory, evidence: &Evidence, verified: &Verified, sample: Option<&Sample>) -> Value {
    let gaps: Vec<Value> = verified.gaps.iter().map(|(first, last)| json!({ "first": first, "last": last })).collect();
    let checks: serde_json::Map<String, Value> = verified
        .findings
        .counts()
        .iter()
        .filter_map(|(check, count)| Some((json!(check).as_str()?.to_owned(), json!(count))))
        .collect();
    json!({
        "version": 1, "run_id": evidence.run, "run_dir": run.path(), "verified": verified.findings.wrong() == 0,
        "peers": evidence.peers.iter().map(|peer| &peer.name).collect::<Vec<_>>(), "newest_state": verified.newest,
        "checks": checks, "findings": verified.findings.shown(), "findings_total": verified.findings.wrong(),
        "notes": verified.findings.notes(), "unrecorded_states": gaps,
        "recompute": sample.zip(verified.recomputed.as_ref()).map(|(sample, recomputed)| {
            json!({ "fraction": sample.fraction, "seed": sample.seed, "replay": sample.replay, "result": recomputed })
        }),
    })
}
