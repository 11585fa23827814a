//! Layers as a CPU computes them fast: on images with their channels last, [batch, height, width, channels].
//!
//! The modules and their parameters are those of the tensor library; only the computation is another, with derivatives
//! of its own. What the library does to convolve and to differentiate a convolution, image by image and through several
//! layouts, takes most of a unit's time. Here a convolution, its gradient at the images and its gradient at the weights
//! are one product each over the whole batch (`kernels.rs`).
//!
//! # Bits
//!
//! Every result is one chain of fused multiply-adds, or a fixed number of chains added in order. Which instructions
//! compute it, how large blocks are and how many threads share the work changes nothing, so that these layers give the
//! same bits with AVX2, AVX-512 and NEON.
//!
//! # Other engines
//!
//! All that is computed here is computed on the CPU, by the backend flex. With tensors of another engine each function
//! asks `is_ours` first and leaves the layer to the tensor library (`library.rs`).

mod channels;
mod conv;
mod depthwise;
mod extension;
mod geometry;
mod kernels;
mod library;
mod linear;
mod narrow;
mod norm;
mod outer;
mod pool;
mod sums;
mod vectorised;
mod work;

use burn::backend::{Dispatch, DispatchTensor};
use burn::module::Param;
use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2d;
use burn::nn::{BatchNorm, Linear, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

pub use work::{multiply_adds, peak_gflops};

use extension::Layers;
use geometry::Window;
use norm::Normalisation;
use pool::MaxPool;

/// Images as the tensor library has them, [batch, channels, height, width], with their channels last.
pub fn channels_last(images: Tensor<4>) -> Tensor<4> {
    images.permute([0, 2, 3, 1])
}

/// The other way round.
pub fn channels_first(images: Tensor<4>) -> Tensor<4> {
    images.permute([0, 3, 1, 2])
}

/// One row per image, in the order of the tensor library's `flatten`: channel after channel.
pub fn flatten(images: Tensor<4>) -> Tensor<2> {
    channels_first(images).flatten(1, 3)
}

/// Whether the layers of this module can compute with a tensor: whether flex has it.
fn is_ours<const D: usize>(tensor: &Tensor<D>) -> bool {
    // Devices are equal with and without automatic differentiation.
    tensor.device() == Device::flex()
}

fn rectify<const D: usize>(output: Tensor<D>, rectified: bool) -> Tensor<D> {
    if rectified { relu(output) } else { output }
}

/// The layer's result. Layers of several groups other than one per channel, and those that are padded to keep the size,
/// are computed by the tensor library.
pub fn conv2d(layer: &Conv2d, images: Tensor<4>) -> Tensor<4> {
    convolve(layer, images, false)
}

/// The positive part of [`conv2d`].
pub fn conv2d_relu(layer: &Conv2d, images: Tensor<4>) -> Tensor<4> {
    convolve(layer, images, true)
}

fn convolve(layer: &Conv2d, images: Tensor<4>, rectified: bool) -> Tensor<4> {
    let [.., channels] = images.dims();
    let [outputs, inputs, ..] = layer.weight.dims();
    let depthwise = layer.groups == channels && outputs == channels && inputs == 1;
    let window = window(layer.kernel_size, layer.stride, layer.dilation, &layer.padding);
    let (Some(window), true) = (window, is_ours(&images) && (layer.groups == 1 || depthwise)) else {
        return rectify(library::conv2d(layer, images), rectified);
    };
    let bias = bias(layer.bias.as_ref(), &images.device());
    let (images, weights) = (images.into_dispatch(), layer.weight.val().into_dispatch());
    Tensor::from_dispatch(if layer.groups == 1 {
        Dispatch::convolve(images, weights, bias, window, rectified)
    } else {
        Dispatch::convolve_depthwise(images, weights, bias, window, rectified)
    })
}

/// The layer's result for rows of inputs.
pub fn linear(layer: &Linear, rows: Tensor<2>) -> Tensor<2> {
    multiply(layer, rows, false)
}

/// The positive part of [`linear`].
pub fn linear_relu(layer: &Linear, rows: Tensor<2>) -> Tensor<2> {
    multiply(layer, rows, true)
}

fn multiply(layer: &Linear, rows: Tensor<2>, rectified: bool) -> Tensor<2> {
    if !is_ours(&rows) {
        return rectify(library::linear(layer, rows), rectified);
    }
    let bias = bias(layer.bias.as_ref(), &rows.device());
    let (rows, weights) = (rows.into_dispatch(), layer.weight.val().into_dispatch());
    Tensor::from_dispatch(Dispatch::multiply(rows, weights, bias, rectified))
}

/// The layer's result. Layers that are padded to keep the size are computed by the tensor library.
pub fn max_pool2d(layer: &MaxPool2d, images: Tensor<4>) -> Tensor<4> {
    largest(layer, images, false)
}

/// The positive part of [`max_pool2d`].
pub fn max_pool2d_relu(layer: &MaxPool2d, images: Tensor<4>) -> Tensor<4> {
    largest(layer, images, true)
}

fn largest(layer: &MaxPool2d, images: Tensor<4>, rectified: bool) -> Tensor<4> {
    let [_, height, width, _] = images.dims();
    let window = window(layer.kernel_size, layer.stride, layer.dilation, &layer.padding);
    let Some(window) = window.filter(|_| is_ours(&images)) else {
        return rectify(library::max_pool2d(layer, images), rectified);
    };
    let mut output = window.output([height, width]);
    if layer.ceil_mode {
        output = window.output_with_part([height, width]);
    }
    Tensor::from_dispatch(Dispatch::largest(images.into_dispatch(), MaxPool { window, output, rectified }))
}

/// The mean of each channel over height and width: [batch, channels].
pub fn global_average(images: Tensor<4>) -> Tensor<2> {
    if !is_ours(&images) {
        return library::global_average(images);
    }
    Tensor::from_dispatch(Dispatch::average(images.into_dispatch()))
}

/// Each channel of each image times its factor; factors are [batch, channels].
pub fn scale_channels(images: Tensor<4>, factors: Tensor<2>) -> Tensor<4> {
    if !is_ours(&images) {
        return library::scale_channels(images, factors);
    }
    Tensor::from_dispatch(Dispatch::scale(images.into_dispatch(), factors.into_dispatch()))
}

/// The layer's result; with automatic differentiation from the batch's own statistics, which are folded into the
/// running ones.
pub fn batch_norm(layer: &BatchNorm, images: Tensor<4>) -> Tensor<4> {
    normalise(layer, images, None, false)
}

/// The positive part of [`batch_norm`].
pub fn batch_norm_relu(layer: &BatchNorm, images: Tensor<4>) -> Tensor<4> {
    normalise(layer, images, None, true)
}

/// The positive part of the sum of [`batch_norm`] and what is `added`, images of the same shape.
pub fn batch_norm_add_relu(layer: &BatchNorm, images: Tensor<4>, added: Tensor<4>) -> Tensor<4> {
    normalise(layer, images, Some(added), true)
}

fn normalise(layer: &BatchNorm, images: Tensor<4>, added: Option<Tensor<4>>, rectified: bool) -> Tensor<4> {
    let (ours, device) = (is_ours(&images), images.device());
    if !ours || !device.is_autodiff() {
        let output = if ours { with_running_statistics(layer, images) } else { library::batch_norm(layer, images) };
        return rectify(if let Some(added) = added { output + added } else { output }, rectified);
    }
    let (gamma, beta) = (layer.gamma.val().into_dispatch(), layer.beta.val().into_dispatch());
    let added = added.unwrap_or_else(|| Tensor::zeros([0; 4], &device)).into_dispatch();
    let computed = Normalisation { epsilon: layer.epsilon, rectified };
    let (output, mean, variance) = Dispatch::normalise(images.into_dispatch(), gamma, beta, added, computed);
    let fold = |running: Tensor<1>, batch: Tensor<1>| {
        (running * (1.0 - layer.momentum) + batch.detach() * layer.momentum).detach()
    };
    layer.running_mean.update(fold(layer.running_mean.value_sync(), Tensor::from_dispatch(mean)));
    layer.running_var.update(fold(layer.running_var.value_sync(), Tensor::from_dispatch(variance)));
    Tensor::from_dispatch(output)
}

fn with_running_statistics(layer: &BatchNorm, images: Tensor<4>) -> Tensor<4> {
    let [.., channels] = images.dims();
    let scale = layer.gamma.val() / (layer.running_var.value() + layer.epsilon).sqrt();
    let shift = layer.beta.val() - layer.running_mean.value() * scale.clone();
    images * scale.reshape([1, 1, 1, channels]) + shift.reshape([1, 1, 1, channels])
}

/// Without a bias, one of no numbers.
fn bias(layer: Option<&Param<Tensor<1>>>, device: &Device) -> DispatchTensor {
    layer.map_or_else(|| Tensor::<1>::zeros([0], device), Param::val).into_dispatch()
}

fn window(kernel: [usize; 2], stride: [usize; 2], dilation: [usize; 2], padding: &PaddingConfig2d) -> Option<Window> {
    let padding = match *padding {
        PaddingConfig2d::Valid => [[0; 2]; 2],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [[top, bottom], [left, right]],
        PaddingConfig2d::Same => return None,
    };
    Some(Window { kernel, stride, dilation, padding })
}
