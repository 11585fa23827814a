//! One number for each channel of each image.

use super::geometry::Shape;
use super::vectorised::vectorised;

/// Calls `each(channels of an image, its pixels)` for every image, with instructions that the machine has.
fn images(rows: &mut [f32], [_, height, width, channels]: Shape, mut each: impl FnMut(usize, &mut [f32], usize)) {
    for (image, row) in rows.chunks_exact_mut(channels.max(1)).enumerate() {
        vectorised(
            #[inline(always)]
            || each(image, row, height * width * channels),
        );
    }
}

/// The mean of each channel: a sum of its pixels in order.
pub(super) fn averages(values: &[f32], shape: Shape) -> Vec<f32> {
    let [batch, height, width, channels] = shape;
    let mut out = vec![0.0; batch * channels];
    let share = 1.0 / (height * width) as f32;
    images(
        &mut out,
        shape,
        #[inline(always)]
        |image, sums, size| {
            for pixel in values[image * size..][..size].chunks_exact(channels) {
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += value);
            }
            sums.iter_mut().for_each(|sum| *sum *= share);
        },
    );
    out
}

/// The gradient of [`averages`]: to each pixel its share.
pub(super) fn shares(gradient: &[f32], [_, height, width, channels]: Shape) -> Vec<f32> {
    let share = 1.0 / (height * width) as f32;
    let mut out = Vec::with_capacity(gradient.len() * height * width);
    for gradient in gradient.chunks_exact(channels) {
        let row: Vec<f32> = gradient.iter().map(|value| value * share).collect();
        (0..height * width).for_each(|_| out.extend_from_slice(&row));
    }
    out
}

/// Each channel of each image times its factor.
pub(super) fn scaled(values: &[f32], factors: &[f32], [_, height, width, channels]: Shape) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    let images = values.chunks_exact(height * width * channels);
    for (image, factors) in images.zip(factors.chunks_exact(channels)) {
        for pixel in image.chunks_exact(channels) {
            out.extend(pixel.iter().zip(factors).map(|(value, factor)| value * factor));
        }
    }
    out
}

/// For each channel of each image the sum of products over its pixels, in order.
pub(super) fn products(lhs: &[f32], rhs: &[f32], shape: Shape) -> Vec<f32> {
    let [batch, .., channels] = shape;
    let mut out = vec![0.0; batch * channels];
    images(
        &mut out,
        shape,
        #[inline(always)]
        |image, sums, size| {
            let (lhs, rhs) = (&lhs[image * size..][..size], &rhs[image * size..][..size]);
            for (lhs, rhs) in lhs.chunks_exact(channels).zip(rhs.chunks_exact(channels)) {
                for ((sum, lhs), rhs) in sums.iter_mut().zip(lhs).zip(rhs) {
                    *sum += lhs * rhs;
                }
            }
        },
    );
    out
}
