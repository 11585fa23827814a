//! A convolution of each channel by itself, and its gradients.

use rayon::prelude::*;

use super::geometry::{Padded, Shape, Window};
use super::outer::ROWS_PER_CHAIN;
use super::vectorised::{rectify, vectorised};

/// Weights are [channels, 1, height, width].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Depthwise {
    pub(super) window: Window,
    pub(super) input: Shape,
}

impl Depthwise {
    /// Batch, height, width and channels of the result.
    pub(super) fn output(&self) -> Shape {
        let [batch, height, width, channels] = self.input;
        let [height, width] = self.window.output([height, width]);
        [batch, height, width, channels]
    }

    /// Where the numbers of a window begin, place after place.
    fn offsets(&self, padded: &Padded<'_>) -> Vec<usize> {
        let Window { kernel: [height, width], dilation, .. } = self.window;
        let places = (0..height).flat_map(|row| (0..width).map(move |column| [row, column]));
        places.map(|[row, column]| padded.at([row * dilation[0], column * dilation[1]])).collect()
    }

    fn padded<'a>(&self, images: &'a [f32]) -> (Padded<'a>, Vec<usize>) {
        let padded = Padded::new(images, self.input, self.window.padding);
        let [_, height, width, _] = self.output();
        let bases = padded.bases([height, width], self.window.stride);
        (padded, bases)
    }

    /// The weights, place after place.
    fn by_place(&self, weights: &[f32]) -> Vec<f32> {
        let (channels, places) = (self.input[3], self.window.kernel.iter().product::<usize>());
        (0..places * channels).map(|index| weights[index % channels * places + index / channels]).collect()
    }

    /// The positive part of the result if `rectified`.
    pub(super) fn forward(&self, images: &[f32], weights: &[f32], bias: Option<&[f32]>, rectified: bool) -> Vec<f32> {
        let (padded, bases) = self.padded(images);
        let (offsets, weights, channels) = (self.offsets(&padded), self.by_place(weights), self.input[3]);
        super::work::add(bases.len() * offsets.len() * channels);
        let values = padded.values();
        let mut out = vec![0.0; bases.len() * channels];
        let pieces = out.par_chunks_mut(ROWS_PER_CHAIN * channels).zip(bases.par_chunks(ROWS_PER_CHAIN));
        pieces.for_each(|(out, bases)| {
            vectorised(
                #[inline(always)]
                || {
                    for (out, base) in out.chunks_exact_mut(channels).zip(bases) {
                        if let Some(bias) = bias {
                            out.copy_from_slice(bias);
                        }
                        for (offset, weights) in offsets.iter().zip(weights.chunks_exact(channels)) {
                            add_products(out, &values[base + offset..][..channels], weights);
                        }
                        if rectified {
                            rectify(out);
                        }
                    }
                },
            );
        });
        out
    }

    /// The gradient at the weights.
    pub(super) fn weight_gradient(&self, images: &[f32], gradient: &[f32]) -> Vec<f32> {
        let (padded, bases) = self.padded(images);
        let (offsets, channels) = (self.offsets(&padded), self.input[3]);
        super::work::add(bases.len() * offsets.len() * channels);
        let values = padded.values();
        let mut sums = vec![0.0; offsets.len() * channels];
        sums.par_chunks_mut(channels).zip(&offsets).for_each(|(sums, offset)| {
            let mut chain = vec![0.0; channels];
            vectorised(
                #[inline(always)]
                || {
                    let pieces = bases.chunks(ROWS_PER_CHAIN).zip(gradient.chunks(ROWS_PER_CHAIN * channels));
                    for (bases, gradient) in pieces {
                        chain.fill(0.0);
                        for (base, gradient) in bases.iter().zip(gradient.chunks_exact(channels)) {
                            add_products(&mut chain, &values[base + offset..][..channels], gradient);
                        }
                        sums.iter_mut().zip(&chain).for_each(|(sum, part)| *sum += part);
                    }
                },
            );
        });
        let places = offsets.len();
        (0..places * channels).map(|index| sums[index % places * channels + index / places]).collect()
    }

    /// The gradient at the images: each output gives its share to the places that it was made of, in order.
    pub(super) fn input_gradient(&self, weights: &[f32], gradient: &[f32]) -> Vec<f32> {
        let [_, height, width, channels] = self.input;
        let [[top, bottom], [left, right]] = self.window.padding;
        let shape = [1, height + top + bottom, width + left + right, channels];
        let blank = vec![0.0; shape.iter().product()];
        let padded = Padded::new(&blank, shape, [[0; 2]; 2]);
        let output = self.output();
        let bases = padded.bases([output[1], output[2]], self.window.stride);
        let (offsets, weights) = (self.offsets(&padded), self.by_place(weights));
        super::work::add(self.input[0] * bases.len() * offsets.len() * channels);
        let mut out = vec![0.0; self.input.iter().product()];
        let images = out.par_chunks_mut(height * width * channels);
        images.zip(gradient.par_chunks(bases.len() * channels)).for_each(|(out, gradient)| {
            let mut shares = blank.clone();
            vectorised(
                #[inline(always)]
                || {
                    for (base, gradient) in bases.iter().zip(gradient.chunks_exact(channels)) {
                        for (offset, weights) in offsets.iter().zip(weights.chunks_exact(channels)) {
                            add_products(&mut shares[base + offset..][..channels], gradient, weights);
                        }
                    }
                },
            );
            for (row, out) in out.chunks_exact_mut(width * channels).enumerate() {
                out.copy_from_slice(&shares[padded.at([row + top, left])..][..width * channels]);
            }
        });
        out
    }
}

#[inline(always)]
fn add_products(sums: &mut [f32], values: &[f32], factors: &[f32]) {
    for ((sum, value), factor) in sums.iter_mut().zip(values).zip(factors) {
        *sum = value.mul_add(*factor, *sum);
    }
}
