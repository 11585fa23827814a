//! Processes by id: whether they live, and signals to them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Whether a process of this program that runs `subcommand` has this id.
///
/// An id alone may long belong to somebody else, and a killed process whose parent does not reap it
/// keeps its id; where there is a /proc, its command line tells (that of a zombie is empty).
pub fn is_alive(pid: u32, subcommand: &str) -> bool {
    let Some(id) = process_id(pid) else { return false };
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(line) => line.split(|&byte| byte == 0).nth(1) == Some(subcommand.as_bytes()),
        Err(_) => !fs::exists("/proc/self").unwrap_or(false) && test_kill_process(id).is_ok(),
    }
}

/// Sends a signal; whether there was a process to get it.
pub fn signal(pid: u32, signal: Signal) -> bool {
    process_id(pid).is_some_and(|id| kill_process(id, signal).is_ok())
}

fn process_id(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_with_another_command_line_is_not_taken_for_a_peer() {
        assert!(!is_alive(std::process::id(), "peer"));
        assert!(!is_alive(0, "peer") && !is_alive(u32::MAX, "peer"));
    }

    #[test]
    fn a_killed_process_that_nobody_reaped_is_dead() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
        // A process has its command line a moment after it is started.
        while !is_alive(child.id(), "60") {
            std::thread::yield_now();
        }
        assert!(signal(child.id(), Signal::KILL));
        while is_alive(child.id(), "60") {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
