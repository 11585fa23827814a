//! Forward outputs of the models against those of torchvision's definitions, for weights that come through
//! safetensors. `reference/make.py` wrote the outputs; the weights are computed here again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::Path;

use peerless_training::{ImportError, Model};
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::Value;

/// Largest difference of a logit, as a part of the largest logit. Sums of thousands of products in f32, in another
/// order of summation, through up to 121 layers.
const TOLERANCE: f64 = 2e-5;

struct Reference {
    model: String,
    input: [usize; 3],
    classes: usize,
    parameters: u64,
    images: usize,
    logits: Vec<f64>,
    tensors: Vec<(String, Vec<usize>)>,
}

impl Reference {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/reference/{name}.json"));
        let read: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let numbers = |value: &Value| -> Vec<usize> {
            value.as_array().unwrap().iter().map(|side| side.as_u64().unwrap() as usize).collect()
        };
        let rows = read["logits"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        let tensors = read["tensors"].as_array().unwrap().iter();
        Self {
            model: read["model"].as_str().unwrap().to_owned(),
            input: numbers(&read["input"]).try_into().unwrap(),
            classes: read["classes"].as_u64().unwrap() as usize,
            parameters: read["parameters"].as_u64().unwrap(),
            images: read["images"].as_u64().unwrap() as usize,
            logits: rows.map(|logit| logit.as_f64().unwrap()).collect(),
            tensors: tensors.map(|entry| (entry[0].as_str().unwrap().to_owned(), numbers(&entry[1]))).collect(),
        }
    }

    fn model(&self) -> Model {
        Model::fitting(&self.model, self.input, self.classes).unwrap()
    }

    /// The weights as torchvision would have saved them.
    fn file(&self) -> Vec<u8> {
        safetensors(&self.tensors.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect::<Vec<_>>())
    }
}

fn safetensors(tensors: &[(&str, Vec<usize>)]) -> Vec<u8> {
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(name, shape)| values(name, shape)).collect();
    let mut views = Vec::new();
    for ((name, shape), bytes) in tensors.iter().zip(&bytes) {
        views.push((*name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    }
    serialize(views, None).unwrap()
}

/// As `uniform` in `make.py`.
fn uniform(name: &str, count: usize) -> impl Iterator<Item = f32> {
    let mut crc = flate2::Crc::new();
    crc.update(name.as_bytes());
    let seed = crc.sum();
    (0..count as u32).map(move |index| {
        let mut x = index.wrapping_mul(2_654_435_761).wrapping_add(seed);
        for _ in 0..2 {
            x = (x ^ (x >> 16)).wrapping_mul(0x045D_9F3B);
        }
        x ^= x >> 16;
        (x >> 8) as f32 / (1 << 24) as f32
    })
}

/// As `values` in `make.py`, as little-endian bytes.
fn values(name: &str, shape: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let (base, scale, shift) = match name.rsplit('.').next() {
        Some("running_var") => (0.75, 0.5, 0.0),
        _ if shape.len() > 1 => (0.0, (2.0 * (6.0 / (count / shape[0]) as f64).sqrt()) as f32, 0.5),
        Some("weight") => (0.9, 0.2, 0.0),
        _ => (0.0, 0.2, 0.5),
    };
    uniform(name, count).flat_map(|u| (base + (u - shift) * scale).to_le_bytes()).collect()
}

fn forward_agrees(name: &str) {
    let reference = Reference::read(name);
    let mut model = reference.model();
    assert_eq!(model.layout().parameters(), reference.parameters);
    let weights = model.import(&reference.file()).unwrap();
    let pixels = reference.images * reference.input.iter().product::<usize>();
    let logits = model.predict(&weights, uniform("images", pixels).map(|u| u * 2.0 - 1.0).collect()).unwrap();
    assert_eq!(logits.len(), reference.logits.len());
    let largest = reference.logits.iter().fold(0.0_f64, |largest, logit| largest.max(logit.abs()));
    let differences =
        logits.iter().zip(&reference.logits).map(|(&found, &expected)| (f64::from(found) - expected).abs());
    let worst = differences.fold(0.0, f64::max) / largest;
    println!("{name}: logits differ by at most {worst:.1e} of the largest, {largest:.2}");
    assert!(worst < TOLERANCE, "{name}: logits differ by {worst:.1e} of the largest, {largest}: {logits:?}");
}

#[test]
fn squeezenet_computes_what_its_reference_does() {
    forward_agrees("squeezenet1.1-32");
    forward_agrees("squeezenet1.1-224");
}

#[test]
fn mobilenet_computes_what_its_reference_does() {
    forward_agrees("mobilenet-v3-small-32");
    forward_agrees("mobilenet-v3-small-224");
}

#[test]
fn resnet_computes_what_its_reference_does_with_both_stems() {
    forward_agrees("resnet18-32");
    forward_agrees("resnet18-224");
}

#[test]
fn densenet_computes_what_its_reference_does() {
    forward_agrees("densenet121-32");
    forward_agrees("densenet121-224");
}

#[test]
fn vgg_computes_what_its_reference_does() {
    forward_agrees("vgg11-32");
}

#[test]
fn weights_that_do_not_fit_are_refused_with_the_tensor_that_does_not() {
    let reference = Reference::read("squeezenet1.1-32");
    let model = reference.model();
    let shapes = || reference.tensors.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect::<Vec<_>>();
    let refused = |tensors: &[(&str, Vec<usize>)]| model.import(&safetensors(tensors)).unwrap_err();

    let lacking: Vec<_> = shapes().into_iter().filter(|(name, _)| *name != "features.3.squeeze.bias").collect();
    let (name, shape) = ("features.3.squeeze.bias".to_owned(), vec![16]);
    assert_eq!(refused(&lacking), ImportError::Missing { name: name.clone(), shape });
    let mut wrong = lacking.clone();
    wrong.push(("features.3.squeeze.bias", vec![17]));
    assert_eq!(refused(&wrong), ImportError::Shape { name, found: vec![17], expected: vec![16] });
    let mut more = shapes();
    more.push(("fc.weight", vec![2, 2]));
    assert_eq!(refused(&more), ImportError::Unknown { name: "fc.weight".into() });
    more.pop();
    more.push(("features.1.num_batches_tracked", vec![]));
    assert!(model.import(&safetensors(&more)).is_ok(), "a count of batches is no weight");

    let file = reference.file();
    for length in [0, 7, 100, file.len() - 1] {
        assert!(matches!(model.import(&file[..length]), Err(ImportError::Format(_))), "{length} bytes were enough");
    }
    let half = TensorView::new(Dtype::F16, vec![64, 3, 3, 3], &[0; 3456]).unwrap();
    let error = model.import(&serialize([("features.0.weight", half)], None).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "features.0.weight is of type F16 in the weights; save them as F32");
}
