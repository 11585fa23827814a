//! Reads the ledgers of a run's peers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use peerless_functions::prices::{MachinePrice, Named, PlatformRate, PriceTable, Tariff};
use peerless_peer::bill::{Exchanged, Session, Sessions};
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::waste::Fate;
use peerless_protocol::{EpochOrder, RunSpec};
use peerless_store::{InvocationRecord, Ledger, ledger_path};

use super::waste::find_repeated;
use super::{Item, MachineTime};

/// Prices to apply in the place of those that the ledgers recorded.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Projection {
    /// All invocations as if they had run for this price.
    pub(crate) functions: Option<PlatformRate>,
    /// All peers as if they had run on this machine.
    pub(crate) machine: Option<Named<MachinePrice>>,
    /// New values of prices, by name.
    pub(crate) table: Option<PriceTable>,
}

impl Projection {
    /// Changes the prices of these platforms, and the others.
    pub(crate) fn apply(&self, tariff: &mut Tariff, platforms: &[String]) {
        if let Some(rate) = &self.functions {
            tariff.platforms = platforms.iter().map(|platform| (platform.clone(), rate.clone())).collect();
        }
        if let Some(machine) = &self.machine {
            tariff.machine = Some(machine.clone());
        }
        if let Some(table) = &self.table {
            tariff.reprice(table);
        }
    }
}

/// A ledger that could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    pub(crate) peer: String,
    pub(crate) reason: String,
}

/// What the ledgers of a run say.
#[derive(Debug, PartialEq)]
pub(crate) struct Reading {
    /// Names of the peers whose ledgers were read.
    pub(crate) peers: Vec<String>,
    pub(crate) items: Vec<Item>,
    pub(crate) machines: Vec<MachineTime>,
    /// Different tariffs that applied, in the order in which they were found.
    pub(crate) tariffs: Vec<Tariff>,
    pub(crate) unreadable: Vec<Unreadable>,
    /// Peers with records from before ledgers kept prices and sessions.
    pub(crate) without_sessions: Vec<String>,
    spec: RunSpec,
}

impl Reading {
    /// The epoch of a round, counted from 1. The round that evaluates the final state belongs to the last one.
    pub(crate) fn epoch(&self, round: u64) -> u64 {
        EpochOrder::epoch_of(&self.spec, round.min(self.spec.rounds.saturating_sub(1))) + 1
    }

    fn add_peer(&mut self, name: &str, ledger: &Path, projection: &Projection) -> anyhow::Result<()> {
        let ledger = Ledger::open_read_only(ledger)?;
        ledger.hold()?;
        let mut invocations = Vec::new();
        ledger.visit_invocations(|record| invocations.push(record))?;
        let mut sessions = Sessions::read(&ledger)?;
        let mut platforms: Vec<String> = invocations.iter().map(|record| record.platform.clone()).collect();
        platforms.sort_unstable();
        platforms.dedup();
        sessions.amend(|tariff| projection.apply(tariff, &platforms));
        let ends = ledger.round_ends()?;
        let peer = self.peers.len();
        self.peers.push(name.to_owned());
        if invocations.iter().any(|record| record.session.is_none()) {
            self.without_sessions.push(name.to_owned());
        }
        self.items.extend(invocations.iter().map(|record| item(peer, record, &sessions)));
        for session in sessions.all() {
            self.add_session(peer, session, &ends);
        }
        // Sums that went through a bucket are the machine's expense: no function has anything to do with them.
        for Exchanged { round, cost, .. } in sessions.exchanged(&ledger)? {
            self.machines.push(MachineTime { peer, epoch: self.epoch(round), us: 0, cost });
        }
        let tariffs = invocations.iter().map(|record| sessions.tariff(record));
        for tariff in sessions.all().iter().map(|session| &session.tariff).chain(tariffs) {
            if !self.tariffs.contains(tariff) {
                self.tariffs.push(tariff.clone());
            }
        }
        Ok(())
    }

    /// Cuts a session at the ends of rounds: the time up to the end of a round belongs to the round's epoch,
    /// what is left to the last epoch.
    fn add_session(&mut self, peer: usize, session: &Session, ends: &[(u64, u64)]) {
        let mut from = session.started_at_us;
        let mut epoch = 1;
        let mut pieces: BTreeMap<u64, u64> = BTreeMap::new();
        for &(at_us, round) in ends.iter().filter(|(at_us, _)| *at_us <= session.last_at_us) {
            epoch = self.epoch(round);
            *pieces.entry(epoch).or_default() += at_us.saturating_sub(from);
            from = from.max(at_us);
        }
        *pieces.entry(epoch).or_default() += session.last_at_us.saturating_sub(from);
        for (epoch, us) in pieces {
            let cost = session.tariff.machine_time(us);
            self.machines.push(MachineTime { peer, epoch, us, cost });
        }
    }
}

fn item(peer: usize, record: &InvocationRecord, sessions: &Sessions) -> Item {
    Item {
        peer,
        platform: record.platform.clone(),
        unit: record.round.zip(record.unit),
        duration_us: record.duration_us,
        ended_at_us: record.started_at_us.saturating_add(record.duration_us),
        charge: sessions.charge(record),
        fate: Fate::of(&record.outcome),
    }
}

/// Reads the ledgers of all peers that were started in a run directory.
pub(crate) fn read(run: &RunDirectory, projection: &Projection) -> anyhow::Result<Reading> {
    let mut reading = Reading {
        peers: Vec::new(),
        items: Vec::new(),
        machines: Vec::new(),
        tariffs: Vec::new(),
        unreadable: Vec::new(),
        without_sessions: Vec::new(),
        spec: run.spec().clone(),
    };
    for (name, directory) in run.peers()? {
        let ledger: PathBuf = ledger_path(&directory);
        let exists = ledger.try_exists().with_context(|| format!("cannot look for {}", ledger.display()))?;
        let added = match exists {
            true => reading.add_peer(&name, &ledger, projection),
            false => Err(anyhow::anyhow!("there is no ledger {}", ledger.display())),
        };
        if let Err(error) = added {
            reading.unreadable.push(Unreadable { peer: name, reason: crate::failure::message(&error) });
        }
    }
    find_repeated(&mut reading.items);
    Ok(reading)
}
