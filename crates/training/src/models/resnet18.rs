//! ResNet-18 (He et al. 2015, arXiv 1512.03385).

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

use super::blocks::{ConvNorm, Shape, conv, linear};
use super::{Initialisation, ModelInfo, Network};
use crate::ops;

pub(super) const INFO: ModelInfo = ModelInfo {
    name: "resnet18",
    description: "ResNet-18; images of less than 64 pixels get a 3x3 stem without pooling",
    input: [3, 32, 32],
    classes: 10,
    parameters: 11_173_962,
    buffers: 9_600,
};

/// Smallest height for the original's stem, which leaves a sixteenth of the pixels to the first block.
const LARGE: usize = 64;

/// 11,689,512 parameters for RGB images of 224x224 pixels and 1000 classes; 11,173,962 for 32x32 pixels and 10 classes:
/// 7,680 fewer in the stem, 507,870 fewer in the linear layer.
#[derive(Module, Debug)]
pub struct ResNet18 {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    fc: Linear,
    pooled: bool,
}

#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    downsample: Option<ConvNorm>,
}

impl ResNet18 {
    /// The network for images of this shape (channels, height, width).
    pub fn new(device: &Device, [channels, height, _]: Shape, classes: usize) -> Self {
        let pooled = height >= LARGE;
        let stem = if pooled { conv([channels, 64], 7, 2, 3) } else { conv([channels, 64], 3, 1, 1) };
        let stage = |inputs, outputs, stride| {
            vec![Block::new(device, [inputs, outputs], stride), Block::new(device, [outputs, outputs], 1)]
        };
        Self {
            conv1: stem.with_bias(false).init(device),
            bn1: BatchNormConfig::new(64).init(device),
            layer1: stage(64, 64, 1),
            layer2: stage(64, 128, 2),
            layer3: stage(128, 256, 2),
            layer4: stage(256, 512, 2),
            fc: linear(512, classes, device),
            pooled,
        }
    }
}

impl Block {
    fn new(device: &Device, channels: [usize; 2], stride: usize) -> Self {
        let [inputs, outputs] = channels;
        let norm = BatchNormConfig::new(outputs);
        let downsample = (stride != 1 || inputs != outputs).then(|| conv(channels, 1, stride, 0));
        Self {
            conv1: conv(channels, 3, stride, 1).with_bias(false).init(device),
            bn1: norm.init(device),
            conv2: conv([outputs, outputs], 3, 1, 1).with_bias(false).init(device),
            bn2: norm.init(device),
            downsample: downsample.map(|config| ConvNorm::new(config, &norm, device)),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let residual = ops::batch_norm_relu(&self.bn1, ops::conv2d(&self.conv1, x.clone()));
        let residual = ops::conv2d(&self.conv2, residual);
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        ops::batch_norm_add_relu(&self.bn2, residual, shortcut)
    }
}

impl Network for ResNet18 {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let mut x = ops::batch_norm_relu(&self.bn1, ops::conv2d(&self.conv1, ops::channels_last(images)));
        if self.pooled {
            let padding = PaddingConfig2d::Explicit(1, 1, 1, 1);
            x = ops::max_pool2d(&MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padding).init(), x);
        }
        for stage in [&self.layer1, &self.layer2, &self.layer3, &self.layer4] {
            x = stage.iter().fold(x, |x, block| block.forward(x));
        }
        ops::linear(&self.fc, ops::global_average(x))
    }

    fn initialisation() -> Initialisation {
        Initialisation::He
    }

    fn reference_name(layer: &str) -> String {
        layer.replace("downsample.conv", "downsample.0").replace("downsample.norm", "downsample.1")
    }
}
