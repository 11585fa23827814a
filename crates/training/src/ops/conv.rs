//! A convolution of channels-last images and its gradients.

use rayon::prelude::*;

use super::geometry::{Padded, Phase, Shape, Window, phases};
use super::kernels::{Packed, Rows, products, vectors};
use super::outer::{OuterProducts, outer_products};
use super::vectorised::vectorised;

/// Fewer channels than this are cheaper to share out than to gather.
const FEW_CHANNELS: usize = 16;

/// A convolution of all input channels to all output channels. Weights are [outputs, inputs, height, width].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Convolution {
    pub(super) window: Window,
    pub(super) input: Shape,
    pub(super) outputs: usize,
}

impl Convolution {
    /// Batch, height, width and channels of the result.
    pub(super) fn output(&self) -> Shape {
        let [batch, height, width, _] = self.input;
        let [height, width] = self.window.output([height, width]);
        [batch, height, width, self.outputs]
    }

    /// The places of the kernel's rows and columns.
    fn places(&self) -> [Vec<usize>; 2] {
        let Window { kernel, dilation, .. } = self.window;
        std::array::from_fn(|axis| (0..kernel[axis]).map(|tap| tap * dilation[axis]).collect())
    }

    /// Where the weight of this output, the first input and this place is.
    fn weight_at(&self, output: usize, row: usize, column: usize) -> usize {
        let [height, width] = self.window.kernel;
        (output * self.input[3] * height + row) * width + column
    }

    /// The weights as a matrix: a row for each number of a window, a column for each output.
    fn matrix(&self, weights: &[f32]) -> Packed {
        let [height, width] = self.window.kernel;
        let channels = self.input[3];
        let mut starts = Vec::with_capacity(height * width * channels);
        for place in 0..height * width {
            starts.extend((0..channels).map(|channel| channel * height * width + place));
        }
        Packed::new(weights, &starts, self.outputs, channels * height * width)
    }

    /// The positive part of the result if `rectified`.
    pub(super) fn forward(&self, images: &[f32], weights: &[f32], bias: Option<&[f32]>, rectified: bool) -> Vec<f32> {
        let padded = Padded::new(images, self.input, self.window.padding);
        let [_, height, width, outputs] = self.output();
        let bases = padded.bases([height, width], self.window.stride);
        let [rows, columns] = self.places();
        let runs = padded.runs(&rows, &columns);
        let matrix = self.matrix(weights);
        let mut out = vec![0.0; bases.len() * outputs];
        products(padded.rows(&bases, &runs), &matrix, bias, rectified, &mut out);
        out
    }

    /// The gradient at the weights.
    pub(super) fn weight_gradient(&self, images: &[f32], gradient: &[f32]) -> Vec<f32> {
        let padded = Padded::new(images, self.input, self.window.padding);
        let [_, height, width, outputs] = self.output();
        let [rows, columns] = self.places();
        let (kernel, stride) = (self.window.kernel, self.window.stride);
        if self.has_short_runs(padded.runs(&rows, &columns).run) {
            let stacked = padded.stacked(&rows, height, stride[0]);
            let bases = stacked.bases([height, width], [1, stride[1]]);
            let runs = stacked.runs(&[0], &columns);
            let sums = outer_products(stacked.rows(&bases, &runs), gradient, outputs);
            return self.in_order_of_weights(&sums, |place| place % kernel[0] * kernel[1] + place / kernel[0]);
        }
        let bases = padded.bases([height, width], stride);
        let runs = padded.runs(&rows, &columns);
        let sums = outer_products(padded.rows(&bases, &runs), gradient, outputs);
        self.in_order_of_weights(&sums, |place| place)
    }

    /// Whether vectors of one row of a window are so empty that it is worth the copy to stack the rows: whether at most
    /// half as many vectors have all of a window.
    fn has_short_runs(&self, run: usize) -> bool {
        let window = self.input[3] * self.window.kernel.iter().product::<usize>();
        2 * vectors(window) <= window / run * vectors(run)
    }

    /// Sums in the order of a window's numbers, channels last, in that of the weights. `place_of` says which place of the
    /// kernel the numbers of all channels belong to that are so many before them.
    fn in_order_of_weights(&self, sums: &OuterProducts, place_of: impl Fn(usize) -> usize) -> Vec<f32> {
        let [height, width] = self.window.kernel;
        let (channels, places) = (self.input[3], height * width);
        let place_of: Vec<usize> = (0..places).map(place_of).collect();
        let mut out = vec![0.0; self.outputs * channels * places];
        sums.each(|output, first, sums| {
            let out = &mut out[output * channels * places..];
            let (mut channel, mut place) = (first % channels, first / channels);
            for sum in sums {
                out[channel * places + place_of[place]] = *sum;
                channel += 1;
                if channel == channels {
                    (channel, place) = (0, place + 1);
                }
            }
        });
        out
    }

    /// The gradient at the images.
    pub(super) fn input_gradient(&self, weights: &[f32], gradient: &[f32]) -> Vec<f32> {
        if self.input[3] < FEW_CHANNELS { self.shared_out(weights, gradient) } else { self.gathered(weights, gradient) }
    }

    /// Each output's share for its whole window, added to the windows' places in order: for few channels, of which a
    /// vector would be mostly empty.
    fn shared_out(&self, weights: &[f32], gradient: &[f32]) -> Vec<f32> {
        let [_, height, width, channels] = self.input;
        let [[top, bottom], [left, right]] = self.window.padding;
        let shape = [1, height + top + bottom, width + left + right, channels];
        let blank = vec![0.0; shape.iter().product()];
        let padded = Padded::new(&blank, shape, [[0; 2]; 2]);
        let output = self.output();
        let bases = padded.bases([output[1], output[2]], self.window.stride);
        let [rows, columns] = self.places();
        let runs = padded.runs(&rows, &columns);
        let window = runs.offsets.len() * runs.run;
        let matrix = self.transposed(weights);
        let starts: Vec<usize> = (0..bases.len()).map(|row| row * self.outputs).collect();
        let mut out = vec![0.0; self.input.iter().product()];
        let images = out.par_chunks_mut(height * width * channels);
        let images = images.zip(gradient.par_chunks(bases.len() * self.outputs));
        let room = || (vec![0.0; bases.len() * window], blank.clone());
        images.for_each_init(room, |(shares, sums), (out, gradient)| {
            let rows = Rows { values: gradient, bases: &starts, offsets: &[0], run: self.outputs };
            products(rows, &matrix, None, false, shares);
            sums.fill(0.0);
            vectorised(
                #[inline(always)]
                || {
                    for (base, shares) in bases.iter().zip(shares.chunks_exact(window)) {
                        for (offset, shares) in runs.offsets.iter().zip(shares.chunks_exact(runs.run)) {
                            let sums = &mut sums[base + offset..][..runs.run];
                            sums.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share);
                        }
                    }
                },
            );
            for (row, out) in out.chunks_exact_mut(width * channels).enumerate() {
                out.copy_from_slice(&sums[padded.at([row + top, left])..][..width * channels]);
            }
        });
        out
    }

    /// The weights as a matrix: a row for each output, a column for each number of a window.
    fn transposed(&self, weights: &[f32]) -> Packed {
        let (channels, places) = (self.input[3], self.window.kernel.iter().product::<usize>());
        let window = channels * places;
        let mut ordered = vec![0.0; weights.len()];
        for (ordered, weights) in ordered.chunks_exact_mut(window).zip(weights.chunks_exact(window)) {
            for (place, ordered) in ordered.chunks_exact_mut(channels).enumerate() {
                let weights = weights[place..].iter().step_by(places);
                ordered.iter_mut().zip(weights).for_each(|(ordered, weight)| *ordered = *weight);
            }
        }
        let starts: Vec<usize> = (0..self.outputs).map(|output| output * window).collect();
        Packed::new(&ordered, &starts, window, 1)
    }

    /// For each phase of the stride, a convolution of the gradient at the output.
    fn gathered(&self, weights: &[f32], gradient: &[f32]) -> Vec<f32> {
        let [batch, height, width, channels] = self.input;
        let output = self.output();
        let (rows, above) = phases(&self.window, 0, height, output[1]);
        let (columns, beside) = phases(&self.window, 1, width, output[2]);
        let padded = Padded::new(gradient, output, [above, beside]);
        let whole = rows.len() == 1 && columns.len() == 1;
        let mut out = vec![0.0; batch * height * width * channels];
        for rows in rows.iter().filter(|phase| !phase.taps.is_empty()) {
            for columns in columns.iter().filter(|phase| !phase.taps.is_empty()) {
                if whole {
                    self.phase_gradient(&padded, weights, [rows, columns], &mut out);
                    continue;
                }
                let mut part = vec![0.0; batch * rows.count * columns.count * channels];
                self.phase_gradient(&padded, weights, [rows, columns], &mut part);
                self.scatter(&part, [rows, columns], &mut out);
            }
        }
        out
    }

    fn phase_gradient(&self, padded: &Padded<'_>, weights: &[f32], phases: [&Phase; 2], out: &mut [f32]) {
        let [rows, columns] = phases;
        let bases = padded.bases([rows.count, columns.count], [1, 1]);
        let places = phases.map(|phase| phase.taps.iter().map(|(_, place)| *place).collect::<Vec<_>>());
        let runs = padded.runs(&places[0], &places[1]);
        let mut starts = Vec::with_capacity(rows.taps.len() * columns.taps.len() * self.outputs);
        for (row, _) in &rows.taps {
            for (column, _) in &columns.taps {
                starts.extend((0..self.outputs).map(|output| self.weight_at(output, *row, *column)));
            }
        }
        let matrix = Packed::new(weights, &starts, self.input[3], self.window.kernel.iter().product());
        products(padded.rows(&bases, &runs), &matrix, None, false, out);
    }

    /// Puts the results of a phase between those of the others.
    fn scatter(&self, part: &[f32], [rows, columns]: [&Phase; 2], out: &mut [f32]) {
        let [_, height, width, channels] = self.input;
        let image = height * width * channels;
        let parts = part.chunks_exact(rows.count * columns.count * channels);
        for (part, out) in parts.zip(out.chunks_exact_mut(image)) {
            let targets = out.chunks_exact_mut(width * channels).skip(rows.first).step_by(self.window.stride[0]);
            for (part, out) in part.chunks_exact(columns.count * channels).zip(targets) {
                let targets = out.chunks_exact_mut(channels).skip(columns.first).step_by(self.window.stride[1]);
                for (part, out) in part.chunks_exact(channels).zip(targets) {
                    out.copy_from_slice(part);
                }
            }
        }
    }
}
