//! The largest resident set of a process, as the kernel keeps it.

use std::fs;
use std::time::{Duration, Instant};

/// Time between two looks. What a process takes more in its last moments before a `kill -9` is missed.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The largest resident set of a peer's processes.
#[derive(Debug, Default)]
pub(crate) struct PeakMemory {
    bytes: u64,
    looked: Option<Instant>,
}

impl PeakMemory {
    /// In bytes; 0 where nothing could be read.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Looks at a process that lives, now and then.
    pub(crate) fn look(&mut self, pid: Option<u32>) {
        let Some(pid) = pid.filter(|_| self.looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY)) else { return };
        self.looked = Some(Instant::now());
        self.bytes = self.bytes.max(peak_memory(pid).unwrap_or_default());
    }
}

/// The largest resident set of a process so far, in bytes; `None` where there is no `/proc`, or no such process.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    peak(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// `VmHWM` of a process' status file, in bytes.
fn peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read_in_bytes() {
        assert_eq!(peak("Name:\tx\nVmHWM:\t    1984 kB\nVmRSS:\t 12 kB\n"), Some(1984 << 10));
        assert_eq!(peak("Name:\tx\n"), None);
        let mut memory = PeakMemory::default();
        memory.look(Some(std::process::id()));
        assert!(memory.bytes() > 1 << 20);
        memory.looked = None;
        memory.look(Some(u32::MAX));
        assert!(memory.bytes() > 1 << 20, "what was seen stays");
    }
}
