//! Gradient clipping by global norm, with one defined order of summation.

/// Independent partial sums: enough to hide the latency of an addition at every vector width, and
/// fixed, because the number decides the order of summation and so the bits of the norm.
const LANES: usize = 16;

/// Scales `gradient` down to the L2 norm `max_norm` if its norm is larger (Pascanu et al., arXiv
/// 1211.5063, algorithm 1) and returns the norm it had.
///
/// A gradient within `max_norm` keeps its bits. `max_norm` is above 0.
pub fn clip_by_global_norm(gradient: &mut [f32], max_norm: f64) -> f64 {
    clip_slices_by_global_norm(&mut [gradient], max_norm)
}

/// The same for a gradient in several slices (the optimised parts of a state), with one norm over all.
///
/// Squares of `f32` are exact in `f64`. Element i of a slice is added to lane i mod 16, slice after
/// slice; the lanes are then added in a binary tree (0 + 8, 1 + 9, …; then the lower 8, and so on).
/// The bits depend on where slices begin, so the same slices must be given everywhere. Every element
/// is multiplied by `max_norm / norm`, formed in `f64` and rounded once to `f32`.
pub fn clip_slices_by_global_norm(slices: &mut [&mut [f32]], max_norm: f64) -> f64 {
    let mut lanes = [0.0; LANES];
    for slice in slices.iter() {
        add_squares(&mut lanes, slice);
    }
    let norm = fold(lanes).sqrt();
    if norm > max_norm {
        let factor = (max_norm / norm) as f32;
        for slice in slices {
            for element in slice.iter_mut() {
                *element *= factor;
            }
        }
    }
    norm
}

fn add_squares(lanes: &mut [f64; LANES], slice: &[f32]) {
    let (chunks, rest) = slice.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &element) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(element) * f64::from(element);
        }
    }
    for (lane, &element) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(element) * f64::from(element);
    }
}

fn fold(mut lanes: [f64; LANES]) -> f64 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}
