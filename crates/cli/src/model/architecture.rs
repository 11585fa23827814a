//! A round of each architecture, where every peer, worker and server has a machine of its own.

use peerless_protocol::RoundPlan;
use serde::Serialize;

use super::constants::Constants;
use super::failures::{Failures, Hazard, Recovery};
use super::job::Job;
use super::measured::Measured;
use super::patterns::{self, Link, start_factor};
use super::rounds::{Calls, Configuration, Model, Place, makespan, share};

/// Longest that a function on Lambda may run, in seconds (AWS Lambda quotas).
pub(crate) const MAX_FUNCTION_S: f64 = 900.0;
/// Most memory that a function on Lambda may have, in MB (AWS Lambda quotas).
pub(crate) const MAX_FUNCTION_MB: u32 = 10_240;
/// Vectors that a peer or server keeps in memory: 4.7 GB at 515 MB each, measured (docs/models.md).
const PEER_VECTORS: f64 = 9.1;
/// Vectors that a worker without exact sums keeps: parameters, gradient, velocity, and what it receives.
const WORKER_VECTORS: f64 = 4.0;
/// Vectors of a state: parameters and the velocity of the default optimizer.
const STATE_VECTORS: f64 = 2.0;

/// Who forms states, who computes, and how they exchange what they computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Architecture {
    /// Peers with a machine each, whose units are computed by functions.
    P2pFunctions,
    /// Peers that compute on their machines.
    P2pInstances,
    /// A server's machine and workers' machines, whose units are computed by functions.
    ParameterServerFunctions,
    /// A server, and workers that compute on their machines.
    ParameterServerInstances,
    /// Workers that compute on their machines, and a ring of them.
    AllReduceInstances,
    /// LambdaML's AllReduce: functions that live as long as the run, and a store.
    AllReduceStore,
    /// LambdaML's ScatterReduce: the same with parts of vectors.
    ScatterReduceStore,
}

/// All of them, in the order of tables.
pub(crate) const ARCHITECTURES: [Architecture; 7] = [
    Architecture::P2pFunctions,
    Architecture::P2pInstances,
    Architecture::ParameterServerFunctions,
    Architecture::ParameterServerInstances,
    Architecture::AllReduceInstances,
    Architecture::AllReduceStore,
    Architecture::ScatterReduceStore,
];

impl Architecture {
    /// The name in tables and JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::P2pFunctions => "p2p-functions",
            Self::P2pInstances => "p2p-instances",
            Self::ParameterServerFunctions => "parameter-server-functions",
            Self::ParameterServerInstances => "parameter-server-instances",
            Self::AllReduceInstances => "all-reduce-instances",
            Self::AllReduceStore => "all-reduce-store",
            Self::ScatterReduceStore => "scatter-reduce-store",
        }
    }

    /// Two letters for maps.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::P2pFunctions => "pf",
            Self::P2pInstances => "pi",
            Self::ParameterServerFunctions => "sf",
            Self::ParameterServerInstances => "si",
            Self::AllReduceInstances => "ri",
            Self::AllReduceStore => "la",
            Self::ScatterReduceStore => "ls",
        }
    }

    fn has_server(self) -> bool {
        matches!(self, Self::ParameterServerFunctions | Self::ParameterServerInstances)
    }

    /// Functions that live as long as the run, without machines.
    pub(super) fn through_store(self) -> bool {
        matches!(self, Self::AllReduceStore | Self::ScatterReduceStore)
    }

    fn calls_functions(self) -> bool {
        matches!(self, Self::P2pFunctions | Self::ParameterServerFunctions)
    }

    /// Machines that are paid by the hour.
    pub(crate) fn machines(self, workers: u32) -> u32 {
        if self.through_store() { 0 } else { workers + u32::from(self.has_server()) }
    }
}

/// A machine that is paid by the hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// Units that it computes at the same time, where there is memory for them.
    pub(crate) cores: u32,
    pub(crate) memory_mb: u32,
}

/// What is trained on how many machines.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cluster<'a> {
    pub(crate) job: &'a Job,
    pub(crate) measured: &'a Measured,
    pub(crate) constants: &'a Constants,
    pub(crate) machine: Machine,
    /// Least memory of a function, in MB; it gets more where it needs more.
    pub(crate) memory_mb: u32,
    /// Peers or workers.
    pub(crate) workers: u32,
}

/// The round that a run mostly consists of. Times are in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Usual {
    pub(crate) compute_us: f64,
    pub(crate) exchange_us: f64,
    pub(crate) peer_us: f64,
    /// Before the first round: machines boot, functions start.
    pub(crate) start_us: f64,
    /// Calls of one round.
    pub(super) calls: Vec<Calls>,
    /// Objects written to and read from a bucket in one round, besides those of the calls.
    pub(super) puts: u64,
    pub(super) gets: u64,
    /// Functions at work at the same time.
    pub(crate) functions: u32,
    /// Memory of a function, in MB.
    pub(crate) memory_mb: u32,
    /// One unit, with what goes to and from a function.
    unit_us: f64,
    /// Units that a machine computes at the same time.
    at_once: u32,
    /// A new machine or function, until it has the state.
    join_us: f64,
    /// Writing the state as a checkpoint.
    pub(super) checkpoint_us: f64,
    /// Until another function has taken over from one that has reached its longest time.
    pub(super) change_us: f64,
}

impl Usual {
    /// The round.
    pub(crate) fn round_us(&self) -> f64 {
        self.compute_us + self.exchange_us + self.peer_us
    }
}

/// Why an architecture is not looked at with so many workers.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("a round has {units} units: {workers} workers would be idle in part")]
    Idle { units: u32, workers: u32 },
    #[error("a machine would need {needed} MB and has {memory_mb} MB")]
    Machine { needed: u32, memory_mb: u32 },
    #[error("a function would need {needed} MB, and Lambda gives {MAX_FUNCTION_MB} MB")]
    Memory { needed: u32 },
    #[error("a function would run for {seconds:.0} s, and Lambda ends it after {MAX_FUNCTION_S} s")]
    Time { seconds: f64 },
    #[error("{functions} functions at a time are more than Lambda runs")]
    Concurrency { functions: u32 },
}

/// The usual round of an architecture.
pub(crate) fn usual(cluster: &Cluster, architecture: Architecture, failures: &Failures) -> Result<Usual, Unfit> {
    let units = cluster.plan().gradient_units;
    if cluster.workers > units {
        return Err(Unfit::Idle { units, workers: cluster.workers });
    }
    if architecture.through_store() {
        return cluster.through_store(architecture);
    }
    let (model, mut usual) = if architecture.calls_functions() {
        let model = cluster.on_lambda(cluster.unit_mb())?;
        let usual = cluster.functions(&model)?;
        (model, usual)
    } else {
        let vectors = if architecture == Architecture::AllReduceInstances { WORKER_VECTORS } else { PEER_VECTORS };
        (cluster.model(1, 0), cluster.instances(vectors)?)
    };
    if architecture.calls_functions() || architecture.has_server() {
        cluster.room_for(PEER_VECTORS)?;
    }
    let link = cluster.link();
    let state_bytes = STATE_VECTORS * cluster.vector_bytes();
    let workers = f64::from(cluster.workers);
    let own = f64::from(share(units, cluster.workers)) * cluster.measured.add_us;
    let rest = cluster.measured.update_us + 1000.0 * cluster.constants.peer_cpu.value;
    match architecture {
        Architecture::ParameterServerFunctions | Architecture::ParameterServerInstances => {
            let sum_bytes = cluster.job.payload_bytes() as f64;
            usual.exchange_us = patterns::parameter_server(cluster.workers, sum_bytes, state_bytes, link);
            usual.peer_us = own + workers * cluster.measured.merge_us + rest;
        }
        Architecture::AllReduceInstances => {
            usual.exchange_us = patterns::ring(cluster.workers, cluster.vector_bytes(), link);
            usual.peer_us = own + rest;
        }
        _ => {
            usual.exchange_us = model.exchange(cluster.plan());
            usual.peer_us = model.sums(cluster.plan()) + 1000.0 * cluster.constants.peer_cpu.value;
        }
    }
    usual.join_us = state_bytes / link.bandwidth;
    usual.checkpoint_us = usual.join_us;
    usual.start_us += 1e6 * failures.boot.value + usual.join_us;
    Ok(usual)
}

impl Cluster<'_> {
    fn plan(&self) -> RoundPlan {
        self.job.usual_round()
    }

    fn vector_bytes(&self) -> f64 {
        self.job.vector_bytes() as f64
    }

    fn vectors_mb(&self, vectors: f64) -> u32 {
        (vectors * self.vector_bytes() / f64::from(1 << 20)).ceil() as u32
    }

    /// Memory of a unit, in MB.
    fn unit_mb(&self) -> u32 {
        u32::try_from(self.measured.memory_bytes.div_ceil(1 << 20)).unwrap_or(u32::MAX)
    }

    fn link(&self) -> Link {
        let constants = self.constants;
        Link { bandwidth: constants.peer_bandwidth.value, latency_us: 1000.0 * constants.peer_latency.value }
    }

    /// `peerless plan`'s model of this many peers.
    fn model(&self, functions: u32, memory_mb: u32) -> Model<'_> {
        let configuration = Configuration { peers: self.workers, functions, memory_mb };
        let (job, measured, constants) = (self.job, self.measured, self.constants);
        Model { job, measured, constants, place: Place::Lambda, configuration }
    }

    /// The same with as many functions as peers can use, if Lambda has such.
    fn on_lambda(&self, needed: u32) -> Result<Model<'_>, Unfit> {
        let memory_mb = self.memory_mb.max(needed);
        if memory_mb > MAX_FUNCTION_MB {
            return Err(Unfit::Memory { needed: memory_mb });
        }
        let most = self.constants.concurrency.value / f64::from(self.workers);
        let functions = share(self.plan().gradient_units, self.workers).min(most as u32);
        if functions == 0 {
            return Err(Unfit::Concurrency { functions: self.workers });
        }
        Ok(self.model(functions, memory_mb))
    }

    /// Refuses vectors that the machine has no memory for.
    fn room_for(&self, vectors: f64) -> Result<(), Unfit> {
        let needed = self.vectors_mb(vectors);
        let memory_mb = self.machine.memory_mb;
        if needed > memory_mb { Err(Unfit::Machine { needed, memory_mb }) } else { Ok(()) }
    }

    /// Units on functions that are called for each.
    fn functions(&self, model: &Model) -> Result<Usual, Unfit> {
        let round = model.round(self.plan());
        let longest = round.calls.iter().map(|calls| calls.us).fold(0.0, f64::max);
        if longest > 1e6 * MAX_FUNCTION_S {
            return Err(Unfit::Time { seconds: longest / 1e6 });
        }
        let Configuration { peers, functions, memory_mb } = model.configuration;
        let functions = peers * functions;
        Ok(Usual {
            compute_us: round.compute,
            exchange_us: 0.0,
            peer_us: 0.0,
            start_us: self.start_of(functions),
            calls: round.calls,
            // Each peer or worker writes each state once, for its functions.
            puts: peers.into(),
            gets: 0,
            functions,
            memory_mb,
            unit_us: longest + 1000.0 * self.constants.invoke.value,
            at_once: functions / peers,
            join_us: 0.0,
            checkpoint_us: 0.0,
            change_us: 0.0,
        })
    }

    /// Units on the machines, as many at a time as there are cores and as fit.
    fn instances(&self, vectors: f64) -> Result<Usual, Unfit> {
        let (kept, unit) = (self.vectors_mb(vectors), self.unit_mb().max(1));
        let memory_mb = self.machine.memory_mb;
        let at_once = self.machine.cores.min(memory_mb.saturating_sub(kept) / unit);
        if at_once == 0 {
            return Err(Unfit::Machine { needed: kept.saturating_add(unit), memory_mb });
        }
        let units = share(self.plan().gradient_units, self.workers);
        let cores = f64::from(self.measured.cores);
        let unit_us = self.measured.gradient.at(f64::from(at_once.min(units)), cores) + self.measured.call_us;
        Ok(Usual {
            compute_us: makespan(at_once, 0.0, std::iter::repeat_n(unit_us, units as usize)),
            exchange_us: 0.0,
            peer_us: 0.0,
            start_us: 0.0,
            calls: Vec::new(),
            puts: 0,
            gets: 0,
            functions: 0,
            memory_mb: 0,
            unit_us,
            at_once,
            join_us: 0.0,
            checkpoint_us: 0.0,
            change_us: 0.0,
        })
    }

    /// Functions that live as long as the run: each computes its units one after the other, and takes the update itself.
    fn through_store(&self, architecture: Architecture) -> Result<Usual, Unfit> {
        // Besides what a unit needs, the velocity and what it receives.
        let model = self.on_lambda(self.unit_mb().saturating_add(self.vectors_mb(2.0)))?;
        let units = f64::from(share(self.plan().gradient_units, self.workers));
        let compute_us = units * model.on_lambda(self.measured.gradient.alone_us);
        let store =
            Link { bandwidth: self.constants.bandwidth.value, latency_us: 1000.0 * self.constants.latency.value };
        let (workers, bytes) = (self.workers, self.vector_bytes());
        let all_reduce = architecture == Architecture::AllReduceStore;
        let (exchange_us, (puts, gets), merged) = if all_reduce {
            let merged = f64::from(workers - 1);
            (patterns::store_all_reduce(workers, bytes, store), patterns::all_reduce_requests(workers), merged)
        } else {
            let merged = f64::from(workers - 1) / f64::from(workers);
            (patterns::store_scatter_reduce(workers, bytes, store), patterns::scatter_reduce_requests(workers), merged)
        };
        let sums = units * self.measured.add_us + merged * self.measured.merge_us + self.measured.update_us;
        let join_us = model.transfer() * STATE_VECTORS;
        let mut usual = Usual {
            compute_us,
            exchange_us,
            peer_us: model.on_lambda(sums),
            start_us: self.start_of(workers) + join_us,
            calls: Vec::new(),
            puts,
            gets,
            functions: workers,
            memory_mb: model.configuration.memory_mb,
            unit_us: compute_us,
            at_once: 1,
            join_us,
            checkpoint_us: join_us,
            change_us: 0.0,
        };
        // After its longest time a function saves the state, and another one takes over.
        let change = self.start_of(workers) + 2.0 * join_us;
        let round = usual.round_us();
        if round + change > 1e6 * MAX_FUNCTION_S {
            return Err(Unfit::Time { seconds: (round + change) / 1e6 });
        }
        usual.change_us = change;
        Ok(usual)
    }

    fn start_of(&self, functions: u32) -> f64 {
        1000.0 * self.constants.cold_start.value * start_factor(functions)
    }

    /// What can be lost, and what follows.
    pub(crate) fn hazards(&self, architecture: Architecture, usual: &Usual, failures: &Failures) -> Vec<Hazard> {
        let workers = f64::from(self.workers);
        let restart = Recovery::Restart(1e6 * failures.boot.value + usual.join_us);
        let mut hazards = match architecture {
            Architecture::AllReduceStore | Architecture::ScatterReduceStore => {
                let again = 1e6 * failures.suspicion.value + self.start_of(self.workers) + usual.join_us;
                return vec![Hazard { machines: workers, recovery: Recovery::Restart(again) }];
            }
            Architecture::AllReduceInstances => return vec![Hazard { machines: workers, recovery: restart }],
            Architecture::ParameterServerFunctions | Architecture::ParameterServerInstances => {
                vec![Hazard { machines: 1.0, recovery: restart }]
            }
            Architecture::P2pFunctions | Architecture::P2pInstances => Vec::new(),
        };
        let alone = match (self.workers, architecture.has_server()) {
            (1, false) => restart,
            // The server has the state, and waits for another worker.
            (1, true) => Recovery::GoOn(1e6 * failures.boot.value + usual.join_us),
            _ => Recovery::GoOn(self.stall(architecture, usual, failures)),
        };
        hazards.push(Hazard { machines: workers, recovery: alone });
        if !usual.calls.is_empty() {
            let busy: f64 = usual.calls.iter().map(|calls| calls.count as f64 * calls.us).sum();
            let again = usual.unit_us + 1000.0 * self.constants.cold_start.value;
            hazards.push(Hazard { machines: busy / usual.round_us(), recovery: Recovery::GoOn(again) });
        }
        hazards
    }

    /// How much longer a run is when a peer or worker is lost and the others go on: until they notice, what they compute
    /// in its place, and slower rounds until another one is there.
    fn stall(&self, architecture: Architecture, usual: &Usual, failures: &Failures) -> f64 {
        let left = Self { workers: self.workers - 1, ..*self };
        // A backup begins when a unit is overdue, and at the latest when its owner is suspected (docs/fault-tolerance.md).
        let overdue = 2.0 * usual.unit_us + 100_000.0;
        let noticed = overdue.min(1e6 * failures.suspicion.value);
        let lost = share(self.plan().gradient_units, self.workers);
        let again = if architecture.calls_functions() {
            usual.unit_us + 1000.0 * self.constants.cold_start.value
        } else {
            f64::from(share(share(lost, left.workers), usual.at_once)) * usual.unit_us
        };
        let absent = 1e6 * failures.boot.value + usual.join_us;
        let slower = self::usual(&left, architecture, failures)
            .map_or(0.0, |fewer| (1.0 - usual.round_us() / fewer.round_us()).max(0.0));
        noticed + again + absent * slower
    }
}
