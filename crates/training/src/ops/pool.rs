//! The largest number of each window.

use std::sync::Arc;

use rayon::prelude::*;

use super::geometry::{Shape, Window};
use super::vectorised::vectorised;

/// A pooling of channels-last images. Padding is never the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaxPool {
    pub(super) window: Window,
    /// Height and width of the result.
    pub(super) output: [usize; 2],
    /// Whether what is below zero becomes zero.
    pub(super) rectified: bool,
}

/// The place of a result that none of the window's numbers is.
const NOWHERE: u32 = u32::MAX;

/// What the gradient needs to know.
#[derive(Debug, Clone)]
pub(super) struct Pooled {
    pool: MaxPool,
    input: Shape,
    /// Which place of its window each result is.
    places: Arc<Vec<u32>>,
}

impl MaxPool {
    /// The places of a window, each with the first result for which it is within the image, how many there are from
    /// there on, and where the first lies; along one axis.
    fn inside(&self, axis: usize, size: usize) -> Vec<Inside> {
        let Window { kernel, stride, dilation, padding } = self.window;
        let (stride, begin) = (stride[axis], padding[axis][0]);
        let place = |place: usize| {
            let distance = place * dilation[axis];
            let first = begin.saturating_sub(distance).div_ceil(stride);
            let end = (size + begin).saturating_sub(distance).div_ceil(stride).min(self.output[axis]);
            let at = (first * stride + distance).saturating_sub(begin);
            Inside { first, count: end.saturating_sub(first), at }
        };
        (0..kernel[axis]).map(place).collect()
    }

    /// Whether no number is in two windows, and those of a window are neighbours.
    fn apart(&self) -> bool {
        let Window { kernel, stride, dilation, .. } = self.window;
        dilation == [1, 1] && stride[0] >= kernel[0] && stride[1] >= kernel[1]
    }

    /// Calls `visit(place, result, source, count)` for each run of results in a row and a place of their windows: from
    /// which result and which position in the image on, in numbers.
    #[inline(always)]
    fn visit(&self, [_, height, width, channels]: Shape, mut visit: impl FnMut(u32, usize, usize, usize)) {
        let (rows, columns) = (self.inside(0, height), self.inside(1, width));
        for result in 0..self.output[0] {
            for (down, row) in rows.iter().enumerate() {
                let Some(step) = result.checked_sub(row.first).filter(|step| *step < row.count) else { continue };
                let source = (row.at + step * self.window.stride[0]) * width;
                for (right, column) in columns.iter().enumerate().filter(|(_, column)| column.count > 0) {
                    let place = (down * columns.len() + right) as u32;
                    let first = result * self.output[1] + column.first;
                    visit(place, first * channels, (source + column.at) * channels, column.count);
                }
            }
        }
    }

    /// The results of an image whose channels fit into so many lanes, one after the other.
    #[inline(always)]
    fn largest_in_lanes<const LANES: usize>(
        &self,
        image: &[f32],
        [_, height, width, channels]: Shape,
        out: &mut [f32],
        places: &mut [u32],
    ) {
        let (rows, columns) = (self.inside(0, height), self.inside(1, width));
        let (least, nowhere) = (out[0], places[0]);
        for row in 0..self.output[0] {
            for column in 0..self.output[1] {
                let (mut largest, mut kept) = ([least; LANES], [nowhere; LANES]);
                for (down, source) in rows.iter().enumerate() {
                    let Some(y) = source.at_result(row, self.window.stride[0]) else { continue };
                    for (right, source) in columns.iter().enumerate() {
                        let Some(x) = source.at_result(column, self.window.stride[1]) else { continue };
                        let values: [f32; LANES] = lanes(&image[(y * width + x) * channels..]);
                        let place = (down * columns.len() + right) as u32;
                        keep_larger(&mut largest, &mut kept, &values, place);
                    }
                }
                let result = (row * self.output[1] + column) * channels;
                put(&mut out[result..], largest, channels);
                put(&mut places[result..], kept, channels);
            }
        }
    }

    pub(super) fn forward(self, images: &[f32], input: Shape) -> (Vec<f32>, Pooled) {
        let [batch, height, width, channels] = input;
        let size = self.output[0] * self.output[1] * channels;
        let step = self.window.stride[1] * channels;
        let (least, place) = if self.rectified { (0.0, NOWHERE) } else { (f32::NEG_INFINITY, 0) };
        let mut out = vec![least; batch * size];
        let mut places = vec![place; batch * size];
        let pieces = out.par_chunks_mut(size).zip(places.par_chunks_mut(size));
        pieces.zip(images.par_chunks(height * width * channels)).for_each(|((out, places), image)| {
            vectorised(
                #[inline(always)]
                || match channels {
                    1..=8 => self.largest_in_lanes::<8>(image, input, out, places),
                    9..=16 => self.largest_in_lanes::<16>(image, input, out, places),
                    _ => self.visit(
                        input,
                        #[inline(always)]
                        |place, result, source, count| {
                            let range = result..result + count * channels;
                            let results = out[range.clone()].chunks_exact_mut(channels);
                            let results = results.zip(places[range].chunks_exact_mut(channels));
                            for ((out, places), values) in results.zip(image[source..].chunks(step)) {
                                keep_larger(out, places, &values[..channels], place);
                            }
                        },
                    ),
                },
            );
        });
        (out, Pooled { pool: self, input, places: Arc::new(places) })
    }
}

/// See [`MaxPool::inside`].
struct Inside {
    first: usize,
    count: usize,
    at: usize,
}

impl Inside {
    /// Where the place is for this result, if it is within the image.
    #[inline(always)]
    fn at_result(&self, result: usize, stride: usize) -> Option<usize> {
        let step = result.checked_sub(self.first)?;
        (step < self.count).then(|| self.at + step * stride)
    }
}

/// The first numbers, with what happens to be behind them.
#[inline(always)]
fn lanes<T: Copy + Default, const LANES: usize>(values: &[T]) -> [T; LANES] {
    if let Some(lanes) = values.first_chunk() {
        return *lanes;
    }
    let mut lanes = [T::default(); LANES];
    lanes[..values.len()].copy_from_slice(values);
    lanes
}

/// Puts numbers of all lanes where only `count` belong, if there is room: what follows is put later.
#[inline(always)]
fn put<T: Copy, const LANES: usize>(target: &mut [T], lanes: [T; LANES], count: usize) {
    match target.first_chunk_mut() {
        Some(target) => *target = lanes,
        None => target[..count].copy_from_slice(&lanes[..count]),
    }
}

/// The first of several largest is kept, and what is not a number is larger than all.
#[inline(always)]
fn keep_larger(largest: &mut [f32], places: &mut [u32], values: &[f32], place: u32) {
    for ((largest, kept), &value) in largest.iter_mut().zip(places).zip(values) {
        let larger = value > *largest || value.is_nan();
        *largest = if larger { value } else { *largest };
        *kept = if larger { place } else { *kept };
    }
}

impl Pooled {
    pub(super) fn input(&self) -> Shape {
        self.input
    }

    /// Batch, height, width and channels of the result.
    pub(super) fn output(&self) -> Shape {
        let [height, width] = self.pool.output;
        [self.input[0], height, width, self.input[3]]
    }

    /// The gradient at the images.
    pub(super) fn gradient(&self, gradient: &[f32]) -> Vec<f32> {
        let [_, height, width, channels] = self.input;
        let size = self.pool.output[0] * self.pool.output[1] * channels;
        let step = self.pool.window.stride[1] * channels;
        let mut out = vec![0.0; self.input.iter().product()];
        let images = out.par_chunks_mut(height * width * channels);
        images.zip(gradient.par_chunks(size)).zip(self.places.par_chunks(size)).for_each(
            |((out, gradient), places)| {
                vectorised(
                    #[inline(always)]
                    || match channels {
                        1..=8 if self.pool.apart() => self.share_in_lanes::<8>(gradient, places, out),
                        9..=16 if self.pool.apart() => self.share_in_lanes::<16>(gradient, places, out),
                        _ => self.pool.visit(
                            self.input,
                            #[inline(always)]
                            |place, result, source, count| {
                                let range = result..result + count * channels;
                                let results = gradient[range.clone()].chunks_exact(channels);
                                let results = results.zip(places[range].chunks_exact(channels));
                                for ((gradient, places), out) in results.zip(out[source..].chunks_mut(step)) {
                                    add_where(&mut out[..channels], gradient, places, place);
                                }
                            },
                        ),
                    },
                );
            },
        );
        out
    }

    /// The gradient at an image whose channels fit into so many lanes, with windows that share nothing: each number is
    /// put once, in the order of the image, and those behind a pixel's channels are zeros until theirs are put.
    #[inline(always)]
    fn share_in_lanes<const LANES: usize>(&self, gradient: &[f32], places: &[u32], out: &mut [f32]) {
        let ([_, height, width, channels], pool) = (self.input, &self.pool);
        let (rows, columns) = (pool.inside(0, height), pool.inside(1, width));
        for row in 0..pool.output[0] {
            for (down, source) in rows.iter().enumerate() {
                let Some(y) = source.at_result(row, pool.window.stride[0]) else { continue };
                for column in 0..pool.output[1] {
                    let result = (row * pool.output[1] + column) * channels;
                    let mut gradient: [f32; LANES] = lanes(&gradient[result..]);
                    gradient[channels..].fill(0.0);
                    let kept: [u32; LANES] = lanes(&places[result..]);
                    for (right, source) in columns.iter().enumerate() {
                        let Some(x) = source.at_result(column, pool.window.stride[1]) else { continue };
                        let mut shared = [0.0; LANES];
                        add_where(&mut shared, &gradient, &kept, (down * columns.len() + right) as u32);
                        put(&mut out[(y * width + x) * channels..], shared, channels);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn add_where(sums: &mut [f32], values: &[f32], places: &[u32], place: u32) {
    for ((sum, &value), &kept) in sums.iter_mut().zip(values).zip(places) {
        *sum += if kept == place { value } else { 0.0 };
    }
}
