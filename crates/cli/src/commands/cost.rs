//! `peerless cost`.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use crate::cost::{Bill, By, Projection, document, read, text};
use crate::failure::{Advise, advised, code};
use crate::output;
use crate::prices::{self, FunctionAs};
use crate::runs;

const EXAMPLES: &str = "\
Examples:
  peerless cost                                   the newest run, by the prices that it was started with
  peerless cost runs/mine --by epoch
  peerless cost --as lambda-x86:1769              as if its functions had run on AWS Lambda with 1,769 MB
  peerless cost --as lambda-arm64:3538 --peer-price t2.large --json
  peerless cost --prices mine.toml                with own prices in the place of those of the same name

Works while the run goes on; then the bill is as old as the last round in the ledgers. The exit code is 1 if
the ledger of a peer is missing or damaged; the bill of the others is printed all the same.";

/// The bill of a run from the ledgers of all peers in its directory: by peer, platform and epoch, and what was
/// wasted on failed, discarded and repeated work. See docs/cost.md.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CostArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// The same as RUN
    #[arg(long, value_name = "RUN", conflicts_with = "run")]
    run_dir: Option<PathBuf>,
    /// Only this breakdown [default: all]
    #[arg(long, value_enum)]
    by: Option<By>,
    /// Project: all invocations as if they had run for this price with so much memory
    #[arg(long = "as", value_name = "NAME:MB")]
    project: Option<FunctionAs>,
    /// Project: all peers as if they had run on this machine, by name or in dollars per hour
    #[arg(long, value_name = "NAME")]
    peer_price: Option<String>,
    /// Table with own prices; what the run recorded is priced anew where a name is the same
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CostArgs) -> anyhow::Result<()> {
    let projection = args.projection()?;
    let run = runs::open(args.run.as_deref().or(args.run_dir.as_deref()))?;
    let reading = read(&run, &projection)?;
    let bill = Bill::of(&reading);
    if reading.peers.is_empty() {
        let reason = reading.unreadable.first().map(|first| format!(": {}", first.reason)).unwrap_or_default();
        return Err(anyhow!("{} has no ledger to make a bill from{reason}", run.path().display()))
            .hint("`peerless peer list` shows the peers that were started there");
    }
    if args.json {
        output::json(&document(&run, &reading, &bill, &projection, args.by))?;
    } else {
        output::data(&text(&run, &reading, &bill, &projection, args.by))?;
    }
    match reading.unreadable.as_slice() {
        [] => Ok(()),
        [first, ..] => Err(anyhow!("the bill is incomplete: peer {}: {}", first.peer, first.reason)),
    }
}

impl CostArgs {
    fn projection(&self) -> anyhow::Result<Projection> {
        let table = prices::table(self.prices.as_deref())?;
        let functions = self.project.as_ref().map(|project| {
            let memory = project.memory_mb.ok_or_else(|| {
                let hint = format!("say how much memory the functions would have, in MB: --as {}:1769", project.name);
                advised(anyhow!("--as {} names no memory", project.name), code::USAGE, Some(hint))
            })?;
            table.rate(&project.name, Some(memory)).code(code::USAGE)
        });
        let machine = self.peer_price.as_deref().map(|name| table.machine(name).code(code::USAGE));
        Ok(Projection {
            functions: functions.transpose()?,
            machine: machine.transpose()?,
            table: self.prices.is_some().then_some(table),
        })
    }
}
