//! Batch normalisation (Ioffe, Szegedy 2015) with the batch's own statistics, with or without a sum and the
//! rectification behind it, and its gradients.

use rayon::prelude::*;

use super::outer::ROWS_PER_CHAIN;
use super::vectorised::{rectify, vectorised};

/// How a channel is normalised: (x - mean) / sqrt(variance + epsilon) * gamma + beta, perhaps with something added, and
/// its positive part if `rectified`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Normalisation {
    pub(super) epsilon: f64,
    pub(super) rectified: bool,
}

/// Of each channel: the variance is that of the batch, not an estimate of the population's.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statistics {
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
}

/// Gradients at the parameters.
#[derive(Debug)]
pub(super) struct NormGradients {
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
    let chains = (0..length.div_ceil(piece)).into_par_iter().map(|index| {
        let mut chain = vec![0.0; columns];
        let range = index * piece..length.min((index + 1) * piece);
        vectorised(
            #[inline(always)]
            || add(&mut chain, range.clone()),
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

    /// `added` is added to what is normalised, before it is rectified.
    pub(super) fn forward(
        &self,
        values: &[f32],
        statistics: &Statistics,
        [gamma, beta]: [&[f32]; 2],
        added: Option<&[f32]>,
    ) -> Vec<f32> {
        let scale = self.scale(statistics, gamma);
        let channels = gamma.len();
        let mut out = match added {
            Some(added) => added.to_vec(),
            None => vec![0.0; values.len()],
        };
        let pieces = out.par_chunks_mut(ROWS_PER_CHAIN * channels).zip(values.par_chunks(ROWS_PER_CHAIN * channels));
        pieces.for_each(|(out, values)| {
            vectorised(
                #[inline(always)]
                || {
                    for (out, row) in out.chunks_exact_mut(channels).zip(values.chunks_exact(channels)) {
                        let constants = statistics.mean.iter().zip(&scale).zip(beta);
                        for ((out, value), ((mean, scale), beta)) in out.iter_mut().zip(row).zip(constants) {
                            let normal = (value - mean) * scale + beta;
                            *out = if added.is_some() { normal + *out } else { normal };
                        }
                    }
                    if self.rectified {
                        rectify(out);
                    }
                },
            );
        });
        out
    }

    /// Puts the gradient at the input in the place of `gradient`, which is that at what is normalised.
    pub(super) fn gradients(
        &self,
        values: &[f32],
        statistics: &Statistics,
        gamma: &[f32],
        gradient: &mut [f32],
    ) -> NormGradients {
        let channels = gamma.len();
        let inverse = self.inverse_deviations(statistics);
        let sums = products_with_distances(values, gradient, &statistics.mean);
        let (of_gradient, of_product) = sums.split_at(channels);
        let rows = (values.len() / channels) as f64;
        let mean_gradient: Vec<f32> = of_gradient.iter().map(|sum| (sum / rows) as f32).collect();
        // The product's mean, for distances that are not divided by the deviation yet.
        let slope = |(sum, inverse): (&f64, &f32)| (sum / rows * f64::from(*inverse) * f64::from(*inverse)) as f32;
        let slopes: Vec<f32> = of_product.iter().zip(&inverse).map(slope).collect();
        let scale = self.scale(statistics, gamma);
        let piece = ROWS_PER_CHAIN * channels;
        gradient.par_chunks_mut(piece).zip(values.par_chunks(piece)).for_each(|(gradient, values)| {
            vectorised(
                #[inline(always)]
                || {
                    for (gradient, row) in gradient.chunks_exact_mut(channels).zip(values.chunks_exact(channels)) {
                        let constants = statistics.mean.iter().zip(&mean_gradient).zip(slopes.iter().zip(&scale));
                        for ((gradient, value), ((mean, mean_gradient), (slope, scale))) in
                            gradient.iter_mut().zip(row).zip(constants)
                        {
                            *gradient = (*gradient - mean_gradient - (value - mean) * slope) * scale;
                        }
                    }
                },
            );
        });
        let gamma = of_product.iter().zip(&inverse).map(|(sum, inverse)| (sum * f64::from(*inverse)) as f32).collect();
        NormGradients { gamma, beta: of_gradient.iter().map(|sum| *sum as f32).collect() }
    }

    fn scale(&self, statistics: &Statistics, gamma: &[f32]) -> Vec<f32> {
        self.inverse_deviations(statistics).iter().zip(gamma).map(|(inverse, gamma)| inverse * gamma).collect()
    }
}

/// For each channel the sum of the gradients, and behind these the sums of their products with the values' distances from
/// the mean.
fn products_with_distances(values: &[f32], gradient: &[f32], means: &[f32]) -> Vec<f64> {
    let channels = means.len();
    totals(
        2 * channels,
        2 * values.len(),
        #[inline(always)]
        |chain, range| {
            let (of_gradient, of_product) = chain.split_at_mut(channels);
            let range = range.start / 2..range.end / 2;
            let rows = values[range.clone()].chunks_exact(channels).zip(gradient[range].chunks_exact(channels));
            for (row, gradient) in rows {
                let sums = of_gradient.iter_mut().zip(of_product.iter_mut());
                for (((value, gradient), mean), (sum, product)) in row.iter().zip(gradient).zip(means).zip(sums) {
                    *sum += gradient;
                    *product += gradient * (value - mean);
                }
            }
        },
    )
}
