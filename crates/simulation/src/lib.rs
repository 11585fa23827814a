//! Many peers in one thread: the real protocol code under virtual time, with a virtual network,
//! virtual functions and faults, everything derived from one seed.
//!
//! Units are cheap stand-ins for gradients, but sums, optimizer and state encoding are the real
//! ones, so that a state digest here means what it means outside.

mod adversary;
mod campaign;
mod clock;
mod disk;
mod faults;
mod functions;
mod invariants;
mod metrics;
mod model;
mod network;
mod queue;
mod random;
mod scenario;
mod signatures;
mod timeline;
mod world;

pub use adversary::{Attack, AttackKind};
pub use campaign::{Campaign, Failure, Report, SeedRun, run_seed};
pub use clock::Clock;
pub use disk::DiskFate;
pub use faults::Fault;
pub use functions::Functions;
pub use invariants::{Invariant, Violation};
pub use metrics::{Metrics, PerRound, Quantiles, Traffic};
pub use model::{DEFAULT_ELEMENTS, Reference, small_spec};
pub use network::{Cut, Network};
pub use random::Random;
pub use scenario::{
    ClockFigures, DiskFigures, FaultFigures, FaultKind, FunctionFigures, MAX_PEERS, NetworkFigures, Plan, Scenario,
    ScenarioError, ScriptedFault, Span,
};
pub use timeline::{Line, timeline};
pub use world::{Outcome, Prepare, Setup, World};
