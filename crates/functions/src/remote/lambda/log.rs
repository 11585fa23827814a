//! What Lambda bills, from the last line of an invocation's log.

use data_encoding::BASE64;

use crate::metering::Billing;

/// Reads the tail of a log as the API gives it (base64).
///
/// The line is, with tabs between the parts:
/// `REPORT RequestId: … Duration: 12.34 ms Billed Duration: 13 ms Memory Size: 128 MB Max Memory Used: 41 MB
/// Init Duration: 120.12 ms` (AWS Lambda Developer Guide, "Understanding Lambda function logs").
pub(super) fn billed(tail: &str) -> Option<Billing> {
    let log = BASE64.decode(tail.as_bytes()).ok()?;
    let log = String::from_utf8_lossy(&log);
    let line = log.lines().rev().find(|line| line.starts_with("REPORT "))?;
    let number = |name: &str| {
        let part = line.split('\t').find_map(|part| part.trim().strip_prefix(name))?;
        part.split_whitespace().next()?.parse::<f64>().ok().filter(|number| (0.0..1e12).contains(number))
    };
    Some(Billing {
        billed_ms: number("Billed Duration:")?.ceil() as u64,
        memory_mb: number("Memory Size:")? as u32,
        init_us: (number("Init Duration:").unwrap_or(0.0) * 1000.0).round() as u64,
        requests: 1,
        ..Billing::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(log: &str) -> Option<Billing> {
        billed(&BASE64.encode(log.as_bytes()))
    }

    #[test]
    fn a_report_line_is_read_with_and_without_initialisation() {
        let cold = "START RequestId: 8f5\nREPORT RequestId: 8f5\tDuration: 12.34 ms\tBilled Duration: 133 ms\t\
            Memory Size: 1769 MB\tMax Memory Used: 41 MB\tInit Duration: 120.12 ms\t\n";
        assert_eq!(
            of(cold),
            Some(Billing { billed_ms: 133, memory_mb: 1769, init_us: 120_120, requests: 1, ..Billing::default() })
        );
        let warm = "REPORT RequestId: 8f5\tDuration: 2.10 ms\tBilled Duration: 3 ms\tMemory Size: 128 MB\t\n";
        assert_eq!(of(warm), Some(Billing { billed_ms: 3, memory_mb: 128, requests: 1, ..Billing::default() }));
    }

    #[test]
    fn a_log_without_the_line_bills_nothing() {
        for log in ["", "START", "REPORT RequestId: 1", "REPORT \tBilled Duration: NaN ms\tMemory Size: 1 MB"] {
            assert_eq!(of(log), None, "{log}");
        }
        assert_eq!(billed("no base64!"), None);
    }
}
