//! The supervisor of what must be replaced when it dies: a parameter server, and all workers of an all-reduce. Without
//! a server, and without workers, nothing ever happens again.

use std::time::Instant;

use rustix::process::Signal;

use super::peers::{Exit, Peer};
use super::topology::TopologyKind;
use super::watch::Watch;

impl Watch {
    /// What a signal has ended comes back once another VM would have booted, and so do workers that have stopped for
    /// the loss of another one. What ended with an error would only do so again.
    pub(super) fn plan_restart(&mut self, index: usize, exit: Exit) {
        let (needed, whom) = match self.topology {
            TopologyKind::P2p => (false, ""),
            TopologyKind::ParameterServer => (self.peers[index].is_server(), "the server is"),
            TopologyKind::AllReduce => (true, "all workers are"),
        };
        let stopped_by_loss = exit == Exit::WorkerLost;
        if self.interrupts > 0 || !needed || !(stopped_by_loss || matches!(exit, Exit::Signal(_))) {
            return;
        }
        self.peers[index].restart_at = Some(Instant::now() + self.boot);
        if !stopped_by_loss {
            self.progress
                .say(&format!("{whom} started again in {} s, which stand for a boot", self.boot.as_secs_f64()));
        }
    }

    /// Starts those whose time has come; sends away who waits for nobody.
    pub(super) fn supervise(&mut self) -> anyhow::Result<()> {
        match self.topology {
            TopologyKind::P2p => Ok(()),
            TopologyKind::ParameterServer => self.supervise_server(),
            TopologyKind::AllReduce => self.supervise_workers(),
        }
    }

    /// All workers of an all-reduce are started again, or none: they wait for each other.
    fn supervise_workers(&mut self) -> anyhow::Result<()> {
        let for_good = |exit: Exit| !matches!(exit, Exit::Signal(_) | Exit::WorkerLost);
        if self.peers.iter().filter_map(Peer::exit).any(for_good) {
            self.peers.iter_mut().for_each(|peer| peer.restart_at = None);
            // A replacement that has come too late would wait for those who are gone.
            let waits = |peer: &Peer| {
                let idle = peer.status.as_ref().is_some_and(|status| status.rounds_applied == 0);
                peer.replacement && idle && peer.lives() && !peer.end_expected
            };
            self.peers.iter_mut().filter(|peer| waits(peer)).for_each(|peer| {
                peer.signal(Signal::TERM);
            });
        }
        for index in 0..self.peers.len() {
            if self.peers[index].restart_at.is_some_and(|at| at <= Instant::now()) {
                self.start_peer(index)?;
                self.peers[index].replacement = true;
            }
        }
        Ok(())
    }

    fn supervise_server(&mut self) -> anyhow::Result<()> {
        let Some(server) = self.peers.iter().position(Peer::is_server) else { return Ok(()) };
        let working = |peer: &Peer| !peer.is_server() && (peer.lives() || peer.restart);
        let waiting = self.peers[server].restart_at.is_some();
        if !self.peers.iter().any(working) {
            self.peers[server].restart_at = None;
            if self.peers[server].lives() && !self.peers[server].end_expected && self.workers_have_ended() {
                self.progress.say("no worker is left: the server leaves");
                self.peers[server].signal(Signal::TERM);
            }
        } else if waiting && self.peers[server].restart_at.is_some_and(|at| at <= Instant::now()) {
            let workers = self.peers.iter().filter(|peer| working(peer)).count();
            self.peers[server].flags = expect(workers);
            self.start_peer(server)?;
        } else if !waiting && !self.peers[server].restart && self.peers[server].exit().is_some() {
            for peer in self.peers.iter_mut().filter(|peer| peer.lives() && !peer.end_expected) {
                peer.signal(Signal::TERM);
                peer.signal(Signal::CONT);
            }
        }
        Ok(())
    }

    /// Whether no worker has what a server at the end of its run still waits for.
    fn workers_have_ended(&self) -> bool {
        let mut workers = self.peers.iter().filter(|peer| !peer.is_server());
        workers.all(|peer| peer.exit().is_some_and(|exit| exit != Exit::Finished))
    }
}

/// The flags of a server that this many workers are there for.
pub(crate) fn expect(workers: usize) -> Vec<String> {
    vec!["--expect".to_owned(), workers.to_string()]
}
