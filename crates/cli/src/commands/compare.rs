//! `peerless compare`: topologies, faults and sizes against each other, on real processes.

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;

use super::train::Planned;
use crate::compare::agreement::{Agreement, Verdict};
use crate::compare::cells::Comparison;
use crate::compare::execute::Executor;
use crate::compare::outcome::Outcome;
use crate::compare::page;
use crate::compare::table::{Compared, document, markdown, text};
use crate::data;
use crate::failure::{Advise, advised, code};
use crate::output::{self, Align, label, say, table};

const EXAMPLES: &str = "\
Examples:
  peerless compare experiments/2-worker-dies.toml
  peerless compare experiments/1-*.toml experiments/2-*.toml --html report.html
  peerless compare experiments/7-scaling.toml --dry-run
  peerless compare experiments/3-*.toml --markdown > table.md

A specification (docs/compare.md), here of twelve runs:
  title = \"A worker dies\"
  repetitions = 3
  [axes]
  topologies = [\"p2p\", \"parameter-server\"]
  peers = [4]
  [train]
  rounds = 200
  [faults.worker-dies]
  inject = [\"kill:1@100\"]

Runs that ended well are kept in --out and not run again by the same command: after Ctrl-C it goes on.
Exit code 6 if runs of the same work ended in different states, 3 if a run failed.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CompareArgs {
    /// Specifications of what is compared
    #[arg(required = true, value_name = "SPEC.toml")]
    specs: Vec<PathBuf>,
    /// Where the runs are kept
    #[arg(long, value_name = "DIR", default_value = "compare")]
    out: PathBuf,
    /// Write a report with charts, one page without anything outside of it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// What the report says of where and what was measured, such as the machine and the commit
    #[arg(long, value_name = "TEXT", default_value = "")]
    note: String,
    /// Check the specifications and list the runs
    #[arg(long)]
    dry_run: bool,
    /// Write the result to stdout as JSON
    #[arg(long, conflicts_with = "markdown")]
    json: bool,
    /// Write the tables to stdout as Markdown
    #[arg(long)]
    markdown: bool,
}

pub(crate) fn run(args: &CompareArgs) -> anyhow::Result<()> {
    let comparisons: Vec<Comparison> =
        args.specs.iter().map(|path| Comparison::read(path)).collect::<anyhow::Result<_>>().code(code::USAGE)?;
    check_names(&comparisons)?;
    if args.dry_run {
        return list(&comparisons);
    }
    // Once, and not by all peers of the first run at a time.
    for dataset in datasets(&comparisons)? {
        data::ensure(dataset)?;
    }
    let outcomes = execute(args, &comparisons)?;
    let all: Vec<Compared> =
        comparisons.iter().zip(&outcomes).map(|(comparison, outcomes)| Compared::new(comparison, outcomes)).collect();
    let verdict = verdict(&all);
    if let Some(path) = &args.html {
        let page = page::html(&all, &verdict, &args.note);
        std::fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("report in {}", path.display()));
    }
    match (args.json, args.markdown) {
        (true, _) => output::json(&document(&all, &verdict))?,
        (_, true) => output::data(&markdown(&all, &verdict))?,
        _ => output::data(&text(&all, &verdict))?,
    }
    conclude(&all, &verdict)
}

/// Names are folders.
fn check_names(comparisons: &[Comparison]) -> anyhow::Result<()> {
    let mut names: Vec<&str> = comparisons.iter().map(|comparison| comparison.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(anyhow!("two specifications are called {}", pair[0])).code(code::USAGE),
        None => Ok(()),
    }
}

fn datasets(comparisons: &[Comparison]) -> anyhow::Result<Vec<&'static str>> {
    let runs = comparisons.iter().flat_map(|comparison| comparison.runs.iter().filter(|run| run.repetition == 0));
    let mut datasets = runs.map(|run| Ok(Planned::of(&run.flags)?.dataset)).collect::<anyhow::Result<Vec<_>>>()?;
    datasets.sort_unstable();
    datasets.dedup();
    Ok(datasets)
}

fn list(comparisons: &[Comparison]) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    for comparison in comparisons {
        for run in comparison.runs.iter().filter(|run| run.repetition == 0) {
            let cell = comparison.cells[run.cell].id();
            let repetitions = comparison.spec.repetitions.to_string();
            rows.push(vec![comparison.name.clone(), cell, repetitions, run.flags.join(" ")]);
        }
    }
    let columns = [
        ("comparison", Align::Left),
        ("cell", Align::Left),
        ("runs", Align::Right),
        ("train (first run)", Align::Left),
    ];
    output::data(&table(&columns, &rows))?;
    let runs: usize = comparisons.iter().map(|comparison| comparison.runs.len()).sum();
    say(&format!("{runs} runs in {} cells", rows.len()));
    Ok(())
}

fn execute(args: &CompareArgs, comparisons: &[Comparison]) -> anyhow::Result<Vec<Vec<Outcome>>> {
    let runs: usize = comparisons.iter().map(|comparison| comparison.runs.len()).sum();
    let cells: usize = comparisons.iter().map(|comparison| comparison.cells.len()).sum();
    let mut executor = Executor::new(&args.out, comparisons)?;
    let before = executor.done_before();
    let done = if before > 0 { format!(", of which {before} are done") } else { String::new() };
    say(&format!("{runs} runs in {cells} cells{done}; kept in {}", args.out.display()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut outcomes = Vec::with_capacity(comparisons.len());
        for comparison in comparisons {
            outcomes.push(executor.execute(comparison).await?);
        }
        Ok(outcomes)
    })
}

fn verdict(all: &[Compared]) -> Verdict {
    let mut agreement = Agreement::default();
    for compared in all {
        for result in &compared.results {
            for (index, outcome) in result.outcomes.iter().enumerate() {
                let name = format!("{}/{}/{}", compared.comparison.name, result.cell.id(), index + 1);
                agreement.add(name, outcome);
            }
        }
    }
    agreement.verdict()
}

fn conclude(all: &[Compared], verdict: &Verdict) -> anyhow::Result<()> {
    if !verdict.agree {
        return Err(anyhow!("runs of the same work ended in different states")).code(code::DIVERGED);
    }
    let failed: usize = all.iter().flat_map(|compared| &compared.results).map(|result| result.failures().count()).sum();
    if failed == 0 {
        return Ok(());
    }
    label("warning", "figures are of the runs that ended well alone");
    let hint = "what a failed run said is in train.log of its folder; the same command tries it again".to_owned();
    Err(advised(anyhow!("{failed} runs failed"), code::RUN_FAILED, Some(hint)))
}
