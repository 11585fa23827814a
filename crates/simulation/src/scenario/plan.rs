//! What a scenario and a seed make together: who takes part, and what happens when.

use std::time::Duration;

use peerless_protocol::{Crowd, RunSpec, Time};

use super::{FaultFigures, FaultKind, Scenario, ScriptedFault, Span};
use crate::adversary::{Attack, AttackKind};
use crate::disk::DiskFate;
use crate::faults::Fault;
use crate::functions::Functions;
use crate::model::small_spec;
use crate::network::{Cut, Network};
use crate::random::Random;
use crate::world::Setup;

/// Keeps what is drawn here apart from what the world draws from the same seed.
const PLAN: u64 = 0x706c_616e;

/// Pause after which a peer that gave up is started again.
const RESTART_AFTER_STOP: Duration = Duration::from_secs(1);

/// Specs differ by seed in this many ways, so that serial runs can be kept for the next seeds.
const SPEC_SEEDS: u64 = 4;

/// Everything about the run of one seed.
pub struct Plan {
    /// Where the run takes place.
    pub setup: Setup,
    /// The run.
    pub spec: RunSpec,
    /// Numbers of the stand-in for a model.
    pub elements: usize,
    /// What happens when.
    pub faults: Vec<(Time, Fault)>,
}

impl Scenario {
    /// Draws the run of `seed`.
    pub fn plan(&self, seed: u64) -> Plan {
        let mut random = Random::new(seed ^ PLAN);
        let peers = self.peers.draw(&mut random) as usize;
        let units = self.units.draw(&mut random) as u32;
        let spec = RunSpec { seed: random.between(0, SPEC_SEEDS), ..small_spec(units, self.rounds.draw(&mut random)) };
        let mut draft = Draft { random, peers, joined: 0, spared: 0, units, cuts: 0, faults: Vec::new() };
        draft.spared = draft.any_peer();
        for (kind, figures) in &self.faults {
            (0..figures.count.draw(&mut draft.random)).for_each(|_| draft.add(*kind, figures, self.within_ms));
        }
        self.script.iter().for_each(|scripted| draft.add_scripted(scripted));
        let setup = self.setup(peers, draft.joined, &mut draft.random);
        Plan { setup, spec, elements: self.elements.low as usize, faults: draft.faults }
    }

    fn setup(&self, peers: usize, joiners: usize, random: &mut Random) -> Setup {
        let delay = self.network.delay_ms.thousandths();
        let slowest = random.between(delay.start, delay.end);
        let functions = &self.functions;
        Setup {
            joiners,
            network: Network {
                delay: delay.start..slowest + 1,
                loss_percent: self.network.loss_percent.draw(random),
                duplicate_percent: self.network.duplicate_percent.draw(random),
                slow_link_percent: self.network.slow_link_percent.draw(random),
                bits_per_second: self.network.bandwidth_mbit.draw_thousandths(random) * 1_000,
            },
            functions: Functions {
                unit: functions.unit_ms.thousandths(),
                capacity: functions.capacity.low as u64..functions.capacity.high as u64 + 1,
                straggler_percent: functions.straggler_percent.draw(random),
                straggler_factor: functions.straggler_factor.draw(random),
                failure_percent: functions.failure_percent.draw(random),
                hang_percent: functions.hang_percent.draw(random),
                time_limit: functions.time_limit_ms.draw_thousandths(random),
            },
            clock_offset: scaled(self.clocks.offset_s, 1_000),
            clock_drift_ppm: self.clocks.drift_ppm.draw(random) as u32,
            disk_write: self.disk.write_ms.thousandths(),
            gather_at_most: Duration::from_micros(self.gather_ms.draw_thousandths(random)),
            patience: Duration::from_millis(self.patience_s.draw_thousandths(random)),
            restart_after_stop: Some(RESTART_AFTER_STOP),
            stall: Duration::from_secs_f64(self.stall_s.low),
            crowd: Crowd {
                sharded_from: self.crowd.sharded_from.draw(random) as usize,
                sparse_from: self.crowd.sparse_from.draw(random) as usize,
            },
            record: false,
            ..Setup::new(peers)
        }
    }
}

fn scaled(span: Span, factor: u64) -> std::ops::Range<u64> {
    let thousandths = span.thousandths();
    thousandths.start * factor..thousandths.end * factor
}

/// A plan in the making.
struct Draft {
    random: Random,
    peers: usize,
    joined: usize,
    /// Never dies for ever, so that somebody is there at the end.
    spared: usize,
    units: u32,
    cuts: u32,
    faults: Vec<(Time, Fault)>,
}

impl Draft {
    fn any_peer(&mut self) -> usize {
        self.random.between(0, self.peers as u64) as usize
    }

    fn push(&mut self, at: u64, fault: Fault) {
        self.faults.push((Time(at), fault));
    }

    fn add(&mut self, kind: FaultKind, figures: &FaultFigures, within: Span) {
        let at = within.draw_thousandths(&mut self.random);
        let peer = self.any_peer();
        let lasts = figures.lasts_ms.draw_thousandths(&mut self.random).max(1);
        let forever = self.random.chance(figures.forever_percent.low as u64) && peer != self.spared;
        let end = (!forever).then_some(at + lasts);
        match kind {
            FaultKind::Crash => self.crash(peer, at, end, figures),
            FaultKind::Pause => self.pause(peer, at, at + lasts),
            FaultKind::Partition => self.cut(at, at + lasts, true),
            FaultKind::OneWayCut => self.cut(at, at + lasts, false),
            FaultKind::Flap => self.flap(peer, at, figures),
            FaultKind::SlowPeer => {
                let factor = figures.factor.draw(&mut self.random);
                self.push(at, Fault::Slow(peer, factor));
                self.push(at + lasts, Fault::Slow(peer, 1));
            }
            FaultKind::FailingUnit => {
                let unit = self.random.between(0, u64::from(self.units)) as u32;
                self.push(at, Fault::UnitFails(peer, unit));
                self.push(at + lasts, Fault::UnitWorks(peer, unit));
            }
            FaultKind::Join => self.join(at),
            FaultKind::Leave if peer == self.spared => {}
            FaultKind::Leave => self.push(at, Fault::Leave(peer)),
            FaultKind::AllButOne => {
                let victims = (0..self.peers).filter(|&peer| peer != self.spared).collect::<Vec<_>>();
                let forever = self.random.chance(figures.forever_percent.low as u64);
                victims.into_iter().for_each(|peer| self.crash(peer, at, (!forever).then_some(at + lasts), figures));
            }
            FaultKind::Attack => self.attack(at, figures),
        }
    }

    fn crash(&mut self, peer: usize, at: u64, end: Option<u64>, figures: &FaultFigures) {
        self.push(at, Fault::Crash(peer));
        if let Some(end) = end {
            let fate = self.random.between(0, 100) as f64;
            let fate = match (fate < figures.disk_lost_percent.low, fate) {
                (true, _) => DiskFate::Lost,
                (_, fate) if fate < figures.disk_lost_percent.low + figures.torn_write_percent.low => DiskFate::Torn,
                _ => DiskFate::Kept,
            };
            self.push(end, Fault::Restart(peer, fate));
        }
    }

    fn pause(&mut self, peer: usize, at: u64, end: u64) {
        self.push(at, Fault::Freeze(peer));
        self.push(end, Fault::Thaw(peer));
    }

    /// Cuts a random part of the peers off; at least one is on each side.
    fn cut(&mut self, at: u64, end: u64, both: bool) {
        let mut side: std::collections::BTreeSet<usize> = (0..self.peers).filter(|_| self.random.chance(40)).collect();
        let (in_it, out_of_it) = (self.any_peer(), self.any_peer());
        side.insert(in_it);
        side.remove(&out_of_it);
        let inbound = both || self.random.chance(50);
        let cut = Cut { side, inbound, outbound: both || !inbound };
        self.cut_off(at, Some(end), cut);
    }

    fn cut_off(&mut self, at: u64, end: Option<u64>, cut: Cut) {
        self.cuts += 1;
        let id = self.cuts;
        self.push(at, Fault::Cut(id, cut));
        if let Some(end) = end {
            self.push(end, Fault::Mend(id));
        }
    }

    fn flap(&mut self, peer: usize, mut at: u64, figures: &FaultFigures) {
        let of_process = self.random.chance(50);
        for _ in 0..figures.times.draw(&mut self.random) {
            let away = figures.lasts_ms.draw_thousandths(&mut self.random).max(1);
            let back = figures.lasts_ms.draw_thousandths(&mut self.random).max(1);
            if of_process {
                self.crash(peer, at, Some(at + away), figures);
            } else {
                self.cut_off(at, Some(at + away), Cut::both_ways([peer]));
            }
            at += away + back;
        }
    }

    fn join(&mut self, at: u64) {
        let peer = self.peers + self.joined;
        self.joined += 1;
        self.push(at, Fault::Join(peer));
    }

    fn attack(&mut self, at: u64, figures: &FaultFigures) {
        let kinds = if figures.kinds.is_empty() { AttackKind::ALL.to_vec() } else { figures.kinds.clone() };
        let kind = kinds[self.random.between(0, kinds.len() as u64) as usize];
        let (from, to) = (self.any_peer(), self.any_peer());
        if from != to {
            self.push(at, Fault::Attack(Attack { kind, from, to }));
        }
    }

    fn add_scripted(&mut self, scripted: &ScriptedFault) {
        let at = (scripted.at_ms * 1e3) as u64;
        let end = scripted.lasts_ms.map(|lasts| at + (lasts * 1e3) as u64);
        let known: Vec<usize> = scripted.peers.iter().copied().filter(|&peer| peer < self.peers).collect();
        match scripted.fault {
            FaultKind::Partition => self.cut_off(at, end, Cut::both_ways(known)),
            FaultKind::OneWayCut => {
                let side = known.into_iter().collect();
                self.cut_off(at, end, Cut { side, inbound: false, outbound: true });
            }
            FaultKind::Join => self.join(at),
            FaultKind::Attack => {
                if let (Some(kind), [from, to]) = (scripted.attack, known.as_slice()) {
                    self.push(at, Fault::Attack(Attack { kind, from: *from, to: *to }));
                }
            }
            FaultKind::AllButOne => {
                let spared = known.first().copied().unwrap_or(self.spared);
                let victims: Vec<usize> = (0..self.peers).filter(|&peer| peer != spared).collect();
                victims.into_iter().for_each(|peer| self.script_one(scripted, peer, at, end));
            }
            _ => known.into_iter().for_each(|peer| self.script_one(scripted, peer, at, end)),
        }
    }

    fn script_one(&mut self, scripted: &ScriptedFault, peer: usize, at: u64, end: Option<u64>) {
        let (fault, over) = match scripted.fault {
            FaultKind::Pause => (Fault::Freeze(peer), Fault::Thaw(peer)),
            FaultKind::SlowPeer => (Fault::Slow(peer, scripted.factor), Fault::Slow(peer, 1)),
            FaultKind::FailingUnit => (Fault::UnitFails(peer, scripted.unit), Fault::UnitWorks(peer, scripted.unit)),
            FaultKind::Leave => return self.push(at, Fault::Leave(peer)),
            _ => (Fault::Crash(peer), Fault::Restart(peer, scripted.disk)),
        };
        self.push(at, fault);
        if let Some(end) = end {
            self.push(end, over);
        }
    }
}
