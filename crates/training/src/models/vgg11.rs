//! VGG-11 (Simonyan, Zisserman 2014, arXiv 1409.1556, configuration A), without normalisation.

use burn::module::Module;
use burn::nn::Linear;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{AdaptiveAvgPool2dConfig, MaxPool2dConfig};
use burn::tensor::{Device, Tensor};

use super::blocks::{Shape, conv, dropout, linear, padding_to_32};
use super::{Initialisation, ModelInfo, Network};
use crate::ops;

pub(super) const INFO: ModelInfo = ModelInfo {
    name: "vgg11",
    description: "VGG-11 with its three large linear layers: a state of half a gigabyte",
    input: [3, 32, 32],
    classes: 10,
    parameters: 128_807_306,
    buffers: 0,
};

/// Outputs of the convolutions, whether pooling follows, and where they are in the reference definition.
const CONVOLUTIONS: [(usize, bool, usize); 8] = [
    (64, true, 0),
    (128, true, 3),
    (256, false, 6),
    (256, true, 8),
    (512, false, 11),
    (512, true, 13),
    (512, false, 16),
    (512, true, 18),
];
const LINEAR: [usize; 3] = [0, 3, 6];

/// 132,863,336 parameters for RGB images and 1000 classes: convolutions of 1,792, 73,856, 295,168, 590,080,
/// 1,180,160 and three times 2,359,808, linear layers of 102,764,544, 16,781,312 and 4,097,000.
#[derive(Module, Debug)]
pub struct Vgg11 {
    convolutions: Vec<Conv2d>,
    linear: Vec<Linear>,
}

impl Vgg11 {
    /// The network for images of this shape (channels, height, width). The first convolution pads those of
    /// less than 32 pixels a side to that.
    pub fn new(device: &Device, [channels, height, _]: Shape, classes: usize) -> Self {
        let inputs = [channels].into_iter().chain(CONVOLUTIONS.map(|(outputs, ..)| outputs));
        let first_padding = padding_to_32(1, height);
        let convolution = |(index, (inputs, (outputs, ..))): (usize, (usize, (usize, bool, usize)))| {
            conv([inputs, outputs], 3, 1, if index == 0 { first_padding } else { 1 }).init(device)
        };
        let sizes = [[512 * 7 * 7, 4096], [4096, 4096], [4096, classes]];
        Self {
            convolutions: inputs.zip(CONVOLUTIONS).enumerate().map(convolution).collect(),
            linear: sizes.map(|[inputs, outputs]| linear(inputs, outputs, device)).into(),
        }
    }

    /// `drop` is what happens behind each hidden linear layer.
    fn run(&self, images: Tensor<4>, drop: impl Fn(Tensor<2>, usize) -> Tensor<2>) -> Tensor<2> {
        let pool = MaxPool2dConfig::new([2, 2]).init();
        let mut x = ops::channels_last(images);
        for (convolution, (_, pooled, _)) in self.convolutions.iter().zip(CONVOLUTIONS) {
            x = if pooled {
                ops::max_pool2d_relu(&pool, ops::conv2d(convolution, x))
            } else {
                ops::conv2d_relu(convolution, x)
            };
        }
        let mut x = AdaptiveAvgPool2dConfig::new([7, 7]).init().forward(ops::channels_first(x)).flatten(1, 3);
        for (index, linear) in self.linear.iter().enumerate() {
            let last = index + 1 == self.linear.len();
            x = if last { ops::linear(linear, x) } else { drop(ops::linear_relu(linear, x), index) };
        }
        x
    }
}

impl Network for Vgg11 {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.run(images, |x, _| x)
    }

    fn forward_training(&self, images: Tensor<4>, seed: u64) -> Tensor<2> {
        self.run(images, |x, layer| dropout(x, 0.5, seed, &format!("linear.{layer}")))
    }

    fn initialisation() -> Initialisation {
        Initialisation::He
    }

    fn reference_name(layer: &str) -> String {
        let at = |index: &str| index.parse::<usize>().ok();
        let parts: Vec<&str> = layer.split('.').collect();
        let place = match parts[..] {
            ["convolutions", index] => at(index).and_then(|index| Some(("features", CONVOLUTIONS.get(index)?.2))),
            ["linear", index] => at(index).and_then(|index| Some(("classifier", *LINEAR.get(index)?))),
            _ => None,
        };
        place.map_or_else(|| layer.to_owned(), |(part, index)| format!("{part}.{index}"))
    }
}
