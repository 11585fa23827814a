//! The tensor library's own layers on channels-last images: what other engines than flex compute with.

use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2d;
use burn::nn::{BatchNorm, Linear};
use burn::tensor::Tensor;

use super::{channels_first, channels_last};

pub(super) fn conv2d(layer: &Conv2d, images: Tensor<4>) -> Tensor<4> {
    channels_last(layer.forward(channels_first(images)))
}

pub(super) fn linear(layer: &Linear, rows: Tensor<2>) -> Tensor<2> {
    layer.forward(rows)
}

pub(super) fn max_pool2d(layer: &MaxPool2d, images: Tensor<4>) -> Tensor<4> {
    channels_last(layer.forward(channels_first(images)))
}

pub(super) fn global_average(images: Tensor<4>) -> Tensor<2> {
    let [batch, height, width, channels] = images.dims();
    images.reshape([batch, height * width, channels]).mean_dim(1).reshape([batch, channels])
}

pub(super) fn scale_channels(images: Tensor<4>, factors: Tensor<2>) -> Tensor<4> {
    let [batch, channels] = factors.dims();
    images * factors.reshape([batch, 1, 1, channels])
}

/// Takes the batch's statistics and folds them into the running ones if there is automatic differentiation.
pub(super) fn batch_norm(layer: &BatchNorm, images: Tensor<4>) -> Tensor<4> {
    channels_last(layer.forward(channels_first(images)))
}
