//! What several networks are made of. Images have their channels last, see [`crate::ops`].

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::{Device, Tensor, TensorData};

use crate::initial::words;
use crate::ops;

/// Channels, height and width of an input.
pub(super) type Shape = [usize; 3];

/// All values come from the flat vector: to draw others takes seconds for a large network.
const EMPTY: Initializer = Initializer::Zeros;

/// A square convolution from `channels[0]` to `channels[1]` with the same padding on all sides.
pub(super) fn conv(channels: [usize; 2], kernel: usize, stride: usize, padding: usize) -> Conv2dConfig {
    Conv2dConfig::new(channels, [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding))
        .with_initializer(EMPTY)
}

/// The padding of a first convolution that makes an image of this height as large as one of 32 pixels with `padding`:
/// less would be left without a pixel by networks that halve it five times.
pub(super) fn padding_to_32(padding: usize, height: usize) -> usize {
    padding + 32_usize.saturating_sub(height).div_ceil(2)
}

/// A linear layer with bias.
pub(super) fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).with_initializer(EMPTY).init(device)
}

/// A convolution without bias and the normalisation behind it.
#[derive(Module, Debug)]
pub(super) struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    /// `norm` gives the normalisation's constants.
    pub(super) fn new(config: Conv2dConfig, norm: &BatchNormConfig, device: &Device) -> Self {
        let norm = BatchNormConfig { num_features: config.channels[1], ..norm.clone() };
        Self { conv: config.with_bias(false).init(device), norm: norm.init(device) }
    }

    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::batch_norm(&self.norm, ops::conv2d(&self.conv, x))
    }

    /// Its positive part.
    pub(super) fn forward_relu(&self, x: Tensor<4>) -> Tensor<4> {
        ops::batch_norm_relu(&self.norm, ops::conv2d(&self.conv, x))
    }
}

/// Dropout (Srivastava et al. 2014) with a mask from the unit's seed alone. The tensor library draws its masks from a
/// generator that all threads of a process share, so that functions in one process would disturb each other.
pub(super) fn dropout<const D: usize>(x: Tensor<D>, probability: f64, seed: u64, layer: &str) -> Tensor<D> {
    let shape = x.dims();
    let threshold = (probability * f64::from(u32::MAX)) as u32;
    let scale = (1.0 / (1.0 - probability)) as f32;
    let draws = words(b"peerless dropout v1", seed, layer, shape.iter().product());
    let mask: Vec<f32> = draws.map(|word| if word < threshold { 0.0 } else { scale }).collect();
    let mask = Tensor::from_data(TensorData::new(mask, shape), &x.device());
    x * mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_the_mean_and_depends_on_seed_and_layer_alone() {
        let device = Device::flex();
        let drop = |seed, layer| -> Vec<f32> {
            dropout(Tensor::<2>::ones([100, 100], &device), 0.2, seed, layer).into_data().try_into_vec().unwrap()
        };
        let once = drop(1, "a");
        assert!(once.iter().all(|&value| value == 0.0 || value == 1.25));
        assert!((7_800..8_200).contains(&once.iter().filter(|&&value| value > 0.0).count()));
        assert_eq!(drop(1, "a"), once);
        assert_ne!(drop(2, "a"), once);
        assert_ne!(drop(1, "b"), once);
    }
}
