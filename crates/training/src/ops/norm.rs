//! Batch normalisation (Ioffe, Szegedy 2015) with the batch's own statistics, with or without the rectification behind
//! it, and its gradients.

use pulp::Arch;
use rayon::prelude::*;

use super::kernels::ROWS_PER_CHAIN;

/// How a channel is normalised: (x - mean) / sqrt(variance + epsilon) * gamma + beta, and its positive part if
/// `rectified`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Normalisation {
    pub(super) epsilon: f64,
    pub(super) rectified: bool,
}

/// Of each channel: the variance is that of the batch, not an estimate of the population's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statistics {
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
}

/// Gradients at the three inputs.
#[derive(Debug)]
pub(super) struct NormGradients {
    pub(super) input: Vec<f32>,
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

impl Statistics {
    pub(super) fn of(values: &[f32], channels: usize) -> Self {
        let rows = (values.len() / channels) as f64;
        let mean = |sums: Vec<f64>| sums.into_iter().map(|sum| (sum / rows) as f32).collect::<Vec<_>>();
        let means = mean(totals(
            channels,
            values.len(),
            #[inline(always)]
            |chain, range| {
                for row in values[range].chunks_exact(channels) {
                    chain.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            },
        ));
        let variance = mean(totals(
            channels,
            values.len(),
            #[inline(always)]
            |chain, range| {
                for row in values[range].chunks_exact(channels) {
                    for ((sum, value), mean) in chain.iter_mut().zip(row).zip(&means) {
                        let distance = value - mean;
                        *sum += distance * distance;
                    }
                }
            },
        ));
        Self { mean: means, variance }
    }
}

/// Sums of so many columns over pieces of `ROWS_PER_CHAIN` rows, which `add` forms in `f32`, in `f64` in order.
fn totals(columns: usize, length: usize, add: impl Fn(&mut [f32], std::ops::Range<usize>) + Sync) -> Vec<f64> {
    let piece = ROWS_PER_CHAIN * columns;
    let arch = Arch::new();
    let chains = (0..length.div_ceil(piece)).into_par_iter().map(|index| {
        let mut chain = vec![0.0; columns];
        let range = index * piece..length.min((index + 1) * piece);
        arch.dispatch(
            #[inline(always)]
            || add(&mut chain, range),
        );
        chain
    });
    let mut totals = vec![0.0; columns];
    for chain in chains.collect::<Vec<_>>() {
        totals.iter_mut().zip(chain).for_each(|(total, sum)| *total += f64::from(sum));
    }
    totals
}

impl Normalisation {
    /// What a channel's distance from the mean is multiplied with to have the variance 1.
    fn inverse_deviations(&self, statistics: &Statistics) -> Vec<f32> {
        let inverse = |variance: &f32| (1.0 / (f64::from(*variance) + self.epsilon).sqrt()) as f32;
        statistics.variance.iter().map(inverse).collect()
    }

    pub(super) fn forward(&self, values: &[f32], statistics: &Statistics, gamma: &[f32], beta: &[f32]) -> Vec<f32> {
        let inverse = self.inverse_deviations(statistics);
        let scale: Vec<f32> = inverse.iter().zip(gamma).map(|(inverse, gamma)| inverse * gamma).collect();
        let floor = if self.rectified { 0.0 } else { f32::NEG_INFINITY };
        let channels = gamma.len();
        let mut out = vec![0.0; values.len()];
        let arch = Arch::new();
        let pieces = out.par_chunks_mut(ROWS_PER_CHAIN * channels).zip(values.par_chunks(ROWS_PER_CHAIN * channels));
        pieces.for_each(|(out, values)| {
            arch.dispatch(
                #[inline(always)]
                || {
                    for (out, row) in out.chunks_exact_mut(channels).zip(values.chunks_exact(channels)) {
                        let constants = statistics.mean.iter().zip(&scale).zip(beta);
                        for ((out, value), ((mean, scale), beta)) in out.iter_mut().zip(row).zip(constants) {
                            let result = (value - mean) * scale + beta;
                            // What is not a number stays so.
                            *out = if result < floor { floor } else { result };
                        }
                    }
                },
            );
        });
        out
    }

    /// `output` is what [`forward`](Self::forward) gave.
    pub(super) fn gradients(
        &self,
        values: &[f32],
        output: &[f32],
        statistics: &Statistics,
        gamma: &[f32],
        gradient: &[f32],
    ) -> NormGradients {
        let channels = gamma.len();
        let inverse = self.inverse_deviations(statistics);
        let rectified = self.rectified;
        let passed = |output: f32, gradient: f32| if rectified && output <= 0.0 { 0.0 } else { gradient };
        let sums = totals(
            2 * channels,
            2 * values.len(),
            #[inline(always)]
            |chain, range| {
                let (of_gradient, of_product) = chain.split_at_mut(channels);
                let range = range.start / 2..range.end / 2;
                let rows =
                    values[range.clone()].chunks_exact(channels).zip(output[range.clone()].chunks_exact(channels));
                for ((row, output), gradient) in rows.zip(gradient[range].chunks_exact(channels)) {
                    let numbers = row.iter().zip(output).zip(gradient).zip(&statistics.mean);
                    for ((((value, output), gradient), mean), (sum, product)) in
                        numbers.zip(of_gradient.iter_mut().zip(of_product.iter_mut()))
                    {
                        let gradient = passed(*output, *gradient);
                        *sum += gradient;
                        *product += gradient * (value - mean);
                    }
                }
            },
        );
        let (of_gradient, of_product) = sums.split_at(channels);
        let rows = (values.len() / channels) as f64;
        let mean = |sum: &f64| (sum / rows) as f32;
        let mean_gradient: Vec<f32> = of_gradient.iter().map(mean).collect();
        // The product's mean, for distances that are not divided by the deviation yet.
        let slope: Vec<f32> = of_product
            .iter()
            .zip(&inverse)
            .map(|(sum, inverse)| (sum / rows * f64::from(*inverse) * f64::from(*inverse)) as f32)
            .collect();
        let scale: Vec<f32> = inverse.iter().zip(gamma).map(|(inverse, gamma)| inverse * gamma).collect();
        let mut input = vec![0.0; values.len()];
        let piece = ROWS_PER_CHAIN * channels;
        let arch = Arch::new();
        let pieces = input.par_chunks_mut(piece).zip(values.par_chunks(piece));
        pieces.zip(output.par_chunks(piece).zip(gradient.par_chunks(piece))).for_each(
            |((input, values), (output, gradient))| {
                arch.dispatch(
                    #[inline(always)]
                    || {
                        let rows = input.chunks_exact_mut(channels).zip(values.chunks_exact(channels));
                        let gradients = output.chunks_exact(channels).zip(gradient.chunks_exact(channels));
                        for ((input, values), (output, gradient)) in rows.zip(gradients) {
                            let given = values.iter().zip(output).zip(gradient);
                            let constants = statistics.mean.iter().zip(&mean_gradient).zip(slope.iter().zip(&scale));
                            for ((input, ((value, output), gradient)), ((mean, mean_gradient), (slope, scale))) in
                                input.iter_mut().zip(given).zip(constants)
                            {
                                let gradient = passed(*output, *gradient) - mean_gradient;
                                *input = (gradient - (value - mean) * slope) * scale;
                            }
                        }
                    },
                );
            },
        );
        let gamma = of_product.iter().zip(&inverse).map(|(sum, inverse)| (sum * f64::from(*inverse)) as f32).collect();
        NormGradients { input, gamma, beta: of_gradient.iter().map(|sum| *sum as f32).collect() }
    }
}
