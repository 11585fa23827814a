//! What every kernel has: the signal at the parent's death, limits of resources, no way back to more rights, and
//! closed descriptors.

use rustix::process::{Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::thread::set_no_new_privs;

use crate::launch::LaunchError;

/// The first descriptor behind stdin, stdout and stderr.
const FIRST_INHERITED: i32 = 3;

/// Has the kernel kill this process when its parent ends.
pub(crate) fn die_with(parent: u32) -> Result<(), LaunchError> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| LaunchError::restrict("ask for a signal when the parent ends", error))?;
    // It may have ended before the line above.
    let present = getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    if present == Some(parent) { Ok(()) } else { Err(LaunchError::Orphan) }
}

/// Has everything but stdin, stdout and stderr closed when the program is executed. The parent's own descriptors are
/// anyway, but those that it was itself started with may not be.
pub(crate) fn close_inherited_files() {
    close_fds::set_fds_cloexec(FIRST_INHERITED, &[]);
}

/// Sets limits, and that no program gets more rights by being executed.
pub(crate) fn set(open_files: Option<u64>) -> Result<(), LaunchError> {
    limit(Resource::Core, 0)?;
    if let Some(most) = open_files {
        limit(Resource::Nofile, most)?;
    }
    set_no_new_privs(true).map_err(|error| LaunchError::restrict("give up the way to more rights", error))
}

/// Never raises a limit.
fn limit(resource: Resource, most: u64) -> Result<(), LaunchError> {
    let most = getrlimit(resource).current.map_or(most, |present| present.min(most));
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })
        .map_err(|error| LaunchError::restrict("set a limit", format!("{resource:?} {most}: {error}")))
}
