//! The model: how long the rounds of a run take. docs/planning.md has the formulas with their reasons.

use peerless_protocol::RoundPlan;
use serde::Serialize;

use super::constants::Constants;
use super::job::Job;
use super::measured::Measured;

/// From so many peers on a round's sum is formed shard by shard.
const PEERS_FOR_SHARDS: u32 = 8;

/// Where functions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    /// As processes of this machine, which all peers share.
    Local,
    /// On AWS Lambda, each peer on a machine of its own.
    Lambda,
}

/// One way to run a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Configuration {
    pub(crate) peers: u32,
    /// Of each peer.
    pub(crate) functions: u32,
    /// Of each function, in MB; no matter for time on this machine.
    pub(crate) memory_mb: u32,
}

/// Calls that are alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Calls {
    pub(crate) count: u64,
    /// What is charged for each, in microseconds.
    pub(crate) us: f64,
    /// Whether they write a vector.
    pub(crate) writes: bool,
    /// Whether they are requests; else they only add time to others.
    pub(crate) requests: bool,
}

/// What a configuration comes to. Times are in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prediction {
    /// The round that most of the run consists of.
    pub(crate) round_us: f64,
    /// Of that round: until the slowest peer has its gradients.
    pub(crate) compute_us: f64,
    /// Of that round: the sums on their way between peers.
    pub(crate) exchange_us: f64,
    /// Of that round: sums, update, books. Where cores are shared, what the other two leave.
    pub(crate) peer_us: f64,
    /// All rounds.
    pub(crate) rounds_us: f64,
    /// Before the first round.
    pub(crate) start_us: f64,
    pub(crate) calls: Vec<Calls>,
}

impl Prediction {
    /// The whole run.
    pub(crate) fn total_us(&self) -> f64 {
        self.start_us + self.rounds_us
    }

    /// Calls of functions.
    pub(crate) fn invocations(&self) -> u64 {
        self.calls.iter().filter(|calls| calls.requests).map(|calls| calls.count).sum()
    }

    /// Time of all functions.
    pub(crate) fn function_us(&self) -> f64 {
        self.calls.iter().map(|calls| calls.count as f64 * calls.us).sum()
    }
}

/// Predicts the times of a job.
pub(crate) fn predict(
    job: &Job,
    measured: &Measured,
    constants: &Constants,
    place: Place,
    configuration: Configuration,
) -> Prediction {
    let model = Model { job, measured, constants, place, configuration };
    let usual = model.round(job.usual_round());
    let mut calls = vec![model.initialisation()];
    calls.extend(model.cold_starts());
    let mut rounds_us = 0.0;
    for (plan, times) in &job.rounds {
        let round = model.round(*plan);
        rounds_us += *times as f64 * round.total();
        calls.extend(round.calls.iter().map(|each| Calls { count: each.count * times, ..*each }));
    }
    calls.retain(|calls| calls.count > 0);
    Prediction {
        round_us: usual.total(),
        compute_us: usual.compute,
        exchange_us: usual.exchange,
        peer_us: usual.peer,
        rounds_us,
        start_us: model.start(),
        calls,
    }
}

pub(super) struct Model<'a> {
    pub(super) job: &'a Job,
    pub(super) measured: &'a Measured,
    pub(super) constants: &'a Constants,
    pub(super) place: Place,
    pub(super) configuration: Configuration,
}

/// A round in its parts, in microseconds.
pub(super) struct Round {
    pub(super) compute: f64,
    pub(super) exchange: f64,
    pub(super) peer: f64,
    pub(super) calls: Vec<Calls>,
}

impl Round {
    pub(super) fn total(&self) -> f64 {
        self.compute + self.exchange + self.peer
    }
}

/// Units of the peer that has most of them.
pub(super) fn share(units: u32, peers: u32) -> u32 {
    units.div_ceil(peers.max(1))
}

/// The time until so many functions have done all units, each taken by the function that is free first; `first`
/// is what a function needs before its first unit.
pub(super) fn makespan(functions: u32, first: f64, units: impl Iterator<Item = f64>) -> f64 {
    let mut free = vec![0.0_f64; functions.max(1) as usize];
    for time in units {
        let next = free.iter_mut().min_by(|a, b| a.total_cmp(b));
        if let Some(next) = next {
            *next += if *next > 0.0 { time } else { first + time };
        }
    }
    free.into_iter().fold(0.0, f64::max)
}

impl Model<'_> {
    pub(super) fn round(&self, plan: RoundPlan) -> Round {
        match self.place {
            Place::Local => self.local_round(plan),
            Place::Lambda => self.lambda_round(plan),
        }
    }

    /// Functions of a peer that have something to do in a round.
    fn functions_at_work(&self, plan: RoundPlan) -> u32 {
        let Configuration { peers, functions, .. } = self.configuration;
        functions.min(share(plan.gradient_units, peers) + share(plan.evaluation_units, peers))
    }

    /// The slowest peer's units, gradients first.
    fn units_of_a_peer(&self, plan: RoundPlan, gradient: f64, evaluation: f64) -> impl Iterator<Item = f64> {
        let peers = self.configuration.peers;
        let gradients = share(plan.gradient_units, peers) as usize;
        let evaluations = share(plan.evaluation_units, peers) as usize;
        std::iter::repeat_n(gradient, gradients).chain(std::iter::repeat_n(evaluation, evaluations))
    }

    /// What a peer does with gradients and sums, as measured here.
    pub(super) fn sums(&self, plan: RoundPlan) -> f64 {
        let peers = self.configuration.peers;
        if plan.gradient_units == 0 {
            return self.measured.update_us;
        }
        let others = f64::from(peers - 1) / if peers < PEERS_FOR_SHARDS { 1.0 } else { f64::from(peers) };
        let units = f64::from(share(plan.gradient_units, peers));
        units * self.measured.add_us + others * self.measured.merge_us + self.measured.update_us
    }

    /// Payloads that a peer sends in a round, in bytes.
    fn sent_bytes(&self, plan: RoundPlan) -> f64 {
        let peers = f64::from(self.configuration.peers);
        let payloads = match plan.gradient_units {
            0 => 0.0,
            _ if self.configuration.peers < PEERS_FOR_SHARDS => peers - 1.0,
            _ => 2.0 * (peers - 1.0) / peers,
        };
        payloads * self.job.payload_bytes() as f64
    }

    /// All peers share this machine's cores: a round takes as long as its slowest peer would alone, and no less
    /// than all work spread over all cores.
    fn local_round(&self, plan: RoundPlan) -> Round {
        let cores = f64::from(self.measured.cores);
        let peers = f64::from(self.configuration.peers);
        let working = self.functions_at_work(plan);
        let at_work = (peers * f64::from(working)).min(f64::from(plan.total()));
        let gradient = self.measured.gradient.at(at_work, cores) + self.measured.call_us;
        let evaluation = self.measured.evaluation.at(at_work, cores) + self.measured.call_us;
        let alone = makespan(working, 0.0, self.units_of_a_peer(plan, gradient, evaluation));
        let own = self.sums(plan) + 1000.0 * self.constants.peer_cpu.value;
        // A second per GB is a microsecond per kB.
        let sending = peers * self.sent_bytes(plan) / 1000.0 * self.constants.exchange_cpu.value;
        let units = f64::from(plan.gradient_units) * gradient + f64::from(plan.evaluation_units) * evaluation;
        let compute = alone.max(units / cores);
        let total = (alone + own).max((units + peers * own + sending) / cores);
        let exchange = (sending / cores).min(total - compute);
        // Functions beyond the cores wait for each other, and are charged for that.
        let waiting = (at_work / cores).max(1.0);
        let calls =
            |count: u32, us: f64, writes| Calls { count: count.into(), us: us * waiting, writes, requests: true };
        Round {
            compute,
            exchange,
            peer: total - compute - exchange,
            calls: vec![calls(plan.gradient_units, gradient, true), calls(plan.evaluation_units, evaluation, false)],
        }
    }

    /// Each peer has a machine of its own, each function its own share of a core.
    fn lambda_round(&self, plan: RoundPlan) -> Round {
        let peers = self.configuration.peers;
        let working = self.functions_at_work(plan);
        let (read, write) = (self.transfer(), self.transfer());
        let gradient = self.on_lambda(self.measured.gradient.alone_us) + write;
        let evaluation = self.on_lambda(self.measured.evaluation.alone_us);
        let invoke = 1000.0 * self.constants.invoke.value;
        let computing = makespan(working, read, self.units_of_a_peer(plan, gradient + invoke, evaluation + invoke));
        // The state goes to where functions read it, and the last gradients come from there.
        let last = f64::from(working.min(share(plan.gradient_units, peers)));
        let moving = self.over_link(self.job.vector_bytes() as f64)
            + if last > 0.0 { self.over_link(last * self.job.vector_bytes() as f64) } else { 0.0 };
        // Each function at work reads the new state once: with its first unit, a gradient if there is one.
        let readers = (u64::from(peers) * u64::from(working)).min(plan.total().into());
        let (gradients, evaluations) = (u64::from(plan.gradient_units), u64::from(plan.evaluation_units));
        let reading_gradients = readers.min(gradients);
        let calls = |count, us, writes| Calls { count, us, writes, requests: true };
        Round {
            compute: computing + moving,
            exchange: self.exchange(plan),
            peer: self.sums(plan) + 1000.0 * self.constants.peer_cpu.value,
            calls: vec![
                calls(reading_gradients, gradient + read, true),
                calls(gradients - reading_gradients, gradient, true),
                calls(readers - reading_gradients, evaluation + read, false),
                calls(evaluations - (readers - reading_gradients), evaluation, false),
            ],
        }
    }

    /// The sums on their way between peers that have a machine each.
    pub(super) fn exchange(&self, plan: RoundPlan) -> f64 {
        let hops = match self.configuration.peers {
            1 => return 0.0,
            peers if peers < PEERS_FOR_SHARDS => 1.0,
            _ => 2.0,
        };
        self.over_link(self.sent_bytes(plan)) + hops * 1000.0 * self.constants.peer_latency.value
    }

    /// One vector between a function and where its tensors are. MB per second are bytes per microsecond.
    pub(super) fn transfer(&self) -> f64 {
        1000.0 * self.constants.latency.value + self.job.vector_bytes() as f64 / self.constants.bandwidth.value
    }

    pub(super) fn over_link(&self, bytes: f64) -> f64 {
        bytes / self.constants.peer_bandwidth.value
    }

    /// Lambda gives a core for so much memory and a part of one for less; one thread gains nothing from more.
    pub(super) fn on_lambda(&self, us: f64) -> f64 {
        let share = (f64::from(self.configuration.memory_mb) / self.constants.core_mb.value).min(1.0);
        us / share / self.constants.core_speed.value
    }

    /// Each peer has one function make the initial parameters.
    fn initialisation(&self) -> Calls {
        let us = match self.place {
            Place::Local => self.measured.start_us + self.measured.initialise_us,
            Place::Lambda => self.on_lambda(self.measured.initialise_us) + self.transfer(),
        };
        Calls { count: self.configuration.peers.into(), us, writes: true, requests: true }
    }

    /// Starts that are charged besides the calls that they are for.
    fn cold_starts(&self) -> Option<Calls> {
        let most = self.job.rounds.iter().map(|(plan, _)| self.functions_at_work(*plan)).max().unwrap_or_default();
        let count = u64::from(self.configuration.peers) * u64::from(most);
        let us = 1000.0 * self.constants.cold_start.value;
        (self.place == Place::Lambda).then_some(Calls { count, us, writes: false, requests: false })
    }

    /// Until the first round, and what its cold functions take longer.
    fn start(&self) -> f64 {
        let initialisation = self.initialisation();
        match self.place {
            Place::Local => {
                initialisation.us * (f64::from(self.configuration.peers) / f64::from(self.measured.cores)).max(1.0)
            }
            Place::Lambda => {
                let starts = if self.configuration.functions > 1 { 2.0 } else { 1.0 };
                initialisation.us + 1000.0 * (self.constants.invoke.value + starts * self.constants.cold_start.value)
            }
        }
    }
}
