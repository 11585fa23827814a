//! Who forms states: every peer, or a parameter server.

use std::fs;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, ValueEnum};
use peerless_peer::identity::Identity;
use peerless_peer::local::SERVER;
use peerless_peer::run_directory::RunDirectory;
use peerless_protocol::PeerId;

use crate::failure::{Advise, code};

/// Rounds between a server's checkpoints unless a flag says otherwise: a crash costs five rounds on average, and a
/// checkpoint of LeNet-5, written beside the rounds, a few milliseconds.
pub(crate) const DEFAULT_CHECKPOINT_ROUNDS: u64 = 10;

/// Seconds from the death of a process that must be replaced to the start of the next one, unless a flag says otherwise. Stands for
/// noticing it and booting another VM. A round assumption, as that depends on cloud, image and kind of machine: Hao, Jiang,
/// Wang and Kim, "An Empirical Analysis of VM Startup Times in Public IaaS Clouds" (arXiv 2107.03467).
const DEFAULT_BOOT_S: f64 = 30.0;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum TopologyKind {
    /// Every peer forms every state
    #[default]
    P2p,
    /// One server forms states, workers compute
    ParameterServer,
    /// All form every state, and none can be missed
    AllReduce,
}

/// The topology of a run. None of this changes the model.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Topology")]
pub(crate) struct TopologyArgs {
    /// Who forms states; see docs/topologies.md [default: p2p, or that of the run that is resumed]
    #[arg(long, value_name = "KIND")]
    topology: Option<TopologyKind>,
    /// Rounds between the checkpoints of the parameter server, or of each worker of an all-reduce [default: 10]
    #[arg(long, value_name = "ROUNDS", value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_rounds: Option<u64>,
    /// Seconds until a parameter server, or a worker of an all-reduce, that has died is started again, which stand for
    /// the boot of a VM [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    boot_s: Option<f64>,
}

impl TopologyArgs {
    /// The topology, for a new run or one whose server is there or not; refuses flags that it has no use for.
    pub(crate) fn kind(&self, of_run: Option<TopologyKind>) -> anyhow::Result<TopologyKind> {
        let kind = self.topology.or(of_run).unwrap_or_default();
        let has_server = |kind| kind == TopologyKind::ParameterServer;
        if of_run.is_some_and(|of_run| has_server(of_run) != has_server(kind)) {
            return Err(anyhow!("the topology of a run cannot be changed when it is resumed")).code(code::USAGE);
        }
        let of_others =
            [("--checkpoint-rounds", self.checkpoint_rounds.is_some()), ("--boot-s", self.boot_s.is_some())];
        match of_others.into_iter().find(|(_, given)| *given && kind == TopologyKind::P2p) {
            Some((flag, _)) => Err(anyhow!("{flag} needs --topology parameter-server or all-reduce")).code(code::USAGE),
            None => Ok(kind),
        }
    }

    /// Time until what must be replaced is started again.
    pub(crate) fn boot(&self) -> Duration {
        Duration::from_secs_f64(self.boot_s.unwrap_or(DEFAULT_BOOT_S))
    }

    /// The flags again, for the processes of a run of this topology.
    pub(crate) fn for_peer(&self, kind: TopologyKind, run: &RunDirectory) -> anyhow::Result<Vec<String>> {
        let mut flags = match kind {
            TopologyKind::P2p => return Ok(Vec::new()),
            TopologyKind::ParameterServer => vec!["--parameter-server".to_owned(), server_id(run)?.to_string()],
            TopologyKind::AllReduce => vec!["--all-reduce".to_owned()],
        };
        let rounds = self.checkpoint_rounds.unwrap_or(DEFAULT_CHECKPOINT_ROUNDS);
        flags.extend(["--checkpoint-rounds".to_owned(), rounds.to_string()]);
        Ok(flags)
    }
}

/// The id of a run's server, which is made before the server starts, so that workers know whom to work for.
fn server_id(run: &RunDirectory) -> anyhow::Result<PeerId> {
    let directory = run.peer_directory(SERVER)?;
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    Ok(Identity::load_or_generate(&directory.join("identity.key"))?.peer_id())
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "expected seconds from 0 to 86400, such as 2.5".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        topology: TopologyArgs,
    }

    fn line(words: &[&str]) -> TopologyArgs {
        Line::parse_from([&["test"], words].concat()).topology
    }

    #[test]
    fn flags_of_a_server_need_one() {
        for flag in [&["--checkpoint-rounds", "5"], &["--boot-s", "1.5"]] {
            let error = line(flag).kind(None).unwrap_err().to_string();
            assert!(error.contains(flag[0]) && error.contains("parameter-server"), "{error}");
            for kind in ["parameter-server", "all-reduce"] {
                line(&[&["--topology", kind][..], flag].concat()).kind(None).unwrap();
            }
        }
        assert_eq!(line(&["--boot-s", "1.5"]).boot(), Duration::from_millis(1500));
        assert!(Line::try_parse_from(["test", "--boot-s", "nan"]).is_err());
    }

    #[test]
    fn a_run_keeps_its_topology() {
        let server = Some(TopologyKind::ParameterServer);
        assert_eq!(line(&[]).kind(server).unwrap(), TopologyKind::ParameterServer);
        assert_eq!(line(&[]).kind(None).unwrap(), TopologyKind::P2p);
        assert!(line(&["--topology", "p2p"]).kind(server).is_err());
        assert!(line(&["--topology", "parameter-server"]).kind(Some(TopologyKind::P2p)).is_err());
    }
}
