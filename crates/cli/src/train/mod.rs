//! A run on this machine: its peers' processes, the faults they suffer, and what there is to see.

pub(crate) mod agreement;
mod beside;
pub(crate) mod dashboard;
pub(crate) mod events;
pub(crate) mod fault;
pub(crate) mod fleet;
pub(crate) mod inject;
pub(crate) mod memory;
pub(crate) mod network;
pub(crate) mod peers;
pub(crate) mod progress;
pub(crate) mod slow;
pub(crate) mod summary;
pub(crate) mod supervise;
pub(crate) mod topology;
pub(crate) mod traces;
pub(crate) mod watch;
