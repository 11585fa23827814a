//! System calls that a computation never needs: seccomp.
//!
//! A list of what is refused and not of what is allowed. Functions are programs in any language with any run-time and
//! libraries: what those call differs by language, version and processor, and a list of what is allowed breaks with
//! every update of libc, which then looks like a bug of the function. So what this adds to landlock is a smaller
//! surface of the kernel and no network; a call that is added to the kernel tomorrow is not on the list.

use std::collections::BTreeMap;
use std::env::consts::ARCH;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use crate::launch::LaunchError;

/// Refused with EPERM whatever the arguments are.
const REFUSED: &[i64] = &[
    // Sockets. Those of all families: landlock has nothing against connecting to a named one before Linux 7.2, and
    // behind such names are container engines, message buses and key agents. `socketpair` remains.
    libc::SYS_socket,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Around the rules for files.
    libc::SYS_open_by_handle_at,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    // Parts of the kernel with a history of holes.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] = &[libc::SYS_kexec_file_load, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

/// The second calling convention of x86-64, where kernels have it: the same calls by other numbers.
#[cfg(target_arch = "x86_64")]
const X32: Option<i64> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const X32: Option<i64> = None;

/// Refused calls that have a number of their own there: ptrace, kexec_load, process_vm_readv, process_vm_writev.
const X32_NUMBERS: [i64; 4] = [521, 528, 539, 540];

/// Flags of `clone` that make namespaces.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// Refuses the calls to this thread, and to all that it starts.
pub(crate) fn restrict() -> Result<(), LaunchError> {
    try_restrict().map_err(|reason| LaunchError::restrict("filter system calls", reason))
}

pub(crate) fn try_restrict() -> Result<(), String> {
    let filters = filters().map_err(|error| error.to_string())?;
    filters.iter().try_for_each(|filter| apply_filter(filter).map_err(|error| error.to_string()))
}

/// Two, since a filter has one answer only. The flags of `clone3` are behind a pointer, which a filter cannot follow;
/// told that there is no such call, libraries take `clone`.
fn filters() -> Result<[BpfProgram; 2], BackendError> {
    let refused = refused()?;
    let absent = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    Ok([filter(refused, libc::EPERM)?, filter(absent, libc::ENOSYS)?])
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, answer: libc::c_int) -> Result<BpfProgram, BackendError> {
    let rules = with_x32(rules);
    let answer = SeccompAction::Errno(answer.cast_unsigned());
    SeccompFilter::new(rules, SeccompAction::Allow, answer, TargetArch::try_from(ARCH)?)?.try_into()
}

fn with_x32(mut rules: BTreeMap<i64, Vec<SeccompRule>>) -> BTreeMap<i64, Vec<SeccompRule>> {
    if let Some(x32) = X32 {
        let again: Vec<_> = rules.iter().map(|(number, rules)| (number | x32, rules.clone())).collect();
        rules.extend(again);
    }
    rules
}

fn refused() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let x32 = X32.into_iter().flat_map(|x32| X32_NUMBERS.map(|number| number | x32));
    let always = REFUSED.iter().chain(REFUSED_HERE).copied().chain(x32);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = always.map(|number| (number, Vec::new())).collect();
    let namespaces = NAMESPACES.iter().map(|&flag| {
        let flag = flag.cast_unsigned().into();
        let set = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(flag), flag)?;
        SeccompRule::new(vec![set])
    });
    rules.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_are_as_long_as_the_kernel_takes() {
        for filter in filters().unwrap() {
            assert!((1..=4096).contains(&filter.len()), "{} instructions", filter.len());
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn every_call_is_refused_by_both_of_its_numbers() {
        let rules = with_x32(refused().unwrap());
        for number in REFUSED.iter().chain(REFUSED_HERE) {
            assert!(rules.contains_key(number) && rules.contains_key(&(number | 0x4000_0000)), "{number}");
        }
    }
}
