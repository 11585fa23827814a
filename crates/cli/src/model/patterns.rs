//! How long sums and states are on their way in the patterns of the literature, as formulas.
//!
//! Bytes over megabytes per second are microseconds; latencies are in microseconds.

/// A link, or a way to a store: what a transfer of bytes takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Link {
    /// In MB (10^6 bytes) per second.
    pub(crate) bandwidth: f64,
    /// In microseconds.
    pub(crate) latency_us: f64,
}

impl Link {
    fn transfer(self, bytes: f64) -> f64 {
        bytes / self.bandwidth + self.latency_us
    }
}

/// Ring all-reduce of one vector: 2(w-1) steps, each with a w-th of it to the next worker.
///
/// Patarasuk and Yuan, *Bandwidth optimal all-reduce algorithms for clusters of workstations*, JPDC 2009; the same as
/// the communication of LambdaML's model for virtual machines.
pub(super) fn ring(workers: u32, bytes: f64, link: Link) -> f64 {
    let workers = f64::from(workers.max(1));
    2.0 * (workers - 1.0) * link.transfer(bytes / workers)
}

/// LambdaML's AllReduce through a store: all write their vector, the first worker reads them one after the other and
/// writes their sum, all read that: w+3 transfers of a vector behind each other.
///
/// Counted in `reduce_batch` of LambdaML's published code (`communicator/s3_primitive.py`).
pub(crate) fn store_all_reduce(workers: u32, bytes: f64, store: Link) -> f64 {
    match workers {
        0 | 1 => 0.0,
        _ => (f64::from(workers) + 3.0) * store.transfer(bytes),
    }
}

/// LambdaML's ScatterReduce through a store: a worker writes w-1 parts, reads the w-1 others of its own part, writes that
/// sum, and reads the w-1 other sums: 3w-2 transfers of a w-th of a vector behind each other.
///
/// LambdaML (arXiv 2105.07806), and counted in `reduce_scatter_batch` of its published code.
pub(crate) fn store_scatter_reduce(workers: u32, bytes: f64, store: Link) -> f64 {
    match workers {
        0 | 1 => 0.0,
        _ => (3.0 * f64::from(workers) - 2.0) * store.transfer(bytes / f64::from(workers)),
    }
}

/// Objects written and read in one round of [`store_all_reduce`].
pub(super) fn all_reduce_requests(workers: u32) -> (u64, u64) {
    let workers = u64::from(workers);
    if workers < 2 { (0, 0) } else { (workers + 1, 2 * workers) }
}

/// Objects written and read in one round of [`store_scatter_reduce`].
pub(super) fn scatter_reduce_requests(workers: u32) -> (u64, u64) {
    let workers = u64::from(workers);
    if workers < 2 { (0, 0) } else { (workers * workers, 2 * workers * (workers - 1)) }
}

/// A parameter server takes a sum from each worker and sends each the state, all over its one link.
pub(super) fn parameter_server(workers: u32, sum_bytes: f64, state_bytes: f64, link: Link) -> f64 {
    let workers = f64::from(workers);
    link.transfer(workers * sum_bytes) + link.transfer(workers * state_bytes)
}

/// Seconds until so many functions of one job are there (LambdaML, arXiv 2105.07806).
pub(crate) const STARTS: [(u32, f64); 4] = [(10, 1.2), (50, 11.0), (100, 18.0), (200, 35.0)];

/// How many times longer it takes until so many functions are there than for the first few: through LambdaML's points by
/// straight lines, and on from the last two.
pub(crate) fn start_factor(functions: u32) -> f64 {
    let first = STARTS[0];
    if functions <= first.0 {
        return 1.0;
    }
    let interval = STARTS[1..].iter().position(|(count, _)| functions <= *count).unwrap_or(STARTS.len() - 2);
    let (from, to) = (STARTS[interval], STARTS[interval + 1]);
    let part = (f64::from(functions) - f64::from(from.0)) / (f64::from(to.0) - f64::from(from.0));
    (from.1 + part * (to.1 - from.1)) / first.1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 10 MB/s and 5 ms.
    const LINK: Link = Link { bandwidth: 10.0, latency_us: 5000.0 };

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6 * expected.abs().max(1.0), "{found} is not {expected}");
    }

    #[test]
    fn patterns_take_what_a_hand_counts() {
        // 1 MB: a whole one takes 100 + 5 ms, a quarter 25 + 5 ms.
        close(ring(4, 1e6, LINK), 6.0 * 30_000.0);
        close(store_all_reduce(4, 1e6, LINK), 7.0 * 105_000.0);
        close(store_scatter_reduce(4, 1e6, LINK), 10.0 * 30_000.0);
        // Four sums of 2 MB in, four states of 1 MB out.
        close(parameter_server(4, 2e6, 1e6, LINK), 805_000.0 + 405_000.0);
        assert_eq!([ring(1, 1e6, LINK), store_all_reduce(1, 1e6, LINK), store_scatter_reduce(1, 1e6, LINK)], [0.0; 3]);
        // Four vectors and the sum are written, four and four times the sum read; in parts, 4·3 + 4 and 4·3 + 4·3.
        assert_eq!((all_reduce_requests(4), scatter_reduce_requests(4)), ((5, 8), (16, 24)));
    }

    #[test]
    fn starts_go_through_the_published_points_and_never_fall() {
        for (functions, seconds) in STARTS {
            close(1.2 * start_factor(functions), seconds);
        }
        close(1.2 * start_factor(75), 14.5);
        close(1.2 * start_factor(150), 26.5);
        close(1.2 * start_factor(300), 52.0);
        assert_eq!(start_factor(1), 1.0);
        let factors: Vec<f64> = (1..1000).map(start_factor).collect();
        assert!(factors.is_sorted(), "{factors:?}");
    }
}
