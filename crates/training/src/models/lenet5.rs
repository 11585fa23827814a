//! LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition"), in the
//! form used today: ReLU for the squashing function, max pooling, a linear output layer.

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use super::{ModelInfo, Network};
use crate::ops;

pub(super) const INFO: ModelInfo = ModelInfo {
    name: "lenet5",
    description: "LeNet-5 with ReLU and max pooling, for 28x28 greyscale images",
    input: [1, 28, 28],
    classes: 10,
    parameters: 61_706,
    buffers: 0,
};

/// Two convolutions and three linear layers: 61,706 parameters for 1x28x28 images and 10 classes.
#[derive(Module, Debug)]
pub struct LeNet5 {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
    fc3: Linear,
    pool: MaxPool2d,
}

impl LeNet5 {
    /// The network on a device, with the library's own random initial parameters.
    pub fn new(device: &Device) -> Self {
        let conv1 = Conv2dConfig::new([1, 6], [5, 5]).with_padding(PaddingConfig2d::Explicit(2, 2, 2, 2));
        Self {
            conv1: conv1.init(device),
            conv2: Conv2dConfig::new([6, 16], [5, 5]).init(device),
            fc1: LinearConfig::new(16 * 5 * 5, 120).init(device),
            fc2: LinearConfig::new(120, 84).init(device),
            fc3: LinearConfig::new(84, 10).init(device),
            pool: MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
        }
    }
}

impl Network for LeNet5 {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        // ReLU and max pooling commute; pooling first leaves a quarter of the elements to ReLU.
        let pool = |x| ops::max_pool2d_relu(&self.pool, x);
        let x = pool(ops::conv2d(&self.conv1, ops::channels_last(images)));
        let x = pool(ops::conv2d(&self.conv2, x));
        let x = ops::linear_relu(&self.fc1, ops::flatten(x));
        let x = ops::linear_relu(&self.fc2, x);
        ops::linear(&self.fc3, x)
    }
}
