//! What this kernel can enforce.

use std::sync::OnceLock;
use std::thread;

use landlock::ABI;

use crate::{files, syscalls};

/// What of a [`Policy`](crate::Policy) this kernel can enforce for this process's children.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Access to files (landlock, Linux 5.13).
    pub files: bool,
    /// That files are not truncated either (Linux 6.2).
    pub truncation: bool,
    /// Signals to processes outside (Linux 6.12).
    pub signals: bool,
    /// System calls and network (seccomp); the reason why not.
    pub system_calls: Result<(), String>,
}

impl Support {
    /// Asks the kernel, once in a process. What a container or another filter takes away is not there either: nothing
    /// is concluded from version numbers.
    pub fn get() -> &'static Self {
        static SUPPORT: OnceLock<Support> = OnceLock::new();
        SUPPORT.get_or_init(|| Self {
            files: files::knows(ABI::V1),
            truncation: files::knows(ABI::V3),
            signals: files::knows(ABI::V6),
            system_calls: filter_on_a_thread(),
        })
    }

    /// The parts that are missing, and what that means, in words for people.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.files {
            missing.push("landlock, by which functions see only their files (Linux 5.13, enabled)".to_owned());
        } else if !self.truncation {
            missing.push("landlock of Linux 6.2, which keeps functions from truncating other files".to_owned());
        } else if !self.signals {
            missing.push("landlock of Linux 6.12, which keeps functions from signalling other processes".to_owned());
        }
        if let Err(reason) = &self.system_calls {
            missing.push(format!("seccomp, which keeps functions from the network ({reason})"));
        }
        missing
    }
}

/// The only way to know is to try. A filter holds for the thread that installs it, and that one ends at once.
fn filter_on_a_thread() -> Result<(), String> {
    let tried = thread::Builder::new().name("seccomp-probe".into()).spawn(syscalls::try_restrict);
    let tried = tried.map_err(|error| error.to_string())?;
    tried.join().unwrap_or_else(|_| Err("the attempt panicked".to_owned()))
}
