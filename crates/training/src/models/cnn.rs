//! A plain convolutional network of 1.2 million parameters, to measure with: no run spec names it.

use burn::module::Module;
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::tensor::{Device, Tensor};

use super::blocks::{conv, linear};
use super::{Model, ModelInfo, Network};
use crate::ops;

const INFO: ModelInfo = ModelInfo {
    name: "cnn-1.2m",
    description: "two 3x3 convolutions and two linear layers, for measurements",
    input: [1, 28, 28],
    classes: 10,
    parameters: 1_199_882,
    buffers: 0,
};

/// Convolutions to 32 and 64 channels without padding, pooling, linear layers of 128 and 10 outputs.
#[derive(Module, Debug)]
struct Cnn {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
    pool: MaxPool2d,
}

impl Network for Cnn {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let x = ops::conv2d_relu(&self.conv1, ops::channels_last(images));
        let x = ops::max_pool2d_relu(&self.pool, ops::conv2d(&self.conv2, x));
        let x = ops::linear_relu(&self.fc1, ops::flatten(x));
        ops::linear(&self.fc2, x)
    }
}

impl Cnn {
    fn new(device: &Device) -> Self {
        Self {
            conv1: conv([1, 32], 3, 1, 0).init(device),
            conv2: conv([32, 64], 3, 1, 0).init(device),
            fc1: linear(64 * 12 * 12, 128, device),
            fc2: linear(128, 10, device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
        }
    }
}

/// The network that measurements know as `cnn-1.2m`, which no run can name: two convolutions to 32 and 64 channels,
/// two linear layers.
pub fn measured_cnn() -> Model {
    Model::from_network(INFO, Cnn::new)
}
