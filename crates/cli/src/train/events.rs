//! What happens during a run, for people and for the summary.

use serde::Serialize;

/// Kinds of events. Their names are part of the JSON summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A peer's process was started.
    PeerStarted,
    /// A peer's process that ran already was found.
    PeerAttached,
    /// A peer has the final state.
    PeerFinished,
    /// A peer has left as it was asked to.
    PeerLeft,
    /// A peer's process has died.
    PeerDied,
    /// A fault was injected.
    Fault,
    /// The test set was evaluated.
    Evaluation,
    /// The watcher was interrupted.
    Interrupted,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Event {
    /// When, in microseconds since the Unix epoch.
    pub(crate) at_unix_us: u64,
    /// Optimizer steps of the most advanced peer at that time.
    pub(crate) round: u64,
    /// What.
    pub(crate) kind: Kind,
    /// The peer's name, if it is about one.
    pub(crate) peer: Option<String>,
    /// Particulars, for people.
    pub(crate) detail: String,
}
