//! A matrix product with a bias, and its gradients.

use super::kernels::{Packed, Rows, products};
use super::outer::outer_products;

/// So many rows of inputs to rows of outputs. Weights are [inputs, outputs].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Linear {
    pub(super) rows: usize,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
}

impl Linear {
    /// Rows and columns of the result.
    pub(super) fn output(&self) -> [usize; 2] {
        [self.rows, self.outputs]
    }

    fn bases(&self, length: usize) -> Vec<usize> {
        (0..self.rows).map(|row| row * length).collect()
    }

    /// The positive part of the result if `rectified`.
    pub(super) fn forward(&self, values: &[f32], weights: &[f32], bias: Option<&[f32]>, rectified: bool) -> Vec<f32> {
        let starts: Vec<usize> = (0..self.inputs).map(|input| input * self.outputs).collect();
        let matrix = Packed::new(weights, &starts, self.outputs, 1);
        let mut out = vec![0.0; self.rows * self.outputs];
        products(rows(values, &self.bases(self.inputs), self.inputs), &matrix, bias, rectified, &mut out);
        out
    }

    /// The gradient at the inputs.
    pub(super) fn input_gradient(&self, weights: &[f32], gradient: &[f32]) -> Vec<f32> {
        let starts: Vec<usize> = (0..self.outputs).collect();
        let matrix = Packed::new(weights, &starts, self.inputs, self.outputs);
        let mut out = vec![0.0; self.rows * self.inputs];
        products(rows(gradient, &self.bases(self.outputs), self.outputs), &matrix, None, false, &mut out);
        out
    }

    /// The gradient at the weights.
    pub(super) fn weight_gradient(&self, values: &[f32], gradient: &[f32]) -> Vec<f32> {
        let bases = self.bases(self.outputs);
        let sums = outer_products(rows(gradient, &bases, self.outputs), values, self.inputs);
        let mut out = vec![0.0; self.inputs * self.outputs];
        sums.each(|input, output, sums| out[input * self.outputs + output..][..sums.len()].copy_from_slice(sums));
        out
    }
}

/// Rows of so many neighbouring numbers.
fn rows<'a>(values: &'a [f32], bases: &'a [usize], length: usize) -> Rows<'a> {
    Rows { values, bases, offsets: &[0], run: length }
}
