//! The watcher: looks at what the peers say about themselves, injects faults, draws progress. It
//! is in no data path; when it dies, the peers go on.

use std::time::Duration;

use anyhow::Context;
use peerless_functions::prices::Money;
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::{EvaluationStatus, PeerStatus, unix_us};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::events::{Event, Kind};
use super::fault::{Action, Fault};
use super::inject::{kill_functions, strike};
use super::peers::{Exit, Launch, Peer, log_path, log_tail};
use super::progress::{Progress, Sight};
use super::topology::TopologyKind;
use crate::output::percent;

/// Time between two looks: a fraction of a round, so that faults come when they are due.
const POLL: Duration = Duration::from_millis(10);

/// How watching ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// At least one peer has the final state.
    Finished,
    /// The peers were told to leave.
    Interrupted,
    /// No peer is left, and none has the final state: the budgets of some pay for no more.
    BudgetUsedUp,
    /// No peer is left, and none has the final state.
    Abandoned,
}

/// Watches the peers of a run.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) run: RunDirectory,
    pub(crate) peers: Vec<Peer>,
    pub(crate) events: Vec<Event>,
    /// Beginning of training in this session, in microseconds since the Unix epoch, and the optimizer
    /// steps that the run had then.
    pub(crate) training_since: Option<(u64, u64)>,
    launch: Launch,
    /// Most that the run may cost.
    pub(crate) budget: Option<Money>,
    pub(crate) topology: TopologyKind,
    /// Time from the death of a process without which nothing goes on to the start of the next one.
    pub(crate) boot: Duration,
    faults: Vec<Fault>,
    pub(super) progress: Progress,
    round: u64,
    evaluated: Option<u64>,
    pub(super) interrupts: u32,
}

impl Watch {
    pub(crate) fn new(run: RunDirectory, launch: Launch, peers: Vec<Peer>, mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.round);
        let progress = Progress::new(run.spec().rounds, run.spec().samples_per_round());
        let evaluated = newest_evaluation(&peers).map(|evaluation| evaluation.round);
        Self {
            run,
            peers,
            events: Vec::new(),
            training_since: None,
            launch,
            budget: None,
            topology: TopologyKind::default(),
            boot: Duration::ZERO,
            faults,
            progress,
            round: 0,
            evaluated,
            interrupts: 0,
        }
    }

    /// Starts the processes of all peers that have none.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        for index in 0..self.peers.len() {
            if self.peers[index].lives() {
                let detail = format!("pid {}", self.peers[index].pid().unwrap_or_default());
                self.event(Kind::PeerAttached, Some(index), detail);
            } else if self.peers[index].exit().is_none() {
                self.start_peer(index)?;
            }
        }
        Ok(())
    }

    /// Watches until no process is left.
    pub(crate) async fn watch(&mut self) -> anyhow::Result<Outcome> {
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
        while self.look()? {
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                _ = interrupt.recv() => self.interrupt(),
                _ = terminate.recv() => self.interrupt(),
            }
        }
        self.progress.clear();
        for fault in &self.faults {
            crate::output::label("warning", &format!("fault {fault} was never due: the run ended before it"));
        }
        Ok(self.outcome())
    }

    /// One look at everything; whether any process is left.
    fn look(&mut self) -> anyhow::Result<bool> {
        for index in 0..self.peers.len() {
            if let Some(exit) = self.peers[index].poll()? {
                self.ended(index, exit)?;
            }
        }
        self.observe();
        self.inject()?;
        self.supervise()?;
        self.release_stopped();
        self.progress.show(self.sight());
        Ok(self.peers.iter().any(|peer| peer.lives() || peer.restart_at.is_some()))
    }

    /// Optimizer steps of the most advanced peer.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    fn outcome(&self) -> Outcome {
        let any = |exit: Exit| self.peers.iter().any(|peer| peer.exit() == Some(exit));
        match any(Exit::Finished) {
            true => Outcome::Finished,
            false if self.interrupts > 0 => Outcome::Interrupted,
            false if any(Exit::BudgetUsedUp) => Outcome::BudgetUsedUp,
            false => Outcome::Abandoned,
        }
    }

    pub(super) fn start_peer(&mut self, index: usize) -> anyhow::Result<()> {
        self.peers[index].start(&self.launch)?;
        let detail = format!("pid {}", self.peers[index].pid().unwrap_or_default());
        self.event(Kind::PeerStarted, Some(index), detail);
        Ok(())
    }

    fn ended(&mut self, index: usize, exit: Exit) -> anyhow::Result<()> {
        let kind = match exit {
            Exit::Finished => Kind::PeerFinished,
            Exit::Left | Exit::BudgetUsedUp | Exit::WorkerLost => Kind::PeerLeft,
            Exit::Code(_) | Exit::Signal(_) | Exit::Gone => Kind::PeerDied,
        };
        self.event(kind, Some(index), exit.to_string());
        if kind == Kind::PeerDied && !self.peers[index].end_expected {
            self.report_death(index, exit);
        }
        if self.peers[index].restart {
            self.start_peer(index)?;
        }
        self.plan_restart(index, exit);
        Ok(())
    }

    fn report_death(&self, index: usize, exit: Exit) {
        let peer = &self.peers[index];
        let mut text = format!("peer {} died ({exit}) at round {}", peer.name, self.round);
        let tail = log_tail(&peer.directory);
        if !tail.is_empty() {
            text += &format!("; the end of {}:", log_path(&peer.directory).display());
        }
        for line in tail {
            text += "\n  | ";
            text += &line;
        }
        self.progress.say(&text);
    }

    /// Takes in what the peers say.
    fn observe(&mut self) {
        for status in self.peers.iter().filter_map(|peer| peer.status.as_ref()) {
            self.round = self.round.max(status.steps);
            if let Some(since) = status.training_since_unix_us
                && self.training_since.is_none_or(|(known, _)| since < known)
            {
                self.training_since = Some((since, status.steps.saturating_sub(status.rounds_applied)));
            }
        }
        let Some(newest) = newest_evaluation(&self.peers) else { return };
        if self.evaluated.is_none_or(|known| known < newest.round) {
            self.evaluated = Some(newest.round);
            let detail = format!("test accuracy {}, loss {:.4}", percent(newest.accuracy), newest.loss);
            self.progress.say(&format!("round {}: {detail}", newest.round));
            self.event(Kind::Evaluation, None, detail);
        }
    }

    fn inject(&mut self) -> anyhow::Result<()> {
        let due = self.faults.iter().take_while(|fault| fault.round <= self.round).count();
        let due: Vec<Fault> = self.faults.drain(..due).collect();
        for fault in due {
            if let Action::KillFunctions { count } = fault.action {
                self.kill_functions(fault, count);
            } else if let (Action::KillServer, Some(server)) =
                (fault.action, self.peers.iter().position(Peer::is_server))
            {
                self.strike(fault, server)?;
            } else if let Some(index) = fault.action.peer().and_then(|peer| self.index(peer)) {
                self.strike(fault, index)?;
            }
        }
        Ok(())
    }

    /// Does to a peer what the fault asks for.
    fn strike(&mut self, fault: Fault, index: usize) -> anyhow::Result<()> {
        let peer = &mut self.peers[index];
        let pid = peer.pid().unwrap_or_default();
        let done = strike(peer, fault.action);
        let start_now = matches!(fault.action, Action::Restart { .. }) && !peer.restart;
        let result = if done { format!("pid {pid}") } else { "it had no process".to_owned() };
        self.fault_event(fault, Some(index), &result);
        if start_now {
            self.start_peer(index)?;
        }
        Ok(())
    }

    /// Kills functions, busy ones first. If there are too few now, the rest is killed later.
    fn kill_functions(&mut self, fault: Fault, count: usize) {
        let killed: Vec<String> = kill_functions(&self.peers, count).iter().map(u32::to_string).collect();
        if !killed.is_empty() {
            self.fault_event(fault, None, &format!("function pid {}", killed.join(", ")));
        }
        if killed.len() < count {
            let action = Action::KillFunctions { count: count - killed.len() };
            self.faults.insert(0, Fault { action, ..fault });
        }
    }

    fn index(&self, number: usize) -> Option<usize> {
        self.peers.iter().position(|peer| peer.name == number.to_string())
    }

    fn fault_event(&mut self, fault: Fault, peer: Option<usize>, result: &str) {
        self.progress.say(&format!("round {}: fault {fault} ({result})", self.round));
        self.event(Kind::Fault, peer, format!("{fault} ({result})"));
    }

    /// When all that is left are peers stopped by a fault, nothing ever happens again: they go on,
    /// and leave if the run is over without them.
    fn release_stopped(&mut self) {
        let mut living = self.peers.iter().filter(|peer| peer.lives() && !peer.is_server()).peekable();
        if living.peek().is_none() || living.any(|peer| !peer.stopped) {
            return;
        }
        let over = self.peers.iter().any(|peer| peer.exit() == Some(Exit::Finished));
        for index in 0..self.peers.len() {
            if self.peers[index].lives() && self.peers[index].stopped {
                let what = if over { "the run is over, peer leaves" } else { "no other peer is left, peer goes on" };
                self.progress.say(&format!("peer {} is still stopped: {what}", self.peers[index].name));
                if over {
                    self.peers[index].signal(Signal::TERM);
                }
                self.peers[index].signal(Signal::CONT);
            }
        }
    }

    fn interrupt(&mut self) {
        self.interrupts += 1;
        self.faults.clear();
        let (text, signal) = match self.interrupts {
            1 => ("asking the peers to leave with a checkpoint; press Ctrl-C again to kill them", Signal::TERM),
            _ => ("killing the peers", Signal::KILL),
        };
        self.progress.say(text);
        self.event(Kind::Interrupted, None, text.to_owned());
        for peer in &mut self.peers {
            (peer.restart, peer.restart_at) = (false, None);
            peer.signal(signal);
            peer.signal(Signal::CONT);
        }
    }

    fn sight(&self) -> Sight {
        let active = || self.peers.iter().filter(|peer| peer.lives() && !peer.stopped);
        let statuses: Vec<&PeerStatus> = active().filter_map(|peer| peer.status.as_ref()).collect();
        let newest = self.peers.iter().filter_map(|peer| peer.status.as_ref()).max_by_key(|status| status.round);
        let bills = || self.peers.iter().filter_map(|peer| peer.status.as_ref()?.bill);
        let functions = || statuses.iter().flat_map(|status| &status.functions.processes);
        Sight {
            round: self.round,
            loss: newest.and_then(|status| status.training_loss),
            accuracy: newest.and_then(|status| status.evaluation).map(|evaluation| evaluation.accuracy),
            peers_alive: active().count(),
            peers: self.peers.len(),
            functions_busy: functions().filter(|function| function.busy).count(),
            functions: functions().count(),
            spent: bills().map(|bill| bill.spent_usd).reduce(|sum, spent| sum + spent),
            budget: self.budget,
        }
    }

    fn event(&mut self, kind: Kind, peer: Option<usize>, detail: String) {
        let peer = peer.map(|index| self.peers[index].name.clone());
        self.events.push(Event { at_unix_us: unix_us(), round: self.round, kind, peer, detail });
    }
}

fn newest_evaluation(peers: &[Peer]) -> Option<EvaluationStatus> {
    let evaluations = peers.iter().filter_map(|peer| peer.status.as_ref()?.evaluation);
    evaluations.max_by_key(|evaluation| evaluation.round)
}
