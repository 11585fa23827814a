//! What the tests of layers share.

use burn::tensor::{Device, Tensor, TensorData};
use peerless_training::burn;

/// What layers are computed on in these tests.
pub fn device() -> Device {
    Device::flex().autodiff()
}

/// Numbers between -1 and 1 without a pattern; `reference/make_layers.py` has the same.
pub fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mix = |x: u32| {
        let x = (x ^ (x >> 16)).wrapping_mul(0x045D_9F3B);
        (x ^ (x >> 15)).wrapping_mul(0x2C1B_3C6D)
    };
    (0..count as u32).map(|index| (mix(mix(index) ^ seed) >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// A tensor of these values on [`device`].
pub fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &device())
}

/// The values of a tensor, row after row.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}
