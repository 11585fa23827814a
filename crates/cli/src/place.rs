//! The machine and the time, for reports and for what was measured.

use std::fs;

use peerless_peer::status::unix_us;

/// Processor, cores, memory and system, as far as they can be read.
pub(crate) fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo").lines().find_map(|line| Some(value(line, "model name", ':')?.to_owned()));
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| value(line, "MemTotal", ':')?.split(' ').next()?.parse::<f64>().ok());
    let system = read("/etc/os-release")
        .lines()
        .find_map(|line| Some(value(line, "PRETTY_NAME", '=')?.trim_matches('"').to_owned()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut parts = vec![format!("{cores} cores of {}", cpu.as_deref().unwrap_or("an unknown processor"))];
    parts.extend(memory.map(|kib| format!("{:.1} GiB of memory", kib / f64::from(1 << 20))));
    parts.extend(system);
    parts.join(", ")
}

fn value<'a>(line: &'a str, key: &str, separator: char) -> Option<&'a str> {
    let (found, value) = line.split_once(separator)?;
    (found.trim() == key).then(|| value.trim())
}

/// Date and time in UTC.
pub(crate) fn now() -> String {
    at(unix_us() / 1_000_000)
}

/// The date in UTC, as in 2026-11-23.
pub(crate) fn today() -> String {
    date(unix_us() / 1_000_000)
}

fn at(unix_s: u64) -> String {
    let second = unix_s % 86_400;
    format!("{} {:02}:{:02} UTC", date(unix_s), second / 3600, second / 60 % 60)
}

fn date(unix_s: u64) -> String {
    let (year, month, day) = civil(unix_s / 86_400);
    format!("{year}-{month:02}-{day:02}")
}

/// Year, month and day of a number of days since 1970-01-01, counting years from March so that leap days are at their
/// end (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_dates() {
        assert_eq!([0, 59, 11_016, 20_780].map(civil), [(1970, 1, 1), (1970, 3, 1), (2000, 2, 29), (2026, 11, 23)]);
    }

    #[test]
    fn times_are_dates() {
        assert_eq!(at(0), "1970-01-01 00:00 UTC");
        assert_eq!(at(1_709_210_096), "2024-02-29 12:34 UTC");
        assert_eq!(at(1_735_689_599), "2024-12-31 23:59 UTC");
    }

    #[test]
    fn a_machine_has_at_least_cores() {
        assert!(machine().contains("cores of"), "{}", machine());
    }
}
