//! Lets something happen to a run, again and again.

use std::time::Duration;

use peerless_peer::status::unix_us;

use super::Kind;
use crate::spec::SpecArgs;
use crate::train::fault::Action;
use crate::train::fleet::Fleet;
use crate::train::network::Network;

/// Rounds without a fault before each one: long enough for the run to be steady again, and for a normal
/// round to be measured.
const STEADY_ROUNDS: u64 = 30;
/// Rounds that the others train on before a killed peer is restarted, and after a function has died.
const ROUNDS_AFTER: u64 = 15;
/// How long a peer is stopped and how long a partition lasts: longer than the second of silence after
/// which a peer is suspected, and than every deadline that rounds of this length lead to.
const OUTAGE: Duration = Duration::from_secs(3);
/// More rounds than any measurement takes: the run ends when the measurement does.
const ROUNDS: u64 = 1_000_000;
/// Longest wait for something that the peers are to do.
const LIMIT: Duration = Duration::from_secs(120);

/// A fault that took place. Times are microseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Incident {
    /// When it began.
    pub(super) at_us: u64,
    /// When it was made good: restart, SIGCONT, healing. `None` where there is nothing to make good.
    pub(super) restored_us: Option<u64>,
    /// When the run was steady again.
    pub(super) over_us: u64,
    /// The peer that took no part meanwhile.
    pub(super) away: Option<String>,
    /// Units that a killed peer was computing; its ledger cannot know.
    pub(super) lost_with_process: u64,
}

/// A run to which things happen.
#[derive(Debug)]
pub(super) struct Scene {
    fleet: Fleet,
    network: Option<Network>,
}

impl Scene {
    /// Starts the peers, in namespaces of their own if there is a network.
    pub(super) fn start(peers: usize, network: Option<Network>) -> anyhow::Result<Self> {
        let mut fleet = Fleet::new(&SpecArgs::long(ROUNDS, ROUNDS), peers)?;
        if let Some(network) = &network {
            for (index, peer) in fleet.peers.iter_mut().enumerate() {
                peer.wrapper = network.wrapper(index + 1);
                peer.flags = vec!["--listen".to_owned(), format!("{}:0", network.address(index + 1))];
            }
        }
        fleet.start()?;
        fleet.wait("all peers train", LIMIT, |fleet| fleet.all_at(1))?;
        Ok(Self { fleet, network })
    }

    /// Lets the fault happen once, and waits until everybody is back.
    pub(super) fn repeat(&mut self, kind: Kind, repetition: usize) -> anyhow::Result<Incident> {
        let steady = self.fleet.front() + STEADY_ROUNDS;
        self.fleet.wait("the run is steady", LIMIT, |fleet| fleet.all_at(steady))?;
        let victim = repetition % self.fleet.peers.len();
        let (at_us, lost_with_process) = self.begin(kind, victim)?;
        match kind {
            Kind::Kill | Kind::Function => {
                let enough = self.fleet.front() + ROUNDS_AFTER;
                self.fleet.wait("the others go on", LIMIT, |fleet| fleet.front() >= enough)?;
            }
            Kind::Stop | Kind::Partition => self.fleet.pass(OUTAGE)?,
        }
        let restored_us = (kind != Kind::Function).then(unix_us);
        let back = self.fleet.front() + 1;
        self.make_good(kind, victim)?;
        self.fleet.wait("everybody is back", LIMIT, |fleet| fleet.all_at(back))?;
        let away = matches!(kind, Kind::Kill | Kind::Stop).then(|| self.fleet.peers[victim].name.clone());
        Ok(Incident { at_us, restored_us, over_us: unix_us(), away, lost_with_process })
    }

    /// When it happened, and how many units a killed peer was computing.
    fn begin(&mut self, kind: Kind, victim: usize) -> anyhow::Result<(u64, u64)> {
        let peer = victim + 1;
        let at_us = unix_us();
        match kind {
            Kind::Kill => {
                let status = self.fleet.peers[victim].status.as_ref();
                let busy = status.map_or(0, |s| s.functions.processes.iter().filter(|function| function.busy).count());
                self.fleet.strike(Action::Kill { peer })?;
                return Ok((at_us, busy as u64));
            }
            Kind::Stop => {
                self.fleet.strike(Action::Stop { peer })?;
            }
            Kind::Partition => {
                let peers = self.fleet.peers.len();
                // Another half each time.
                let half: Vec<usize> = (0..peers / 2).map(|index| (victim + index) % peers + 1).collect();
                self.network.as_ref().map_or(Ok(()), |network| network.cut_off(&half))?;
            }
            Kind::Function => return Ok((self.kill_a_function()?, 0)),
        }
        Ok((at_us, 0))
    }

    /// Right after another one was killed there may be none for a moment.
    fn kill_a_function(&mut self) -> anyhow::Result<u64> {
        let mut at_us = unix_us();
        self.fleet.wait("there is a function to kill", LIMIT, |fleet| {
            at_us = unix_us();
            matches!(fleet.strike(Action::KillFunctions { count: 1 }), Ok(Some(_)))
        })?;
        Ok(at_us)
    }

    fn make_good(&mut self, kind: Kind, victim: usize) -> anyhow::Result<()> {
        let peer = victim + 1;
        match kind {
            Kind::Kill => self.fleet.strike(Action::Restart { peer }).map(|_| ()),
            Kind::Stop => self.fleet.strike(Action::Continue { peer }).map(|_| ()),
            Kind::Partition => self.network.as_ref().map_or(Ok(()), Network::heal),
            Kind::Function => Ok(()),
        }
    }

    /// Lets the peers leave, so that their ledgers are complete.
    pub(super) fn end(mut self) -> anyhow::Result<Fleet> {
        let steady = self.fleet.front() + STEADY_ROUNDS;
        self.fleet.wait("the run is steady", LIMIT, |fleet| fleet.all_at(steady))?;
        self.fleet.leave()?;
        Ok(self.fleet)
    }
}
