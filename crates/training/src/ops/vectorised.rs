//! Loops that are compiled once for each instruction set.

use pulp::{Arch, Simd, WithSimd};

/// Runs a loop with the instructions that the machine has. The closure must be `#[inline(always)]` and change something
/// it has borrowed.
///
/// `Arch::dispatch` with a closure calls it through one function for all instruction sets. Where the compiler does not
/// inline that, it has the plainest instructions, and a fused multiply-add is the call of a function.
#[inline(always)]
pub(super) fn vectorised(run: impl FnMut()) {
    Arch::new().dispatch(Loop(run));
}

/// Positive parts; what is not a number stays so.
#[inline(always)]
pub(super) fn rectify(values: &mut [f32]) {
    for value in values {
        *value = if *value <= 0.0 { 0.0 } else { *value };
    }
}

/// The gradient at the input of a rectification with this output, in the place of that at its output.
#[inline(always)]
pub(super) fn mask(gradient: &mut [f32], output: &[f32]) {
    for (gradient, output) in gradient.iter_mut().zip(output) {
        *gradient = if *output <= 0.0 { 0.0 } else { *gradient };
    }
}

struct Loop<F>(F);

impl<F: FnMut()> WithSimd for Loop<F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, _: S) {
        (self.0)();
    }
}
