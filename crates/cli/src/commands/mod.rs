//! One module per subcommand.

pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod cost;
pub(crate) mod dashboard;
pub(crate) mod data;
#[cfg(feature = "s3")]
pub(crate) mod deploy;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod function;
pub(crate) mod models;
pub(crate) mod peer;
pub(crate) mod plan;
pub(crate) mod project;
pub(crate) mod runs;
pub(crate) mod simulate;
pub(crate) mod soak;
pub(crate) mod status;
pub(crate) mod trace;
pub(crate) mod train;
pub(crate) mod verify;
