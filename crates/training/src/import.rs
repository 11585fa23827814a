//! Weights of other programs: safetensors with the names and shapes of torchvision's model definitions.

use std::collections::BTreeSet;

use peerless_protocol::{Layout, LayoutEntry};
use safetensors::{Dtype, SafeTensors};
use thiserror::Error;

/// Why a file's weights cannot be taken over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ImportError {
    /// Not in safetensors' format, or cut off.
    #[error("the weights are not in safetensors' format: {0}")]
    Format(String),
    /// A tensor of the model that the file lacks.
    #[error("the weights lack {name}, of shape {shape:?}; are they of another model or other classes?")]
    Missing {
        /// Its name in the file.
        name: String,
        /// The shape that it should have.
        shape: Vec<usize>,
    },
    /// A tensor of another shape.
    #[error("{name} has shape {found:?} in the weights, the model takes {expected:?}")]
    Shape {
        /// Its name in the file.
        name: String,
        /// Its shape in the file.
        found: Vec<usize>,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// A tensor of other numbers than f32.
    #[error("{name} is of type {found} in the weights; save them as F32")]
    Type {
        /// Its name in the file.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor that the model does not have.
    #[error("the weights have {name}, which the model has not; are they of another model?")]
    Unknown {
        /// Its name in the file.
        name: String,
    },
}

/// The flat vector; `reference_name` gives the file's name of a layer.
pub(crate) fn import(
    layout: &Layout,
    reference_name: fn(&str) -> String,
    file: &[u8],
) -> Result<Vec<f32>, ImportError> {
    let tensors = SafeTensors::deserialize(file).map_err(|error| ImportError::Format(error.to_string()))?;
    let mut values = Vec::with_capacity(layout.elements() as usize);
    let mut taken = BTreeSet::new();
    for entry in &layout.entries {
        let name = name(entry, reference_name);
        values.extend(tensor(&tensors, entry, &name)?);
        taken.insert(name);
    }
    let unknown = |name: &&str| !taken.contains(*name) && !name.ends_with("num_batches_tracked");
    match tensors.names().into_iter().find(unknown) {
        Some(name) => Err(ImportError::Unknown { name: name.to_owned() }),
        None => Ok(values),
    }
}

/// The name of a tensor in the file: that of its layer there, and the part's name there.
fn name(entry: &LayoutEntry, reference_name: fn(&str) -> String) -> String {
    let (layer, part) = entry.name.rsplit_once('.').unwrap_or(("", &entry.name));
    let part = match part {
        "gamma" => "weight",
        "beta" => "bias",
        other => other,
    };
    format!("{}.{part}", reference_name(layer)).trim_start_matches('.').to_owned()
}

fn tensor(tensors: &SafeTensors<'_>, entry: &LayoutEntry, name: &str) -> Result<Vec<f32>, ImportError> {
    let mut expected: Vec<usize> = entry.shape.iter().map(|&side| side as usize).collect();
    expected = if expected.len() == 2 { vec![expected[1], expected[0]] } else { expected };
    let Ok(found) = tensors.tensor(name) else {
        return Err(ImportError::Missing { name: name.to_owned(), shape: expected });
    };
    if found.dtype() != Dtype::F32 {
        return Err(ImportError::Type { name: name.to_owned(), found: format!("{:?}", found.dtype()) });
    }
    if found.shape() != expected {
        return Err(ImportError::Shape { name: name.to_owned(), found: found.shape().to_vec(), expected });
    }
    let (words, _) = found.data().as_chunks::<4>();
    let values: Vec<f32> = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
    Ok(match expected[..] {
        [outputs, inputs] => transposed(&values, outputs, inputs),
        _ => values,
    })
}

/// [outputs, inputs] as [inputs, outputs].
fn transposed(values: &[f32], outputs: usize, inputs: usize) -> Vec<f32> {
    (0..inputs).flat_map(|input| (0..outputs).map(move |output| values[output * inputs + input])).collect()
}
