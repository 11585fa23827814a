//! What faults of real peers cost the others: time until the next round, time until everybody is back,
//! and work that was done again.

mod incident;
mod measure;
mod report;

use std::fmt;
use std::str::FromStr;

use clap::Args;

use crate::data;
use crate::failure::{Advise, code};
use crate::output::{self, label, say};
use crate::train::agreement::Agreement;
use crate::train::network::Network;
use incident::Scene;
use measure::Ledgers;
use report::Report;

#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    /// kill (kill -9 of a peer, later a restart), stop (SIGSTOP of a peer for longer than every deadline,
    /// then SIGCONT), partition (half of the peers are cut off, then not; needs root for network
    /// namespaces), function (kill -9 of a function) or all; can be repeated
    #[arg(long, value_name = "FAULT", default_value = "all")]
    fault: Vec<Selection>,
    /// Repetitions of each fault, at one peer after the other
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Peers of the run
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=64))]
    peers: u16,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
}

/// What happens to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kill,
    Stop,
    Partition,
    Function,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Kill, Self::Stop, Self::Partition, Self::Function];

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
            Self::Partition => "partition",
            Self::Function => "function",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One fault, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Selection(Option<Kind>);

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        match (found, text) {
            (Some(kind), _) => Ok(Self(Some(kind))),
            (None, "all") => Ok(Self(None)),
            _ => Err("expected kill, stop, partition, function or all".to_owned()),
        }
    }
}

pub(super) fn run(args: &RecoveryArgs) -> anyhow::Result<()> {
    data::ensure("mnist")?;
    let wanted = |kind: &Kind| args.fault.iter().any(|Selection(one)| one.is_none_or(|one| one == *kind));
    let mut reports = Vec::new();
    for kind in Kind::ALL.into_iter().filter(wanted) {
        let network = match network(kind, args)? {
            Ok(network) => network,
            Err(reason) => {
                label("skipped", &reason);
                continue;
            }
        };
        say(&format!("{kind}: {} repetitions with {} peers", args.repetitions, args.peers));
        reports.push(measure(kind, args, network)?);
    }
    if args.json { output::json(&reports) } else { output::data(&report::text(&reports)) }
}

/// The network that a fault needs, if any, or why it cannot be had. That is an error only for somebody
/// who asked for nothing else.
fn network(kind: Kind, args: &RecoveryArgs) -> anyhow::Result<Result<Option<Network>, String>> {
    if kind != Kind::Partition {
        return Ok(Ok(None));
    }
    match Network::create(args.peers.into()) {
        Ok(network) => Ok(Ok(Some(network))),
        Err(error) if args.fault == [Selection(Some(Kind::Partition))] => {
            Err(error).hint("a partition needs root, network namespaces, veth, bridges and `ip`")
        }
        Err(error) => Ok(Err(format!("partition: no network namespaces here: {error:#}"))),
    }
}

fn measure(kind: Kind, args: &RecoveryArgs, network: Option<Network>) -> anyhow::Result<Report> {
    let mut scene = Scene::start(args.peers.into(), network)?;
    let mut incidents = Vec::new();
    for repetition in 0..args.repetitions {
        incidents.push(scene.repeat(kind, repetition as usize)?);
    }
    let fleet = scene.end()?;
    let mut agreement = Agreement::default();
    agreement.compare(&fleet.run, 0, "peer ")?;
    if let Some(difference) = agreement.differences.first() {
        return Err(anyhow::anyhow!("peers had different states: {difference}")).code(code::DIVERGED);
    }
    let ledgers = Ledgers::read(&fleet.run)?;
    Ok(Report::new(kind, args.peers, fleet.run.spec(), &ledgers, &incidents, &agreement))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_selected_by_name() {
        for kind in Kind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(Selection(Some(kind))));
        }
        assert_eq!("all".parse(), Ok(Selection(None)));
        assert!("Kill".parse::<Selection>().is_err());
    }
}
