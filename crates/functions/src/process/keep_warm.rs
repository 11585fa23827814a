//! How long an idle function is worth keeping on a machine that is paid for by time.
//!
//! This is the ski-rental problem: who does not know when the next task comes ends a function when what it has cost idle
//! is what starting another one costs. That is at most twice what would have been best in hindsight, and nothing that
//! decides without knowing does better (Karlin, Manasse, Rudolph and Sleator, "Competitive snoopy caching", Algorithmica
//! 3, 1988).
//!
//! An idle function costs its share of the machine's memory, and starting one costs a core. So the machine's price is on
//! both sides and cancels out: whether it costs much or little, the same time is right.

use std::fs;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::durations::Window;
use crate::metering::Metering;

/// What was measured of units that all take about as long.
#[derive(Default)]
pub(super) struct KeepWarm {
    /// Times of functions that had to be started.
    cold: Window,
    warm: Window,
    /// Resident memory of the last function that told it.
    memory_bytes: u64,
}

impl KeepWarm {
    /// Learns from a gradient unit.
    pub(super) fn observe(&mut self, metering: &Metering) {
        let window = if metering.cold { &mut self.cold } else { &mut self.warm };
        window.push(Duration::from_micros(metering.duration_us));
        if metering.peak_memory_bytes > 0 {
            self.memory_bytes = metering.peak_memory_bytes;
        }
    }

    /// How long a function may idle, where a core goes with so much memory; `None` while too little is known.
    pub(super) fn limit(&self, bytes_per_core: u64) -> Option<Duration> {
        let start = self.cold.median()?.saturating_sub(self.warm.median()?);
        let times = bytes_per_core as f64 / self.memory_bytes as f64;
        times.is_finite().then(|| Duration::try_from_secs_f64(start.as_secs_f64() * times).unwrap_or(Duration::MAX))
    }
}

/// This machine's memory for each of its cores, in bytes; `None` if the system does not say.
pub(super) fn bytes_per_core() -> Option<u64> {
    let total = total_memory(&fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(total / available_parallelism().map_or(1, |cores| cores.get() as u64))
}

fn total_memory(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(cold: bool, ms: u64, memory_mib: u64) -> Metering {
        Metering { cold, duration_us: ms * 1000, peak_memory_bytes: memory_mib << 20, ..Metering::default() }
    }

    #[test]
    fn a_function_may_cost_idle_what_starting_another_one_costs() {
        let mut learned = KeepWarm::default();
        learned.observe(&unit(true, 37, 25));
        assert_eq!(learned.limit(4000 << 20), None, "nothing is known of warm functions");
        learned.observe(&unit(false, 22, 25));
        // 15 ms of a core cost as much as 2.4 s of a 160th of its memory.
        assert_eq!(learned.limit(4000 << 20), Some(Duration::from_millis(2400)));
        learned.observe(&unit(false, 22, 1000));
        assert_eq!(learned.limit(4000 << 20), Some(Duration::from_millis(60)), "a larger one is dearer to keep");
    }

    #[test]
    fn without_a_gain_or_with_unknown_memory_nothing_overflows() {
        let mut learned = KeepWarm::default();
        learned.observe(&unit(true, 20, 0));
        learned.observe(&unit(false, 30, 0));
        assert_eq!(learned.limit(1 << 40), None);
        learned.observe(&unit(false, 30, 1));
        assert_eq!(learned.limit(1 << 40), Some(Duration::ZERO));
    }

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(total_memory("MemTotal:        8039872 kB\nMemFree: 1 kB\n"), Some(8_039_872 << 10));
        assert_eq!(total_memory("MemTotal: much"), None);
        assert!(bytes_per_core().is_some_and(|bytes| bytes > 1 << 20));
    }
}
