//! `peerless compare`: a matrix of runs with real processes, and what came of them; docs/compare.md.
//!
//! [`spec`] and [`faults`] are what is asked for, [`cells`] the runs that follow from it, [`execute`] runs them,
//! [`collect`] reads what they left, [`figures`], [`table`] and [`page`] show it.

pub(crate) mod agreement;
pub(crate) mod cells;
pub(crate) mod collect;
pub(crate) mod execute;
pub(crate) mod faults;
pub(crate) mod figures;
pub(crate) mod outcome;
pub(crate) mod page;
pub(crate) mod spec;
pub(crate) mod table;
