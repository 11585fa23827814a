//! Runs a program with less rights than its parent has. Linux only.
//!
//! `unsafe` is forbidden, so nothing can be done between `fork` and `exec`. Instead a *launcher* is started,
//! which restricts itself by a [`Policy`] and then becomes the program ([`launch()`]): for a program in any language,
//! with the process id that its parent knows, and still by `posix_spawn`.
//!
//! - [`Policy`] says what the program may do. The launcher does all of it or fails: nothing is left out silently.
//! - [`Support`] says beforehand what this kernel can do.
//! - [`Cgroups`] finds where groups for limits on memory, CPU and processes can be made, and makes them.
//!
//! What this protects against and what not is in `docs/isolation.md`.

mod cgroup;
mod files;
mod launch;
mod limits;
mod policy;
mod support;
mod syscalls;

pub use cgroup::{CPU_PERIOD_US, Cgroup, CgroupLimits, Cgroups, Controller};
pub use launch::{EXIT_NOT_FOUND, EXIT_NOT_ISOLATED, EXIT_NOT_RUN, LaunchError, launch};
pub use policy::{FilePolicy, Policy};
pub use support::Support;
