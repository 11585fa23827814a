//! Scenarios: files that say which peers, which network and which faults.

mod plan;
mod script;
mod span;

use std::collections::BTreeMap;
use std::path::Path;

use peerless_protocol::Crowd;
use serde::Deserialize;
use thiserror::Error;

pub use plan::Plan;
pub use script::ScriptedFault;
pub use span::Span;

use crate::adversary::AttackKind;
use crate::invariants::STALL;

/// The scenarios that are built in, by name. The first one is the default.
const BUILT_IN: [(&str, &str); 11] = [
    ("mixed", include_str!("../../scenarios/mixed.toml")),
    ("calm", include_str!("../../scenarios/calm.toml")),
    ("crashes", include_str!("../../scenarios/crashes.toml")),
    ("partitions", include_str!("../../scenarios/partitions.toml")),
    ("flapping", include_str!("../../scenarios/flapping.toml")),
    ("storm-of-joins", include_str!("../../scenarios/storm-of-joins.toml")),
    ("last-one-standing", include_str!("../../scenarios/last-one-standing.toml")),
    ("slow-functions", include_str!("../../scenarios/slow-functions.toml")),
    ("unequal-peers", include_str!("../../scenarios/unequal-peers.toml")),
    ("adversary", include_str!("../../scenarios/adversary.toml")),
    ("scale", include_str!("../../scenarios/scale.toml")),
];

/// Most peers of a simulation, joiners included; as many as a list of members holds.
pub const MAX_PEERS: usize = 1024;

/// Longest scenario file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A scenario that cannot be used.
#[derive(Debug, Error)]
pub enum ScenarioError {
    /// Neither built in nor a file.
    #[error("there is no scenario and no file {name:?}; the built-in ones are {}", known.join(", "))]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: Vec<&'static str>,
    },
    /// The file cannot be read.
    #[error("scenario {file} cannot be read: {source}")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML, or a field that is unknown or of another type; the message names line and column.
    #[error("scenario {file} is malformed; `peerless simulate --list` says what can be written\n{message}")]
    Malformed {
        /// The file.
        file: String,
        /// Where and what.
        message: String,
    },
    /// A field with a value that makes no sense.
    #[error("scenario {file}: {field} is {value}, but must be {expected}")]
    Field {
        /// The file.
        file: String,
        /// The field.
        field: String,
        /// What it is.
        value: String,
        /// What it must be.
        expected: String,
    },
}

/// What a scenario file says. Spans that are said to be drawn once get one value per seed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub struct Scenario {
    /// Name of the built-in scenario, or of the file.
    #[serde(skip)]
    pub name: String,
    /// What it is for, in one line.
    pub about: String,
    /// Peers at the start; drawn once.
    pub peers: Span,
    /// Gradient units per round; drawn once.
    pub units: Span,
    /// Rounds; drawn once.
    pub rounds: Span,
    /// Numbers that the stand-in for a model has; sets the size of payloads and states.
    #[serde(default = "default_elements")]
    pub elements: Span,
    /// How long peers wait for each other at the start, in ms.
    #[serde(default = "default_gather")]
    pub gather_ms: Span,
    /// Virtual time after the last fault in which everybody must get to the end, in s.
    #[serde(default = "default_patience")]
    pub patience_s: Span,
    /// Virtual time in which some peer must have a new state while nothing new goes wrong, in s.
    #[serde(default = "default_stall")]
    pub stall_s: Span,
    /// The network.
    #[serde(default)]
    pub network: NetworkFigures,
    /// The peers' clocks.
    #[serde(default)]
    pub clocks: ClockFigures,
    /// The functions.
    #[serde(default)]
    pub functions: FunctionFigures,
    /// The peers' disks.
    #[serde(default)]
    pub disk: DiskFigures,
    /// From how many peers on messages are saved.
    #[serde(default)]
    pub crowd: CrowdFigures,
    /// When drawn faults happen, in ms of virtual time.
    #[serde(default = "default_within")]
    pub within_ms: Span,
    /// Faults that are drawn from the seed, by kind.
    #[serde(default)]
    pub faults: BTreeMap<FaultKind, FaultFigures>,
    /// Faults at given times.
    #[serde(default)]
    pub script: Vec<ScriptedFault>,
}

/// A network in a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkFigures {
    /// Delay of a message in ms. How far it goes towards the upper end is drawn once, so that there
    /// are fast and slow networks.
    pub delay_ms: Span,
    /// Messages lost, in percent; drawn once.
    pub loss_percent: Span,
    /// Messages that arrive twice, in percent; drawn once.
    pub duplicate_percent: Span,
    /// Directed links that are five times slower, in percent; drawn once.
    pub slow_link_percent: Span,
    /// Rate of payloads and states in Mbit/s; 0 for no limit.
    pub bandwidth_mbit: Span,
}

/// Clocks in a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClockFigures {
    /// What clocks show at the start, in s; drawn for each peer.
    pub offset_s: Span,
    /// How fast or slow a clock may be, in millionths; drawn once.
    pub drift_ppm: Span,
}

/// Functions in a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionFigures {
    /// A peer's typical time for a unit in ms; drawn for each peer.
    pub unit_ms: Span,
    /// Functions that a peer runs at once; drawn for each peer.
    pub capacity: Span,
    /// Attempts that take `straggler_factor` times as long, in percent; drawn once.
    pub straggler_percent: Span,
    /// See `straggler_percent`; drawn once.
    pub straggler_factor: Span,
    /// Attempts that fail, in percent; drawn once. Three in a row fail a unit at a peer.
    pub failure_percent: Span,
    /// Attempts that never end, in percent; drawn once.
    pub hang_percent: Span,
    /// Time after which an attempt is ended, in ms; drawn once.
    pub time_limit_ms: Span,
}

/// Disks in a scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DiskFigures {
    /// Time until a state is durable, in ms.
    pub write_ms: Span,
}

/// From how many peers on messages are saved; without it as in the product.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrowdFigures {
    /// Peers from which on sums are formed shard by shard; drawn once.
    pub sharded_from: Span,
    /// Peers from which on few are probed at a time; drawn once.
    pub sparse_from: Span,
}

/// A kind of fault that is drawn from the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// A peer dies, and starts again after `lasts_ms`.
    Crash,
    /// A peer stands still for `lasts_ms`.
    Pause,
    /// Some peers are cut off from the others for `lasts_ms`.
    Partition,
    /// The same in one direction.
    OneWayCut,
    /// A peer, or its link, goes and comes `times` times.
    Flap,
    /// A peer's functions take `factor` times as long for `lasts_ms`.
    SlowPeer,
    /// A peer cannot compute a unit for `lasts_ms`.
    FailingUnit,
    /// A peer that nobody expected comes.
    Join,
    /// A peer leaves on purpose.
    Leave,
    /// All peers but one die, and start again after `lasts_ms`.
    AllButOne,
    /// A member sends something damaged, old, oversized or forged.
    Attack,
}

/// How often and how a kind of fault happens.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultFigures {
    /// How many; drawn once.
    pub count: Span,
    /// How long each lasts, in ms.
    #[serde(default = "default_lasts")]
    pub lasts_ms: Span,
    /// Those that never end, in percent.
    #[serde(default = "zero")]
    pub forever_percent: Span,
    /// Restarts with an empty disk, in percent.
    #[serde(default = "zero")]
    pub disk_lost_percent: Span,
    /// Restarts after a torn write, in percent.
    #[serde(default = "zero")]
    pub torn_write_percent: Span,
    /// How many times slower.
    #[serde(default = "default_factor")]
    pub factor: Span,
    /// How many times a flapping peer goes and comes.
    #[serde(default = "default_times")]
    pub times: Span,
    /// Which attacks; all without it.
    #[serde(default)]
    pub kinds: Vec<AttackKind>,
}

fn default_elements() -> Span {
    Span::just(crate::model::DEFAULT_ELEMENTS as f64)
}

fn default_gather() -> Span {
    Span::just(2_000.0)
}

fn default_patience() -> Span {
    Span::just(120.0)
}

fn default_stall() -> Span {
    Span::just(STALL.as_secs_f64())
}

fn default_within() -> Span {
    Span::new(0.0, 2_000.0)
}

fn default_lasts() -> Span {
    Span::new(50.0, 1_500.0)
}

fn default_factor() -> Span {
    Span::new(5.0, 30.0)
}

fn default_times() -> Span {
    Span::new(2.0, 5.0)
}

fn zero() -> Span {
    Span::just(0.0)
}

impl Default for NetworkFigures {
    fn default() -> Self {
        Self {
            delay_ms: Span::new(0.05, 0.5),
            loss_percent: zero(),
            duplicate_percent: zero(),
            slow_link_percent: zero(),
            bandwidth_mbit: zero(),
        }
    }
}

impl Default for ClockFigures {
    fn default() -> Self {
        Self { offset_s: Span::new(0.0, 3600.0), drift_ppm: zero() }
    }
}

impl Default for FunctionFigures {
    fn default() -> Self {
        Self {
            unit_ms: Span::new(5.0, 30.0),
            capacity: Span::just(1.0),
            straggler_percent: zero(),
            straggler_factor: Span::just(20.0),
            failure_percent: zero(),
            hang_percent: zero(),
            time_limit_ms: Span::just(1_500.0),
        }
    }
}

impl Default for DiskFigures {
    fn default() -> Self {
        Self { write_ms: Span::new(0.5, 3.0) }
    }
}

impl Default for CrowdFigures {
    fn default() -> Self {
        let crowd = Crowd::default();
        Self { sharded_from: Span::just(crowd.sharded_from as f64), sparse_from: Span::just(crowd.sparse_from as f64) }
    }
}

impl Scenario {
    /// The built-in scenarios with their names.
    ///
    /// # Errors
    /// Never for the scenarios as they are; a test reads all of them.
    pub fn built_in() -> Result<Vec<Self>, ScenarioError> {
        BUILT_IN.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }

    /// A built-in scenario by name, or the one in a file.
    ///
    /// # Errors
    /// [`ScenarioError`], which names file, line or field and what can be done.
    pub fn load(name: &str) -> Result<Self, ScenarioError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        if !path.exists() {
            let known = BUILT_IN.iter().map(|(known, _)| *known).collect();
            return Err(ScenarioError::Unknown { name: name.into(), known });
        }
        let error = |source| ScenarioError::Read { file: name.into(), source };
        let length = std::fs::metadata(path).map_err(error)?.len();
        if length > MAX_FILE_BYTES {
            let message = format!("{length} bytes, at most {MAX_FILE_BYTES} are allowed");
            return Err(ScenarioError::Malformed { file: name.into(), message });
        }
        Self::parse(name, &std::fs::read_to_string(path).map_err(error)?)
    }

    /// A scenario from the text of a file called `name`.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let malformed =
            |error: toml::de::Error| ScenarioError::Malformed { file: name.into(), message: error.to_string() };
        let mut scenario: Self = toml::from_str(text).map_err(malformed)?;
        scenario.name = name.into();
        scenario.validate()?;
        Ok(scenario)
    }

    /// The same scenario with other numbers of peers.
    ///
    /// # Errors
    /// [`ScenarioError::Field`] if they are out of range.
    pub fn with_peers(mut self, peers: Span) -> Result<Self, ScenarioError> {
        self.peers = peers;
        self.validate()?;
        Ok(self)
    }

    fn validate(&self) -> Result<(), ScenarioError> {
        let most = MAX_PEERS as f64;
        let limits = [
            ("peers", self.peers, 1.0, most),
            ("units", self.units, 1.0, 4096.0),
            ("rounds", self.rounds, 1.0, 100_000.0),
            ("elements", self.elements, 1.0, 1e6),
            ("gather_ms", self.gather_ms, 0.0, 1e6),
            ("patience_s", self.patience_s, 1.0, 1e6),
            ("stall_s", self.stall_s, 1.0, 1e6),
            ("within_ms", self.within_ms, 0.0, 1e9),
            ("network.loss_percent", self.network.loss_percent, 0.0, 90.0),
            ("network.duplicate_percent", self.network.duplicate_percent, 0.0, 100.0),
            ("network.slow_link_percent", self.network.slow_link_percent, 0.0, 100.0),
            ("network.delay_ms", self.network.delay_ms, 0.0, 10_000.0),
            ("network.bandwidth_mbit", self.network.bandwidth_mbit, 0.0, 1e6),
            ("crowd.sharded_from", self.crowd.sharded_from, 2.0, 1e6),
            ("crowd.sparse_from", self.crowd.sparse_from, 2.0, 1e6),
            ("clocks.offset_s", self.clocks.offset_s, 0.0, 1e9),
            ("clocks.drift_ppm", self.clocks.drift_ppm, 0.0, 100_000.0),
            ("functions.capacity", self.functions.capacity, 1.0, 64.0),
            ("functions.failure_percent", self.functions.failure_percent, 0.0, 50.0),
            ("functions.hang_percent", self.functions.hang_percent, 0.0, 50.0),
            ("functions.straggler_percent", self.functions.straggler_percent, 0.0, 100.0),
            ("functions.straggler_factor", self.functions.straggler_factor, 1.0, 1e4),
        ];
        for (field, span, low, high) in limits {
            self.within(field, span, low, high)?;
        }
        for (kind, figures) in &self.faults {
            self.within(&format!("faults.{kind:?}.count"), figures.count, 0.0, 10_000.0)?;
            self.within(&format!("faults.{kind:?}.times"), figures.times, 1.0, 1_000.0)?;
        }
        let joiners = self.faults.get(&FaultKind::Join).map_or(0.0, |figures| figures.count.high);
        let all = Span::just(self.peers.high + joiners + self.script.len() as f64);
        self.within("peers and joiners together", all, 1.0, most)?;
        self.script.iter().enumerate().try_for_each(|(index, fault)| fault.validate(self, index))
    }

    fn within(&self, field: &str, span: Span, low: f64, high: f64) -> Result<(), ScenarioError> {
        if span.low >= low && span.high <= high {
            return Ok(());
        }
        Err(self.wrong(field, span.to_string(), format!("between {low} and {high}")))
    }

    fn wrong(&self, field: &str, value: String, expected: String) -> ScenarioError {
        ScenarioError::Field { file: self.name.clone(), field: field.into(), value, expected }
    }
}
