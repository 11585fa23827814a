//! MobileNetV3-Small (Howard et al. 2019, arXiv 1905.02244, table 2).

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{BatchNormConfig, Linear};
use burn::tensor::activation::hard_sigmoid;
use burn::tensor::{Device, Tensor};

use super::blocks::{ConvNorm, Shape, conv, dropout, linear};
use super::{Initialisation, ModelInfo, Network};
use crate::ops;

pub(super) const INFO: ModelInfo = ModelInfo {
    name: "mobilenet-v3-small",
    description: "MobileNetV3-Small: depthwise convolutions, squeeze and excitation",
    input: [3, 32, 32],
    classes: 10,
    parameters: 1_528_106,
    buffers: 12_112,
};

/// A row of the paper's table: kernel, expanded and output channels, squeeze and excitation, h-swish instead of ReLU,
/// stride.
#[derive(Clone, Copy)]
struct Row(usize, usize, usize, bool, bool, usize);

const ROWS: [Row; 11] = [
    Row(3, 16, 16, true, false, 2),
    Row(3, 72, 24, false, false, 2),
    Row(3, 88, 24, false, false, 1),
    Row(5, 96, 40, true, true, 2),
    Row(5, 240, 40, true, true, 1),
    Row(5, 240, 40, true, true, 1),
    Row(5, 120, 48, true, true, 1),
    Row(5, 144, 48, true, true, 1),
    Row(5, 288, 96, true, true, 2),
    Row(5, 576, 96, true, true, 1),
    Row(5, 576, 96, true, true, 1),
];
/// Channels behind the first and the last convolution, and of the hidden linear layer.
const FIRST: usize = 16;
const LAST: usize = 576;
const HIDDEN: usize = 1024;

/// 2,542,856 parameters for RGB images and 1000 classes, 1,014,750 fewer for 10.
#[derive(Module, Debug)]
pub struct MobileNetV3Small {
    stem: ConvNorm,
    blocks: Vec<Block>,
    last: ConvNorm,
    hidden: Linear,
    classifier: Linear,
}

#[derive(Module, Debug)]
struct Block {
    expand: Option<ConvNorm>,
    depthwise: ConvNorm,
    excitation: Option<Excitation>,
    project: ConvNorm,
    hard: bool,
    shortcut: bool,
}

#[derive(Module, Debug)]
struct Excitation {
    fc1: Conv2d,
    fc2: Conv2d,
}

impl MobileNetV3Small {
    /// The network for images of this shape (channels, height, width).
    pub fn new(device: &Device, [channels, ..]: Shape, classes: usize) -> Self {
        let inputs = [FIRST].into_iter().chain(ROWS.map(|Row(_, _, outputs, ..)| outputs));
        let blocks = inputs.zip(ROWS).map(|(inputs, row)| Block::new(device, inputs, row)).collect();
        Self {
            stem: ConvNorm::new(conv([channels, FIRST], 3, 2, 1), &norm(), device),
            blocks,
            last: ConvNorm::new(conv([96, LAST], 1, 1, 0), &norm(), device),
            hidden: linear(LAST, HIDDEN, device),
            classifier: linear(HIDDEN, classes, device),
        }
    }

    fn hidden(&self, images: Tensor<4>) -> Tensor<2> {
        let x = hard_swish(self.stem.forward(ops::channels_last(images)));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let x = ops::global_average(hard_swish(self.last.forward(x)));
        hard_swish(ops::linear(&self.hidden, x))
    }
}

/// The constants that all of its normalisations have.
fn norm() -> BatchNormConfig {
    BatchNormConfig::new(1).with_epsilon(1e-3).with_momentum(0.01)
}

impl Block {
    fn new(device: &Device, inputs: usize, row: Row) -> Self {
        let Row(kernel, expanded, outputs, excited, hard, stride) = row;
        let depthwise = conv([expanded, expanded], kernel, stride, kernel / 2).with_groups(expanded);
        Self {
            expand: (expanded != inputs).then(|| ConvNorm::new(conv([inputs, expanded], 1, 1, 0), &norm(), device)),
            depthwise: ConvNorm::new(depthwise, &norm(), device),
            excitation: excited.then(|| Excitation::new(device, expanded)),
            project: ConvNorm::new(conv([expanded, outputs], 1, 1, 0), &norm(), device),
            hard,
            shortcut: stride == 1 && inputs == outputs,
        }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let activated =
            |layer: &ConvNorm, x| if self.hard { hard_swish(layer.forward(x)) } else { layer.forward_relu(x) };
        let mut x = input.clone();
        if let Some(expand) = &self.expand {
            x = activated(expand, x);
        }
        x = activated(&self.depthwise, x);
        if let Some(excitation) = &self.excitation {
            x = excitation.forward(x);
        }
        x = self.project.forward(x);
        if self.shortcut { x + input } else { x }
    }
}

impl Excitation {
    /// A quarter of the channels, rounded to a multiple of 8 as in the paper: never down by more than a tenth.
    fn new(device: &Device, channels: usize) -> Self {
        let wanted = channels / 4;
        let rounded = ((wanted + 4) / 8 * 8).max(8);
        let squeezed = if 10 * rounded < 9 * wanted { rounded + 8 } else { rounded };
        Self {
            fc1: conv([channels, squeezed], 1, 1, 0).init(device),
            fc2: conv([squeezed, channels], 1, 1, 0).init(device),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, .., channels] = x.dims();
        let scale = ops::global_average(x.clone()).reshape([batch, 1, 1, channels]);
        let scale = ops::conv2d(&self.fc2, ops::conv2d_relu(&self.fc1, scale));
        ops::scale_channels(x, hard_sigmoid(scale, 1.0 / 6.0, 0.5).reshape([batch, channels]))
    }
}

/// x · min(max(x + 3, 0), 6) / 6.
fn hard_swish<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * hard_sigmoid(x, 1.0 / 6.0, 0.5)
}

impl Network for MobileNetV3Small {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        ops::linear(&self.classifier, self.hidden(images))
    }

    fn forward_training(&self, images: Tensor<4>, seed: u64) -> Tensor<2> {
        ops::linear(&self.classifier, dropout(self.hidden(images), 0.2, seed, "classifier"))
    }

    fn initialisation() -> Initialisation {
        Initialisation::He
    }

    fn reference_name(layer: &str) -> String {
        let layer = layer.replace(".conv", ".0").replace(".norm", ".1");
        let parts: Vec<&str> = layer.split('.').collect();
        match parts[..] {
            ["stem", part] => format!("features.0.{part}"),
            ["last", part] => format!("features.12.{part}"),
            ["hidden"] => "classifier.0".to_owned(),
            ["classifier"] => "classifier.3".to_owned(),
            ["blocks", index, layer, part] => block_name(index, layer, part),
            _ => layer.clone(),
        }
    }
}

/// The reference definition counts the layers that a block has.
fn block_name(index: &str, layer: &str, part: &str) -> String {
    let index: usize = index.parse().unwrap_or(0);
    let expanded = usize::from(index > 0);
    let excited = ROWS.get(index).map_or(0, |row| usize::from(row.3));
    let place = match layer {
        "expand" => 0,
        "depthwise" => expanded,
        "excitation" => expanded + 1,
        _ => expanded + 1 + excited,
    };
    format!("features.{}.block.{place}.{part}", index + 1)
}
