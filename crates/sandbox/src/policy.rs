//! What a program may do.

use std::ffi::OsString;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a program may do, as the parent tells it to the launcher.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Process id of the parent. The program is killed when the *thread* that started the launcher ends, so that
    /// thread must live as long as the parent wants the program.
    pub parent: Option<u32>,
    /// Files of cgroups that the launcher joins by writing `0`.
    pub cgroups: Vec<PathBuf>,
    /// Most files open at a time (`RLIMIT_NOFILE`), if that is less than the parent's limit.
    pub open_files: Option<u64>,
    /// Which files it sees; `None` for all that its user sees. Also takes TCP, abstract sockets and signals to
    /// processes outside away, as far as the kernel's landlock knows them.
    pub files: Option<FilePolicy>,
    /// Whether system calls that a computation never needs, `socket` among them, are refused.
    pub refuse_system_calls: bool,
}

/// Files and folders, with all that is below them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilePolicy {
    /// May be read and executed, besides the system's programs and libraries.
    pub read: Vec<PathBuf>,
    /// May be read, written, made and removed, but not executed.
    pub write: Vec<PathBuf>,
}

impl Policy {
    /// The launcher's arguments that come before the program.
    ///
    /// # Errors
    /// For paths that are not UTF-8.
    pub fn to_arguments(&self) -> Result<[OsString; 2], serde_json::Error> {
        Ok([serde_json::to_string(self)?.into(), "--".into()])
    }
}
