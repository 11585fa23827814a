//! SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360; version 1.1 of its authors' repository): few parameters by
//! narrow layers between wide ones.

use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::pool::MaxPool2dConfig;
use burn::tensor::{Device, Tensor};

use super::blocks::{Shape, conv, dropout};
use super::{Initialisation, ModelInfo, Network};
use crate::ops;

pub(super) const INFO: ModelInfo = ModelInfo {
    name: "squeezenet1.1",
    description: "SqueezeNet 1.1: fire modules, no linear layer",
    input: [3, 32, 32],
    classes: 10,
    parameters: 727_626,
    buffers: 0,
};

/// Outputs of each fire module: squeezed, and expanded by each of two convolutions. Pooling comes before those at
/// `POOLED`.
const FIRES: [[usize; 2]; 8] = [[16, 64], [16, 64], [32, 128], [32, 128], [48, 192], [48, 192], [64, 256], [64, 256]];
const POOLED: [usize; 3] = [0, 2, 4];
/// Where the fire modules are in the reference definition.
const FEATURES: [usize; 8] = [3, 4, 6, 7, 9, 10, 11, 12];

/// 1,235,496 parameters for RGB images and 1000 classes: a stem of 1,792, fire modules of 11,408, 12,432, 45,344,
/// 49,440, 104,880, 111,024, 188,992 and 197,184, and a classifier of 513,000.
#[derive(Module, Debug)]
pub struct SqueezeNet {
    stem: Conv2d,
    fires: Vec<Fire>,
    classifier: Conv2d,
}

#[derive(Module, Debug)]
struct Fire {
    squeeze: Conv2d,
    expand1x1: Conv2d,
    expand3x3: Conv2d,
}

impl SqueezeNet {
    /// The network for images of this shape (channels, height, width; at least 17 pixels a side).
    pub fn new(device: &Device, [channels, ..]: Shape, classes: usize) -> Self {
        let inputs = [64].into_iter().chain(FIRES.map(|[_, expanded]| 2 * expanded));
        let fire = |(inputs, [squeezed, expanded]): (usize, [usize; 2])| Fire {
            squeeze: conv([inputs, squeezed], 1, 1, 0).init(device),
            expand1x1: conv([squeezed, expanded], 1, 1, 0).init(device),
            expand3x3: conv([squeezed, expanded], 3, 1, 1).init(device),
        };
        Self {
            stem: conv([channels, 64], 3, 2, 0).init(device),
            fires: inputs.zip(FIRES).map(fire).collect(),
            classifier: conv([512, classes], 1, 1, 0).init(device),
        }
    }

    fn features(&self, images: Tensor<4>) -> Tensor<4> {
        let pool = MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_ceil_mode(true).init();
        let mut x = ops::conv2d_relu(&self.stem, ops::channels_last(images));
        for (index, fire) in self.fires.iter().enumerate() {
            if POOLED.contains(&index) {
                x = ops::max_pool2d(&pool, x);
            }
            x = fire.forward(x);
        }
        x
    }

    fn classify(&self, features: Tensor<4>) -> Tensor<2> {
        ops::global_average(ops::conv2d_relu(&self.classifier, features))
    }
}

impl Fire {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = ops::conv2d_relu(&self.squeeze, x);
        Tensor::cat(vec![ops::conv2d_relu(&self.expand1x1, x.clone()), ops::conv2d_relu(&self.expand3x3, x)], 3)
    }
}

impl Network for SqueezeNet {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.classify(self.features(images))
    }

    fn forward_training(&self, images: Tensor<4>, seed: u64) -> Tensor<2> {
        self.classify(dropout(self.features(images), 0.5, seed, "classifier"))
    }

    fn initialisation() -> Initialisation {
        Initialisation::He
    }

    fn reference_name(layer: &str) -> String {
        let parts: Vec<&str> = layer.split('.').collect();
        match parts[..] {
            ["stem"] => "features.0".to_owned(),
            ["classifier"] => "classifier.1".to_owned(),
            ["fires", index, part] => match index.parse().ok().and_then(|index: usize| FEATURES.get(index)) {
                Some(feature) => format!("features.{feature}.{part}"),
                None => layer.to_owned(),
            },
            _ => layer.to_owned(),
        }
    }
}
