//! The layers of `ops` against their definitions in `f64`, against finite differences, and against the tensor library's
//! own layers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::pool::{MaxPool2d, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::Tensor;
use common::{device, numbers, tensor, values};
use peerless_training::burn;
use peerless_training::ops;

fn assert_near(found: &[f32], expected: &[f64], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1.0_f64, |largest, value| largest.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*found) - expected).abs();
        assert!(difference <= 2e-6 * largest, "{what}: element {index} is {found} and not {expected}");
    }
}

/// A convolution of one case.
#[derive(Debug, Clone, Copy)]
struct Case {
    batch: usize,
    size: [usize; 2],
    channels: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Top, left, bottom, right.
    padding: [usize; 4],
    dilation: [usize; 2],
    groups: usize,
}

const PLAIN: Case = Case {
    batch: 2,
    size: [9, 7],
    channels: [3, 5],
    kernel: [3, 3],
    stride: [1, 1],
    padding: [0; 4],
    dilation: [1, 1],
    groups: 1,
};

fn cases() -> Vec<Case> {
    let mut cases = vec![
        PLAIN,
        Case { batch: 1, ..PLAIN },
        Case { batch: 1, size: [1, 1], kernel: [1, 1], ..PLAIN },
        Case { kernel: [1, 1], channels: [7, 70], ..PLAIN },
        Case { kernel: [1, 1], stride: [2, 2], ..PLAIN },
        Case { kernel: [1, 1], stride: [3, 2], channels: [20, 6], ..PLAIN },
        Case { kernel: [2, 5], padding: [1, 0, 0, 2], ..PLAIN },
        Case { kernel: [2, 5], padding: [1, 0, 0, 2], stride: [2, 3], channels: [17, 33], ..PLAIN },
        Case { channels: [16, 6], kernel: [5, 5], padding: [2; 4], ..PLAIN },
        Case { channels: [6, 16], kernel: [5, 5], ..PLAIN },
        Case { channels: [64, 48], padding: [1; 4], size: [4, 4], ..PLAIN },
        Case { channels: [70, 3], padding: [1; 4], batch: 3, ..PLAIN },
    ];
    for stride in 1..=3 {
        for padding in 0..=2 {
            for dilation in 1..=2 {
                let case = Case { stride: [stride; 2], padding: [padding; 4], dilation: [dilation; 2], ..PLAIN };
                cases.push(case);
                cases.push(Case { channels: [18, 20], ..case });
                cases.push(Case { channels: [12, 12], groups: 12, ..case });
                cases.push(Case { channels: [4, 6], groups: 2, ..case });
            }
        }
    }
    cases
}

impl Case {
    fn layer(&self) -> Conv2d {
        let [top, left, bottom, right] = self.padding;
        Conv2dConfig::new(self.channels, self.kernel)
            .with_stride(self.stride)
            .with_padding(PaddingConfig2d::Explicit(top, left, bottom, right))
            .with_dilation(self.dilation)
            .with_groups(self.groups)
            .init(&device())
    }

    fn input(&self) -> [usize; 4] {
        [self.batch, self.channels[0], self.size[0], self.size[1]]
    }

    fn output(&self) -> [usize; 4] {
        let size = |axis: usize| {
            let padded = self.size[axis] + self.padding[axis] + self.padding[axis + 2];
            (padded - self.dilation[axis] * (self.kernel[axis] - 1) - 1) / self.stride[axis] + 1
        };
        [self.batch, self.channels[1], size(0), size(1)]
    }

    /// The definition, in `f64`: channels first.
    fn definition(&self, images: &[f64], weights: &[f64], bias: &[f64]) -> Vec<f64> {
        let [_, inputs, height, width] = self.input();
        let [batch, outputs, rows, columns] = self.output();
        let (of_group, per_group) = (inputs / self.groups, outputs / self.groups);
        let mut out = Vec::new();
        for index in 0..batch * outputs * rows * columns {
            let (column, row) = (index % columns, index / columns % rows);
            let (output, sample) = (index / columns / rows % outputs, index / columns / rows / outputs);
            let mut sum = bias[output];
            for term in 0..of_group * self.kernel[0] * self.kernel[1] {
                let (right, down) = (term % self.kernel[1], term / self.kernel[1] % self.kernel[0]);
                let channel = term / self.kernel[1] / self.kernel[0];
                let y = (row * self.stride[0] + down * self.dilation[0]).checked_sub(self.padding[0]);
                let x = (column * self.stride[1] + right * self.dilation[1]).checked_sub(self.padding[1]);
                if let (Some(y), Some(x)) = (y.filter(|y| *y < height), x.filter(|x| *x < width)) {
                    let input = output / per_group * of_group + channel;
                    let image = images[((sample * inputs + input) * height + y) * width + x];
                    sum += image * weights[output * of_group * self.kernel[0] * self.kernel[1] + term];
                }
            }
            out.push(sum);
        }
        out
    }
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// Slopes of `loss` at some of the `values`, by differences. The losses here are linear in each value, so that a step
/// of 1 is as good as any.
fn slopes(values: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<(usize, f64)> {
    let stride = (values.len() / 24).max(1);
    let slope = |index: usize| {
        let moved = |step: f64| {
            let mut values = values.to_vec();
            values[index] += step;
            loss(&values)
        };
        (index, (moved(1.0) - moved(-1.0)) / 2.0)
    };
    (0..values.len()).step_by(stride).map(slope).collect()
}

fn assert_slopes(found: &[f32], expected: &[(usize, f64)], what: &str) {
    let chosen: Vec<f32> = expected.iter().map(|(index, _)| found[*index]).collect();
    assert_near(&chosen, &expected.iter().map(|(_, slope)| *slope).collect::<Vec<_>>(), what);
}

#[test]
fn convolutions_and_their_gradients_are_those_of_the_definition() {
    for case in cases() {
        let what = |part: &str| format!("{part} of {case:?}");
        let mut layer = case.layer();
        let (weight_shape, image_shape) = (layer.weight.dims(), case.input());
        let weights = numbers(weight_shape.iter().product(), 1);
        let (images, bias) = (numbers(image_shape.iter().product(), 2), numbers(case.channels[1], 3));
        let at_output = numbers(case.output().iter().product(), 4);
        layer.weight = layer.weight.map(|_| tensor(&weights, weight_shape).require_grad());
        layer.bias = layer.bias.map(|bias_of| bias_of.map(|_| tensor(&bias, [bias.len()]).require_grad()));
        let input = tensor(&images, image_shape).require_grad();
        let output = ops::channels_first(ops::conv2d(&layer, ops::channels_last(input.clone())));
        assert_eq!(output.dims(), case.output(), "{}", what("shape"));
        let (images, weights, bias) = (wide(&images), wide(&weights), wide(&bias));
        assert_near(&values(output.clone().inner()), &case.definition(&images, &weights, &bias), &what("output"));

        let gradients = (output * tensor(&at_output, case.output())).sum().backward();
        let factors = wide(&at_output);
        let loss = |images: &[f64], weights: &[f64], bias: &[f64]| -> f64 {
            case.definition(images, weights, bias).iter().zip(&factors).map(|(value, factor)| value * factor).sum()
        };
        let found = |gradient: Option<Tensor<4>>| values(gradient.unwrap());
        let of_images = slopes(&images, |images| loss(images, &weights, &bias));
        assert_slopes(&found(input.grad(&gradients)), &of_images, &what("gradient at the images"));
        let of_weights = slopes(&weights, |weights| loss(&images, weights, &bias));
        assert_slopes(&found(layer.weight.grad(&gradients)), &of_weights, &what("gradient at the weights"));
        let of_bias = slopes(&bias, |bias| loss(&images, &weights, bias));
        let found = values(layer.bias.unwrap().grad(&gradients).unwrap());
        assert_slopes(&found, &of_bias, &what("gradient at the bias"));
    }
}

#[test]
fn a_convolution_without_bias_is_the_librarys_own() {
    let layer = Conv2dConfig::new([20, 24], [3, 3]).with_stride([2, 2]).with_bias(false).init(&device());
    let images = tensor(&numbers(2 * 20 * 11 * 8, 7), [2, 20, 11, 8]);
    let expected = values(layer.forward(images.clone()));
    let found = values(ops::channels_first(ops::conv2d(&layer, ops::channels_last(images))));
    assert_near(&found, &wide(&expected), "output");
}

#[test]
fn linear_layers_are_the_librarys_own() {
    for (rows, inputs, outputs) in [(1, 1, 1), (5, 70, 10), (33, 7, 130), (300, 40, 17)] {
        let layer = LinearConfig::new(inputs, outputs).init(&device());
        let input = tensor(&numbers(rows * inputs, 1), [rows, inputs]).require_grad();
        let factors = tensor(&numbers(rows * outputs, 2), [rows, outputs]);
        let compute = |output: Tensor<2>| {
            let gradients = (output.clone() * factors.clone()).sum().backward();
            [
                values(output.inner()),
                values(input.grad(&gradients).unwrap()),
                values(layer.weight.grad(&gradients).unwrap()),
                values(layer.bias.as_ref().unwrap().grad(&gradients).unwrap()),
            ]
        };
        let expected = compute(layer.forward(input.clone()));
        let found = compute(ops::linear(&layer, input.clone()));
        for (found, expected) in found.iter().zip(&expected) {
            assert_near(found, &wide(expected), &format!("{rows} rows, {inputs} inputs, {outputs} outputs"));
        }
    }
}

fn pools() -> Vec<MaxPool2d> {
    let padded = |padding| PaddingConfig2d::Explicit(padding, padding, padding, padding);
    vec![
        MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init(),
        MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_padding(padded(1)).init(),
        MaxPool2dConfig::new([3, 3]).with_strides([2, 2]).with_ceil_mode(true).init(),
        MaxPool2dConfig::new([2, 3]).with_strides([1, 3]).with_padding(padded(1)).with_ceil_mode(true).init(),
        MaxPool2dConfig::new([2, 2]).with_strides([3, 1]).with_dilation([2, 3]).init(),
        MaxPool2dConfig::new([2, 1]).with_strides([3, 2]).with_padding(padded(1)).init(),
    ]
}

#[test]
fn largest_values_and_their_gradients_are_the_librarys_own() {
    for pool in pools() {
        for shape in
            [[2, 3, 9, 7], [1, 17, 8, 8], [3, 1, 5, 12], [2, 6, 8, 6], [2, 8, 4, 5], [1, 11, 7, 9], [2, 16, 6, 4]]
        {
            // Without equal values, whose gradient goes to one of them.
            let input = tensor(&numbers(shape.iter().product(), 9), shape).require_grad();
            let expected = pool.forward(input.clone());
            let found = ops::channels_first(ops::max_pool2d(&pool, ops::channels_last(input.clone())));
            assert_eq!(found.dims(), expected.dims(), "{pool:?}");
            let factors = tensor(&numbers(expected.dims().iter().product(), 3), expected.dims());
            let gradient =
                |output: Tensor<4>| values(input.grad(&(output * factors.clone()).sum().backward()).unwrap());
            assert_eq!(values(found.clone().inner()), values(expected.clone().inner()), "{pool:?}");
            assert_near(&gradient(found), &wide(&gradient(expected)), &format!("{pool:?}"));
        }
    }
}

#[test]
fn the_first_of_equal_values_gets_the_gradient_and_what_is_no_number_stays() {
    let pool = MaxPool2dConfig::new([2, 2]).with_strides([2, 2]).init();
    let input = tensor(&[1.0, 1.0, 1.0, 1.0], [1, 2, 2, 1]).require_grad();
    let gradients = ops::max_pool2d(&pool, input.clone()).sum().backward();
    assert_eq!(values(input.grad(&gradients).unwrap()), [1.0, 0.0, 0.0, 0.0]);
    let input = tensor(&[1.0, f32::NAN, 2.0, 0.0], [1, 2, 2, 1]);
    assert!(values(ops::max_pool2d(&pool, input))[0].is_nan());
}

fn norm(channels: usize) -> BatchNorm {
    let mut norm = BatchNormConfig::new(channels).with_epsilon(1e-3).with_momentum(0.3).init(&device());
    norm.gamma = norm.gamma.map(|_| tensor(&numbers(channels, 5), [channels]).require_grad());
    norm.beta = norm.beta.map(|_| tensor(&numbers(channels, 6), [channels]).require_grad());
    norm
}

#[test]
fn normalisations_their_gradients_and_statistics_are_the_librarys_own() {
    for shape in [[2, 3, 5, 4], [1, 17, 1, 9], [5, 40, 16, 16]] {
        for rectified in [false, true] {
            let (ours, theirs) = (norm(shape[1]), norm(shape[1]));
            let input = tensor(&numbers(shape.iter().product(), 8), shape).require_grad();
            let factors = tensor(&numbers(shape.iter().product(), 3), shape);
            let compute = |norm: &BatchNorm, output: Tensor<4>| {
                let gradients = (output.clone() * factors.clone()).sum().backward();
                [
                    values(output.inner()),
                    values(input.grad(&gradients).unwrap()),
                    values(norm.gamma.grad(&gradients).unwrap()),
                    values(norm.beta.grad(&gradients).unwrap()),
                    values(norm.running_mean.value_sync()),
                    values(norm.running_var.value_sync()),
                ]
            };
            let last = ops::channels_last(input.clone());
            let (found, expected) = if rectified {
                let relu = burn::tensor::activation::relu::<4>;
                (ops::batch_norm_relu(&ours, last), relu(theirs.forward(input.clone())))
            } else {
                (ops::batch_norm(&ours, last), theirs.forward(input.clone()))
            };
            let found = compute(&ours, ops::channels_first(found));
            let expected = compute(&theirs, expected);
            for (part, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // The library sums in another order, and squares of deviations in f32.
                let scaled: Vec<f32> = found.iter().map(|value| value / 10.0).collect();
                let expected: Vec<f64> = wide(expected).iter().map(|value| value / 10.0).collect();
                assert_near(&scaled, &expected, &format!("part {part} for {shape:?}"));
            }
        }
    }
}

#[test]
fn averages_and_scaled_channels_have_the_librarys_gradients() {
    let shape = [3, 5, 4, 7];
    let input = tensor(&numbers(shape.iter().product(), 1), shape).require_grad();
    let factors = tensor(&numbers(3 * 7, 2), [3, 7]).require_grad();
    let at_average = tensor(&numbers(3 * 7, 3), [3, 7]);
    let at_output = tensor(&numbers(shape.iter().product(), 4), shape);
    let compute = |average: Tensor<2>, scaled: Tensor<4>| {
        let gradients = ((average * at_average.clone()).sum() + (scaled * at_output.clone()).sum()).backward();
        [values(input.grad(&gradients).unwrap()), values(factors.grad(&gradients).unwrap())]
    };
    let mean = input.clone().reshape([3, 20, 7]).mean_dim(1).reshape([3, 7]);
    let expected = compute(mean, input.clone() * factors.clone().reshape([3, 1, 1, 7]));
    let found = compute(ops::global_average(input.clone()), ops::scale_channels(input.clone(), factors.clone()));
    for (found, expected) in found.iter().zip(&expected) {
        assert_near(found, &wide(expected), "gradient");
    }
}
