//! How much has been computed, and how fast a core can at most, for measurements.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::linear::Linear;

static MULTIPLY_ADDS: AtomicU64 = AtomicU64::new(0);

/// One addition to a counter per layer and pass: nothing next to the layer.
pub(super) fn add(multiply_adds: usize) {
    MULTIPLY_ADDS.fetch_add(multiply_adds as u64, Ordering::Relaxed);
}

/// Multiply-adds of the products that this process has computed so far, those with padding among them; two floating
/// point operations each.
pub fn multiply_adds() -> u64 {
    MULTIPLY_ADDS.load(Ordering::Relaxed)
}

/// What these layers reach where nothing but products counts, in GFLOP/s: the fastest of some products of matrices that
/// fit into a core's cache.
pub fn peak_gflops() -> f64 {
    const SIDE: usize = 384;
    const REPETITIONS: usize = 50;
    let layer = Linear { rows: SIDE, inputs: SIDE, outputs: SIDE };
    let (rows, weights) = (vec![0.5; SIDE * SIDE], vec![0.25; SIDE * SIDE]);
    let seconds = |_| {
        let begin = Instant::now();
        std::hint::black_box(layer.forward(&rows, &weights, None, false));
        begin.elapsed().as_secs_f64()
    };
    let fastest = (0..REPETITIONS).map(seconds).fold(f64::INFINITY, f64::min);
    2.0 * (SIDE as f64).powi(3) / fastest / 1e9
}
