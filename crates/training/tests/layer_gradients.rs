//! Results and gradients of every layer that the built-in models are made of against PyTorch's: the own ones of `ops`,
//! and those of the tensor library as the models use them. `reference/make_layers.py` wrote the results; inputs,
//! parameters and the factors of the results' sum are computed here again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::module::{Module, Param};
use burn::nn::conv::Conv2dConfig;
use burn::nn::pool::{AdaptiveAvgPool2dConfig, AvgPool2dConfig, MaxPool2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::{Gradients, Tensor, activation};
use common::{device, numbers, tensor, values};
use peerless_training::burn;
use peerless_training::ops;
use serde_json::Value;

/// Largest difference of a value, as a part of the largest one of its tensor: sums of up to some hundred products in
/// `f32`, beside sums in `f64`.
const TOLERANCE: f64 = 2e-6;

/// Which numbers are used for what; the same in `make_layers.py`.
mod seed {
    pub const WEIGHT: u32 = 1;
    pub const INPUT: u32 = 2;
    pub const BIAS: u32 = 3;
    pub const FACTORS: u32 = 4;
    pub const OTHER: u32 = 5;
    pub const MEAN: u32 = 6;
    pub const VARIANCE: u32 = 7;
}

/// A layer's description in the reference file, with PyTorch's results.
struct Case(Value);

impl Case {
    fn sizes<const N: usize>(&self, name: &str) -> [usize; N] {
        let sizes = self.0[name].as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize);
        sizes.collect::<Vec<_>>().try_into().unwrap()
    }

    fn size(&self, name: &str) -> usize {
        self.0[name].as_u64().unwrap() as usize
    }

    fn number(&self, name: &str) -> f64 {
        self.0[name].as_f64().unwrap()
    }

    fn is(&self, name: &str) -> bool {
        self.0[name].as_bool().unwrap()
    }

    /// Top, left, bottom, right; or height and width, the same on both sides; or as much as keeps the size.
    fn padding(&self) -> PaddingConfig2d {
        match self.0["padding"].as_array().map(Vec::len) {
            Some(2) => {
                let [height, width] = self.sizes("padding");
                PaddingConfig2d::Explicit(height, width, height, width)
            }
            Some(_) => {
                let [top, left, bottom, right] = self.sizes("padding");
                PaddingConfig2d::Explicit(top, left, bottom, right)
            }
            None => PaddingConfig2d::Same,
        }
    }

    /// The input, stretched, or in whole steps so that many values are the same.
    fn given<const D: usize>(&self) -> Tensor<D> {
        let shape = self.sizes("shape");
        let mut input = numbers(shape.iter().product(), seed::INPUT);
        if let Some(steps) = self.0["steps"].as_f64() {
            input.iter_mut().for_each(|value| *value = (*value * steps as f32).floor());
        }
        if let Some(times) = self.0["times"].as_f64() {
            input.iter_mut().for_each(|value| *value *= times as f32);
        }
        tensor(&input, shape).require_grad()
    }

    fn expected(&self) -> BTreeMap<String, Vec<f64>> {
        let numbers = |values: &Value| values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        self.0["values"].as_object().unwrap().iter().map(|(name, values)| (name.clone(), numbers(values))).collect()
    }

    /// All but the results.
    fn description(&self) -> String {
        let mut described = self.0.clone();
        described.as_object_mut().unwrap().remove("values");
        described.to_string()
    }
}

/// The cases of the reference file.
fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reference/layers.json");
    let mut read: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    read["cases"].as_array_mut().unwrap().drain(..).map(Case).collect()
}

fn layer_of(case: &Case) -> &str {
    case.0["layer"].as_str().unwrap()
}

/// What was computed here, under the names of the reference file.
struct Results {
    values: BTreeMap<String, Vec<f32>>,
    gradients: Gradients,
}

impl Results {
    /// Differentiates the sum of results times factors.
    fn of<const D: usize>(output: Tensor<D>) -> Self {
        let shape = output.dims();
        let factors = tensor(&numbers(shape.iter().product(), seed::FACTORS), shape);
        let gradients = (output.clone() * factors).sum().backward();
        Self { values: BTreeMap::from([("output".to_owned(), values(output.inner()))]), gradients }
    }

    fn with_gradient<const D: usize>(mut self, name: &str, at: &Tensor<D>) -> Self {
        let gradient = at.grad(&self.gradients).expect("the output depends on it");
        self.values.insert(format!("gradient at the {name}"), values(gradient));
        self
    }
}

type Found = BTreeMap<String, Vec<f32>>;

fn parameter<const D: usize>(seed: u32, shape: [usize; D]) -> Tensor<D> {
    tensor(&numbers(shape.iter().product(), seed), shape).require_grad()
}

fn with_parameters<const D: usize>(
    results: Results,
    weight: Param<Tensor<D>>,
    bias: Option<Param<Tensor<1>>>,
) -> Found {
    let results = results.with_gradient("weight", &weight.val());
    bias.into_iter().fold(results, |results, bias| results.with_gradient("bias", &bias.val())).values
}

fn conv2d(case: &Case) -> Found {
    let (input, [_, channels, ..]) = (case.given(), case.sizes::<4>("shape"));
    let mut layer = Conv2dConfig::new([channels, case.size("outputs")], case.sizes("kernel"))
        .with_stride(case.sizes("stride"))
        .with_padding(case.padding())
        .with_dilation(case.sizes("dilation"))
        .with_groups(case.size("groups"))
        .with_bias(case.is("bias"))
        .init(&device());
    layer.weight = layer.weight.map(|weight| parameter(seed::WEIGHT, weight.dims()));
    layer.bias = layer.bias.map(|bias| bias.map(|bias| parameter(seed::BIAS, bias.dims())));
    let compute = if case.is("relu") { ops::conv2d_relu } else { ops::conv2d };
    let results = Results::of(ops::channels_first(compute(&layer, ops::channels_last(input.clone()))));
    with_parameters(results.with_gradient("input", &input), layer.weight, layer.bias)
}

fn linear(case: &Case) -> Found {
    let (input, [_, inputs]) = (case.given(), case.sizes("shape"));
    let mut layer = LinearConfig::new(inputs, case.size("outputs")).with_bias(case.is("bias")).init(&device());
    layer.weight = layer.weight.map(|weight| parameter(seed::WEIGHT, weight.dims()));
    layer.bias = layer.bias.map(|bias| bias.map(|bias| parameter(seed::BIAS, bias.dims())));
    let compute = if case.is("relu") { ops::linear_relu } else { ops::linear };
    let results = Results::of(compute(&layer, input.clone()));
    with_parameters(results.with_gradient("input", &input), layer.weight, layer.bias)
}

/// For layers without parameters, on images with their channels first.
fn of_input<const D: usize>(case: &Case, layer: impl Fn(Tensor<4>) -> Tensor<D>) -> Found {
    let input = case.given();
    Results::of(layer(input.clone())).with_gradient("input", &input).values
}

fn max_pool2d(case: &Case) -> Found {
    let pool = MaxPool2dConfig::new(case.sizes("kernel"))
        .with_strides(case.sizes("stride"))
        .with_padding(case.padding())
        .with_dilation(case.sizes("dilation"))
        .with_ceil_mode(case.is("ceil_mode"))
        .init();
    let compute = if case.is("relu") { ops::max_pool2d_relu } else { ops::max_pool2d };
    of_input(case, |images| ops::channels_first(compute(&pool, ops::channels_last(images))))
}

fn avg_pool2d(case: &Case) -> Found {
    let pool = AvgPool2dConfig::new(case.sizes("kernel")).with_strides(case.sizes("stride")).init();
    of_input(case, |images| pool.forward(images))
}

fn adaptive_avg_pool2d(case: &Case) -> Found {
    let pool = AdaptiveAvgPool2dConfig::new(case.sizes("size")).init();
    of_input(case, |images| pool.forward(images))
}

fn global_average(case: &Case) -> Found {
    of_input(case, |images| ops::global_average(ops::channels_last(images)))
}

fn flatten(case: &Case) -> Found {
    of_input(case, |images| ops::flatten(ops::channels_last(images)))
}

fn relu(case: &Case) -> Found {
    of_input(case, activation::relu)
}

fn hard_sigmoid(case: &Case) -> Found {
    of_input(case, |x| activation::hard_sigmoid(x, 1.0 / 6.0, 0.5))
}

/// As MobileNetV3 has it.
fn hard_swish(case: &Case) -> Found {
    of_input(case, |x| x.clone() * activation::hard_sigmoid(x, 1.0 / 6.0, 0.5))
}

fn scale_channels(case: &Case) -> Found {
    let (input, [batch, channels, ..]) = (case.given(), case.sizes::<4>("shape"));
    let other = parameter(seed::OTHER, [batch, channels]);
    let output = ops::scale_channels(ops::channels_last(input.clone()), other.clone());
    Results::of(ops::channels_first(output)).with_gradient("input", &input).with_gradient("other", &other).values
}

/// As SqueezeNet and DenseNet have it: of channels, which are last.
fn concatenation(case: &Case) -> Found {
    let (input, [batch, _, height, width]) = (case.given(), case.sizes("shape"));
    let other = parameter(seed::OTHER, [batch, case.size("channels"), height, width]);
    let parts = [&input, &other].map(|part| ops::channels_last(part.clone()));
    let output = ops::channels_first(Tensor::cat(parts.into(), 3));
    Results::of(output).with_gradient("input", &input).with_gradient("other", &other).values
}

fn norm(case: &Case) -> BatchNorm {
    let [_, channels, ..] = case.sizes::<4>("shape");
    let config = BatchNormConfig::new(channels);
    let mut norm = config.with_epsilon(case.number("epsilon")).with_momentum(case.number("momentum")).init(&device());
    norm.gamma = norm.gamma.map(|_| parameter(seed::WEIGHT, [channels]));
    norm.beta = norm.beta.map(|_| parameter(seed::BIAS, [channels]));
    norm.running_mean.update(tensor(&numbers(channels, seed::MEAN), [channels]));
    norm.running_var.update(tensor(&numbers(channels, seed::VARIANCE), [channels]) + 1.5);
    norm
}

fn batch_norm(case: &Case) -> Found {
    let (input, other) = (case.given::<4>(), parameter(seed::OTHER, case.sizes("shape")));
    let layer = norm(case);
    if !case.is("training") {
        // Without automatic differentiation, with the running statistics.
        let output = normalised(case, &layer.valid(), input.inner(), other.inner());
        return Found::from([("output".into(), values(output))]);
    }
    let mut results = Results::of(normalised(case, &layer, input.clone(), other.clone()));
    if case.is("residual") {
        results = results.with_gradient("other", &other);
    }
    with_statistics(case, results.with_gradient("input", &input), &layer)
}

/// With or without the sum and the rectification behind it.
fn normalised(case: &Case, layer: &BatchNorm, input: Tensor<4>, other: Tensor<4>) -> Tensor<4> {
    let last = ops::channels_last(input);
    ops::channels_first(match (case.is("relu"), case.is("residual")) {
        (false, false) => ops::batch_norm(layer, last),
        (true, false) => ops::batch_norm_relu(layer, last),
        (true, true) => ops::batch_norm_add_relu(layer, last, ops::channels_last(other)),
        (false, true) => panic!("no such layer"),
    })
}

fn with_statistics(case: &Case, results: Results, layer: &BatchNorm) -> Found {
    let results = results.with_gradient("weight", &layer.gamma.val()).with_gradient("bias", &layer.beta.val());
    let mut found = results.values;
    found.insert("running mean".into(), values(layer.running_mean.value_sync()));
    // PyTorch folds in an estimate of the population's variance; these layers, as the tensor library's, the batch's.
    let [batch, channels, height, width] = case.sizes::<4>("shape").map(|size| size as f64);
    let (count, kept) = (batch * height * width, 1.0 - case.number("momentum"));
    let before = numbers(channels as usize, seed::VARIANCE).into_iter().map(|value| kept * (f64::from(value) + 1.5));
    let after = values(layer.running_var.value_sync()).into_iter().map(f64::from);
    let estimate = |(after, before): (f64, f64)| (before + (after - before) * count / (count - 1.0)) as f32;
    found.insert("running variance".into(), after.zip(before).map(estimate).collect());
    found
}

fn assert_agree(case: &Case, found: &Found) -> f64 {
    let (expected, what) = (case.expected(), case.description());
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    let mut worst = 0.0_f64;
    for (name, expected) in &expected {
        let found = &found[name];
        assert_eq!(found.len(), expected.len(), "{name} of {what}");
        let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let difference = (f64::from(*found) - expected).abs();
            let near = difference <= TOLERANCE * largest;
            assert!(near, "{name} of {what}: element {index} is {found}, in PyTorch {expected}");
            worst = worst.max(difference / largest.max(f64::MIN_POSITIVE));
        }
    }
    worst
}

fn assert_layer_agrees(layer: &str, compute: fn(&Case) -> Found) {
    let cases: Vec<Case> = cases().into_iter().filter(|case| layer_of(case) == layer).collect();
    assert!(!cases.is_empty(), "no case of {layer}");
    let worst = cases.iter().map(|case| assert_agree(case, &compute(case))).fold(0.0, f64::max);
    println!("{layer}: {} cases, values differ by at most {worst:.1e} of the largest", cases.len());
}

/// A test for each layer, by the name it has in the reference file.
macro_rules! layers {
    ($($layer:ident),*) => {
        const LAYERS: &[&str] = &[$(stringify!($layer)),*];

        mod agrees_with_pytorch {
            $(#[test]
            fn $layer() {
                super::assert_layer_agrees(stringify!($layer), super::$layer);
            })*
        }
    };
}

layers!(
    conv2d,
    linear,
    max_pool2d,
    avg_pool2d,
    adaptive_avg_pool2d,
    global_average,
    scale_channels,
    batch_norm,
    relu,
    hard_sigmoid,
    hard_swish,
    concatenation,
    flatten
);

#[test]
fn no_case_of_the_reference_is_left_out() {
    let (cases, tested) = (cases(), LAYERS.iter().copied().collect::<BTreeSet<_>>());
    assert_eq!(cases.iter().map(layer_of).collect::<BTreeSet<_>>(), tested);
}
