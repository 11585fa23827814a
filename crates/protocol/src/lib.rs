//! Deterministic rounds without I/O.
//!
//! Everything here is a pure function of its arguments: no clock, thread, file, socket or global
//! random source. Time comes in as an argument, and what is to be done goes out as a value.
//! Tensors never pass through: the protocol speaks of their digests.

mod assignment;
mod contribution;
mod cover;
pub mod function;
mod ids;
mod message;
mod mixing;
mod mutant;
mod node;
mod pace;
pub mod parameter_server;
mod participant;
mod shard;
mod spec;
mod state;
mod time;
mod unit_time;
mod units;

pub use assignment::{Capacities, Capacity, EVEN_SPEED, MAX_FUNCTIONS, assign, ranking};
pub use contribution::{Contribution, ContributionError, PayloadRef, SignedContribution, expected_samples};
pub use cover::{disjoint_choice, exact_cover};
pub use ids::{Digest, ParseIdError, PeerId, RunId};
pub use message::{Heartbeat, MAX_MEMBERS, MAX_MESSAGE_BYTES, Member, Message, MessageError, WIRE_VERSION};
pub use mixing::{SPLIT_MIX_STEP, split_mix};
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use node::{
    Config, Crowd, Effect, Event, Footprint, HEARTBEAT_EVERY, Input, Membership, Node, RefusalKind, SUSPECT_AFTER,
    StateMeta, StopReason, Verify,
};
pub use participant::Participant;
/// Configuration of a run that the aggregation defines, as it is part of the spec.
pub use peerless_aggregation::{ConfigError, Decisions, EarlyStopping, LearningRate, Optimizer, Schedule};
pub use shard::{MAX_SHARDS, PayloadShape};
pub use spec::{DatasetSpec, EvaluationSpec, MAX_SPEC_BYTES, MAX_UNITS, RunSpec, SPEC_VERSION, SpecError};
pub use state::{Evaluation, FinishReason, Layout, LayoutEntry, Role, StateHeader, StateRef, Tally};
pub use time::Time;
pub use unit_time::UnitTime;
pub use units::{EpochOrder, RoundPlan, UnitKind, UnitSet, evaluation_samples, unit_seed};
