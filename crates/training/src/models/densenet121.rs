//! DenseNet-121 (Huang et al. 2016, arXiv 1608.06993): every layer sees the outputs of all before it in its block.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::pool::{AvgPool2dConfig, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use super::blocks::{Shape, conv, linear, padding_to_32};
use super::{Initialisation, ModelInfo, Network};
use crate::ops;

pub(super) const INFO: ModelInfo = ModelInfo {
    name: "densenet121",
    description: "DenseNet-121: 58 dense layers in four blocks, growth 32",
    input: [3, 32, 32],
    classes: 10,
    parameters: 6_964_106,
    buffers: 83_648,
};

/// Layers of each block.
const LAYERS: [usize; 4] = [6, 12, 24, 16];
/// Channels that a layer adds.
const GROWTH: usize = 32;
/// Channels between the two convolutions of a layer.
const BOTTLENECK: usize = 4 * GROWTH;

/// 7,978,856 parameters for RGB images and 1000 classes, 1,014,750 fewer for 10.
#[derive(Module, Debug)]
pub struct DenseNet121 {
    conv0: Conv2d,
    norm0: BatchNorm,
    blocks: Vec<Vec<DenseLayer>>,
    transitions: Vec<Transition>,
    norm5: BatchNorm,
    classifier: Linear,
}

#[derive(Module, Debug)]
struct DenseLayer {
    norm1: BatchNorm,
    conv1: Conv2d,
    norm2: BatchNorm,
    conv2: Conv2d,
}

#[derive(Module, Debug)]
struct Transition {
    norm: BatchNorm,
    conv: Conv2d,
}

impl DenseNet121 {
    /// The network for images of this shape (channels, height, width). The first convolution pads those of
    /// less than 32 pixels a side to that.
    pub fn new(device: &Device, [channels, height, _]: Shape, classes: usize) -> Self {
        let mut width = 2 * GROWTH;
        let (mut blocks, mut transitions) = (Vec::new(), Vec::new());
        for (index, layers) in LAYERS.into_iter().enumerate() {
            blocks.push((0..layers).map(|layer| DenseLayer::new(device, width + layer * GROWTH)).collect());
            width += layers * GROWTH;
            if index + 1 < LAYERS.len() {
                transitions.push(Transition::new(device, width));
                width /= 2;
            }
        }
        Self {
            conv0: conv([channels, 2 * GROWTH], 7, 2, padding_to_32(3, height)).with_bias(false).init(device),
            norm0: BatchNormConfig::new(2 * GROWTH).init(device),
            blocks,
            transitions,
            norm5: BatchNormConfig::new(width).init(device),
            classifier: linear(width, classes, device),
        }
    }
}

impl DenseLayer {
    fn new(device: &Device, inputs: usize) -> Self {
        Self {
            norm1: BatchNormConfig::new(inputs).init(device),
            conv1: conv([inputs, BOTTLENECK], 1, 1, 0).with_bias(false).init(device),
            norm2: BatchNormConfig::new(BOTTLENECK).init(device),
            conv2: conv([BOTTLENECK, GROWTH], 3, 1, 1).with_bias(false).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let new = ops::conv2d(&self.conv1, ops::batch_norm_relu(&self.norm1, x.clone()));
        let new = ops::conv2d(&self.conv2, ops::batch_norm_relu(&self.norm2, new));
        Tensor::cat(vec![x, new], 3)
    }
}

impl Transition {
    /// Halves channels, height and width.
    fn new(device: &Device, inputs: usize) -> Self {
        Self {
            norm: BatchNormConfig::new(inputs).init(device),
            conv: conv([inputs, inputs / 2], 1, 1, 0).with_bias(false).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = ops::conv2d(&self.conv, ops::batch_norm_relu(&self.norm, x));
        let pool = AvgPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
        ops::channels_last(pool.forward(ops::channels_first(x)))
    }
}

impl Network for DenseNet121 {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
        let pool = MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init();
        let x = ops::batch_norm_relu(&self.norm0, ops::conv2d(&self.conv0, ops::channels_last(images)));
        let mut x = ops::max_pool2d(&pool, x);
        for (index, block) in self.blocks.iter().enumerate() {
            x = block.iter().fold(x, |x, layer| layer.forward(x));
            if let Some(transition) = self.transitions.get(index) {
                x = transition.forward(x);
            }
        }
        ops::linear(&self.classifier, ops::global_average(ops::batch_norm_relu(&self.norm5, x)))
    }

    fn initialisation() -> Initialisation {
        Initialisation::He
    }

    fn reference_name(layer: &str) -> String {
        let number = |index: &str| index.parse::<usize>().map_or(0, |index| index + 1);
        let parts: Vec<&str> = layer.split('.').collect();
        match parts[..] {
            ["classifier"] => layer.to_owned(),
            ["blocks", block, index, part] => {
                format!("features.denseblock{}.denselayer{}.{part}", number(block), number(index))
            }
            ["transitions", index, part] => format!("features.transition{}.{part}", number(index)),
            _ => format!("features.{layer}"),
        }
    }
}
