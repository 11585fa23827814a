//! Peers of a run in a temporary directory, for commands that do things to them and look at what
//! comes of it. Nobody but the command sees the run, and nothing of it is left.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use peerless_peer::run_directory::RunDirectory;
use rustix::process::Signal;
use tempfile::TempDir;

use super::fault::Action;
use super::inject::{kill_functions, strike};
use super::peers::{Launch, Peer, log_tail};
use crate::commands::train::create_run;
use crate::functions::FunctionArgs;
use crate::spec::SpecArgs;

/// Time between two looks.
const POLL: Duration = Duration::from_millis(5);
/// How long killed peers may take to be gone before they are left to themselves.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long peers may take to leave.
const LEAVE_LIMIT: Duration = Duration::from_secs(60);

/// The peers and their run. They are killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) run: RunDirectory,
    pub(crate) peers: Vec<Peer>,
    launch: Launch,
    directory: TempDir,
}

impl Fleet {
    /// Makes a run and its peers, named from 1; none is started yet.
    pub(crate) fn new(spec: &SpecArgs, peers: usize) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a temporary directory")?;
        let run = create_run(spec, false, Some(&directory.path().join("run")))?;
        let peer = |number: usize| Ok(Peer::new(number.to_string(), run.peer_directory(&number.to_string())?));
        let peers: Vec<Peer> = (1..=peers).map(peer).collect::<anyhow::Result<_>>()?;
        let mut flags = vec!["--expect".to_owned(), (peers.len() - 1).to_string()];
        flags.extend(FunctionArgs::default().for_peer(peers.len()));
        let program = std::env::current_exe().context("cannot find out where this program is")?;
        let launch = Launch { program, run: run.path().to_path_buf(), flags, end_with_watcher: true };
        Ok(Self { run, peers, launch, directory })
    }

    /// Starts all peers.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        self.peers.iter_mut().try_for_each(|peer| peer.start(&self.launch))
    }

    /// One look at everything. Peers that were killed to be restarted are started.
    ///
    /// # Errors
    /// When a peer has died that nobody did anything to.
    pub(crate) fn look(&mut self) -> anyhow::Result<()> {
        for peer in &mut self.peers {
            let Some(exit) = peer.poll()? else { continue };
            if peer.restart {
                peer.start(&self.launch)?;
            } else if !peer.end_expected {
                let log = log_tail(&peer.directory).join("\n  | ");
                bail!("peer {} ended by itself ({exit}); the end of its log:\n  | {log}", peer.name);
            }
        }
        Ok(())
    }

    /// Looks until the condition holds.
    pub(crate) fn wait(
        &mut self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            self.look()?;
            if condition(self) {
                return Ok(());
            }
            ensure!(start.elapsed() < limit, "waited {} s in vain until {what}: {}", limit.as_secs(), self.describe());
            std::thread::sleep(POLL);
        }
    }

    /// Looks for so long.
    pub(crate) fn pass(&mut self, time: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        self.wait("time has passed", time + KILL_LIMIT, |_| start.elapsed() >= time)
    }

    /// The newest round that a peer has said to be at.
    pub(crate) fn front(&self) -> u64 {
        self.peers.iter().filter_map(|peer| Some(peer.status.as_ref()?.round)).max().unwrap_or_default()
    }

    /// Whether all peers live, none is stopped, and all have come to this round.
    pub(crate) fn all_at(&self, round: u64) -> bool {
        let there = |peer: &Peer| {
            let reached = peer.status.as_ref().is_some_and(|status| status.round >= round);
            reached && peer.lives() && !peer.stopped && !peer.restart
        };
        self.peers.iter().all(there)
    }

    /// Does what the action says; what was done it to, or `None` if there was nothing.
    pub(crate) fn strike(&mut self, action: Action) -> anyhow::Result<Option<String>> {
        if let Action::KillFunctions { count } = action {
            let killed = kill_functions(&self.peers, count);
            return Ok((!killed.is_empty()).then(|| format!("functions {killed:?}")));
        }
        let Some(peer) = action.peer().and_then(|number| self.peers.get_mut(number - 1)) else { return Ok(None) };
        let pid = peer.pid().unwrap_or_default();
        let done = strike(peer, action);
        if matches!(action, Action::Restart { .. }) && !peer.restart {
            peer.start(&self.launch)?;
            return Ok(Some(format!("pid {}", peer.pid().unwrap_or_default())));
        }
        Ok(done.then(|| format!("pid {pid}")))
    }

    /// Asks all peers to leave with a checkpoint and waits until they have. What they wrote stays until
    /// this is dropped.
    pub(crate) fn leave(&mut self) -> anyhow::Result<()> {
        for peer in &mut self.peers {
            peer.restart = false;
            peer.signal(Signal::TERM);
            peer.signal(Signal::CONT);
        }
        self.wait("all peers have left", LEAVE_LIMIT, |fleet| !fleet.peers.iter().any(Peer::lives))
    }

    /// Keeps the run's directory, for somebody to look at.
    pub(crate) fn keep(&mut self) -> &Path {
        self.directory.disable_cleanup(true);
        self.directory.path()
    }

    fn describe(&self) -> String {
        let peer = |peer: &Peer| {
            let round = peer.status.as_ref().map_or_else(|| "-".to_owned(), |status| status.round.to_string());
            let how = if peer.stopped {
                " stopped"
            } else if peer.lives() {
                ""
            } else {
                " dead"
            };
            format!("peer {} at round {round}{how}", peer.name)
        };
        let peers: Vec<String> = self.peers.iter().map(peer).collect();
        format!("{} (run in {})", peers.join(", "), self.directory.path().display())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for peer in &mut self.peers {
            peer.restart = false;
            peer.signal(Signal::KILL);
        }
        let start = Instant::now();
        while self.peers.iter().any(Peer::lives) && start.elapsed() < KILL_LIMIT {
            for peer in &mut self.peers {
                // One that cannot be waited for is waited for until the limit.
                let _ = peer.poll();
            }
            std::thread::sleep(POLL);
        }
        for peer in &self.peers {
            if let Err(error) = peerless_peer::release_tensors(&peer.directory) {
                crate::output::label("warning", &format!("shared memory of peer {} was not freed: {error}", peer.name));
            }
        }
    }
}
