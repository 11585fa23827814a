//! Files, TCP, abstract sockets and signals: landlock.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, RulesetStatus, Scope, make_bitflags, path_beneath_rules,
};

use crate::launch::LaunchError;
use crate::policy::FilePolicy;

/// The newest landlock that the rules know; older ones enforce what they can, and [`Support`](crate::Support) says
/// what that leaves out.
const NEWEST: ABI = ABI::V6;

/// Programs and libraries of the system, and what run-times read to use them.
const SYSTEM: [&str; 12] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    // The number of processors: libc and every thread pool ask for it.
    "/sys/devices/system",
];

/// About this process and the machine. Not all of `/proc`: command lines of others are in it.
const PROC: [&str; 7] =
    ["/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/sys/kernel", "/proc/sys/vm"];

const SOURCES: [&str; 4] = ["/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

fn read() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{Execute | ReadFile | ReadDir})
}

/// No execution of what was written; and no links, pipes or sockets: whoever opens an output file by its name must
/// not be led elsewhere or made to wait.
fn write() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{
        ReadFile | ReadDir | WriteFile | Truncate | MakeReg | MakeDir | RemoveFile | RemoveDir | Refer
    })
}

/// Takes everything away from this process but what `allowed` and the system's folders hold.
pub(crate) fn restrict(allowed: &FilePolicy) -> Result<(), LaunchError> {
    let failed = |reason: String| LaunchError::restrict("restrict access to files", reason);
    let status = rules(allowed).map_err(|error| failed(error.to_string()))?;
    if status == RulesetStatus::NotEnforced {
        return Err(failed("this kernel has no landlock, or it is not enabled".to_owned()));
    }
    Ok(())
}

fn rules(allowed: &FilePolicy) -> Result<RulesetStatus, RulesetError> {
    let devices = make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate});
    // Folders that are not there are passed over: there is nothing in them to be read.
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .add_rules(path_beneath_rules(SYSTEM, read()))?
        .add_rules(path_beneath_rules(PROC, make_bitflags!(AccessFs::{ReadFile | ReadDir})))?
        .add_rules(path_beneath_rules(SOURCES, make_bitflags!(AccessFs::{ReadFile})))?
        .add_rules(path_beneath_rules(["/dev/null"], devices))?
        .add_rules(path_beneath_rules(&allowed.read, read()))?
        .add_rules(path_beneath_rules(&allowed.write, write()))?;
    Ok(rules.restrict_self()?.ruleset)
}

/// Whether the kernel's landlock knows all that came with this version of it. Restricts nothing.
pub(crate) fn knows(version: ABI) -> bool {
    let strict = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let mut rules = strict().handle_access(AccessFs::from_all(version));
    if version >= ABI::V4 {
        rules = rules.and_then(|rules| rules.handle_access(AccessNet::from_all(version)));
    }
    if version >= ABI::V6 {
        rules = rules.and_then(|rules| rules.scope(Scope::from_all(version)));
    }
    rules.and_then(Ruleset::create).is_ok()
}
