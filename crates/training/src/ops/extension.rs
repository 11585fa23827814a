//! The layers as operations of the tensor library, with derivatives of their own.

use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, Backend, Flex, TensorMetadata, backend_extension};
use burn::tensor::TensorData;
use rayon::prelude::*;

use super::channels;
use super::conv::Convolution;
use super::depthwise::Depthwise;
use super::geometry::{Shape, Window};
use super::linear::Linear;
use super::norm::{Normalisation, Statistics};
use super::pool::{MaxPool, Pooled};
use super::sums;
use super::vectorised::{mask, vectorised};

/// Layers of channels-last images. Images are [batch, height, width, channels]. A bias of no numbers is none; of what is
/// `rectified`, the result is the positive part.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Layers: Backend {
    /// Weights are [outputs, inputs, height, width].
    fn convolve(
        images: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        rectified: bool,
    ) -> FloatTensor<Self>;

    /// Each channel by itself; weights are [channels, 1, height, width].
    fn convolve_depthwise(
        images: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        rectified: bool,
    ) -> FloatTensor<Self>;

    /// Weights are [inputs, outputs].
    fn multiply(
        rows: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        rectified: bool,
    ) -> FloatTensor<Self>;

    fn largest(images: FloatTensor<Self>, pool: MaxPool) -> FloatTensor<Self>;

    /// The mean of each channel of each image: [batch, channels].
    fn average(images: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Each channel of each image times its factor; factors are [batch, channels].
    fn scale(images: FloatTensor<Self>, factors: FloatTensor<Self>) -> FloatTensor<Self>;

    /// Output, mean and variance. What is `added` to the normalised images are images, or no numbers.
    fn normalise(
        images: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        added: FloatTensor<Self>,
        layer: Normalisation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

type Primitive = FloatTensor<Flex>;

/// Numbers of one piece of parallel work.
const PIECE: usize = 1 << 16;

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Primitive {
    Flex::float_from_data(TensorData::new(values, shape), &Default::default())
}

fn shape<const D: usize>(tensor: &Primitive) -> [usize; D] {
    tensor.shape().dims()
}

impl Layers for Flex {
    fn convolve(images: Primitive, weights: Primitive, bias: Primitive, window: Window, rectified: bool) -> Primitive {
        Convolved::new(images, weights, window).forward(&bias, rectified)
    }

    fn convolve_depthwise(
        images: Primitive,
        weights: Primitive,
        bias: Primitive,
        window: Window,
        rectified: bool,
    ) -> Primitive {
        ConvolvedDepthwise::new(images, weights, window).forward(&bias, rectified)
    }

    fn multiply(rows: Primitive, weights: Primitive, bias: Primitive, rectified: bool) -> Primitive {
        Multiplied::new(rows, weights).forward(&bias, rectified)
    }

    fn largest(images: Primitive, pool: MaxPool) -> Primitive {
        largest(images, pool).0
    }

    fn average(images: Primitive) -> Primitive {
        Averaged { input: shape(&images) }.forward(images)
    }

    fn scale(images: Primitive, factors: Primitive) -> Primitive {
        Scaled::new(images, factors).forward()
    }

    fn normalise(
        images: Primitive,
        gamma: Primitive,
        beta: Primitive,
        added: Primitive,
        layer: Normalisation,
    ) -> (Primitive, Primitive, Primitive) {
        let normalised = normalise(images, gamma, &beta, &added, layer);
        let (mean, variance) = normalised.statistics();
        (normalised.output, mean, variance)
    }
}

impl<C: CheckpointStrategy> Layers for Autodiff<Flex, C> {
    fn convolve(
        images: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        rectified: bool,
    ) -> FloatTensor<Self> {
        let ((images, of_images), (weights, of_weights)) = (images.into_parts(), weights.into_parts());
        let layer = Convolved::new(images, weights, window);
        let (bias, of_bias) = bias.into_parts();
        let output = layer.forward(&bias, rectified);
        record::<C, _, 3>([of_images, of_weights, of_bias], output.clone(), layer.recorded(output, rectified))
    }

    fn convolve_depthwise(
        images: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        window: Window,
        rectified: bool,
    ) -> FloatTensor<Self> {
        let ((images, of_images), (weights, of_weights)) = (images.into_parts(), weights.into_parts());
        let layer = ConvolvedDepthwise::new(images, weights, window);
        let (bias, of_bias) = bias.into_parts();
        let output = layer.forward(&bias, rectified);
        record::<C, _, 3>([of_images, of_weights, of_bias], output.clone(), layer.recorded(output, rectified))
    }

    fn multiply(
        rows: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        rectified: bool,
    ) -> FloatTensor<Self> {
        let ((rows, of_rows), (weights, of_weights)) = (rows.into_parts(), weights.into_parts());
        let layer = Multiplied::new(rows, weights);
        let (bias, of_bias) = bias.into_parts();
        let output = layer.forward(&bias, rectified);
        record::<C, _, 3>([of_rows, of_weights, of_bias], output.clone(), layer.recorded(output, rectified))
    }

    fn largest(images: FloatTensor<Self>, pool: MaxPool) -> FloatTensor<Self> {
        let (images, of_images) = images.into_parts();
        let (output, pooled) = largest(images, pool);
        record::<C, _, 1>([of_images], output, pooled)
    }

    fn average(images: FloatTensor<Self>) -> FloatTensor<Self> {
        let (images, of_images) = images.into_parts();
        let averaged = Averaged { input: shape(&images) };
        record::<C, _, 1>([of_images], averaged.forward(images), averaged)
    }

    fn scale(images: FloatTensor<Self>, factors: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((images, of_images), (factors, of_factors)) = (images.into_parts(), factors.into_parts());
        let scaled = Scaled::new(images, factors);
        record::<C, _, 2>([of_images, of_factors], scaled.forward(), scaled)
    }

    fn normalise(
        images: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        added: FloatTensor<Self>,
        layer: Normalisation,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let ((images, of_images), (gamma, of_gamma)) = (images.into_parts(), gamma.into_parts());
        let ((beta, of_beta), (added, of_added)) = (beta.into_parts(), added.into_parts());
        let normalised = normalise(images, gamma, &beta, &added, layer);
        let (mean, variance) = normalised.statistics();
        let inputs = [of_images, of_gamma, of_beta, of_added];
        let output = record::<C, _, 4>(inputs, normalised.output.clone(), normalised);
        (output, Self::from_inner(mean), Self::from_inner(variance))
    }
}

/// What is kept of a layer's forward pass, and how its gradients come from it.
trait Derivative: Clone + Send + Debug + 'static {
    /// The gradients at those inputs for which they are wanted, given that at the output.
    fn gradients(self, gradient: Primitive, wanted: &[bool]) -> Vec<Option<Primitive>>;
}

#[derive(Debug)]
struct Recorded<D>(PhantomData<D>);

impl<D: Derivative, const N: usize> Backward<Flex, N> for Recorded<D> {
    type State = D;

    fn backward(self, ops: Ops<D, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = ops.state.gradients(gradient, &wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

fn record<C: CheckpointStrategy, D: Derivative, const N: usize>(
    inputs: [NodeGuard; N],
    output: Primitive,
    derivative: D,
) -> FloatTensor<Autodiff<Flex, C>> {
    match Backward::<Flex, N>::prepare::<C>(Recorded(PhantomData), inputs).compute_bound().stateful() {
        OpsKind::Tracked(step) => step.finish(derivative, output),
        OpsKind::UnTracked(step) => step.finish(output),
    }
}

/// Defines a layer of two contiguous inputs and perhaps a bias, of which the gradients of all three are known.
macro_rules! affine {
    ($name:ident, $layer:ty) => {
        #[derive(Debug, Clone)]
        struct $name {
            input: Primitive,
            weights: Primitive,
            layer: $layer,
            /// Of a result that was rectified.
            output: Option<Primitive>,
        }

        impl $name {
            fn forward(&self, bias: &Primitive, rectified: bool) -> Primitive {
                let bias = bias.to_contiguous();
                let bias = Some(bias.storage()).filter(|bias: &&[f32]| !bias.is_empty());
                let output = self.layer.forward(self.input.storage(), self.weights.storage(), bias, rectified);
                tensor(output, self.layer.output())
            }

            fn recorded(self, output: Primitive, rectified: bool) -> Self {
                Self { output: rectified.then_some(output), ..self }
            }
        }

        impl Derivative for $name {
            fn gradients(self, mut gradient: Primitive, wanted: &[bool]) -> Vec<Option<Primitive>> {
                let Self { input, weights, layer, output } = self;
                if let Some(output) = output {
                    masked(&mut gradient, &output);
                }
                let (gradient, wanted) = (gradient.storage(), |index: usize| wanted.get(index) == Some(&true));
                let at_input =
                    || Flex::float_reshape(flat(layer.input_gradient(weights.storage(), gradient)), input.shape());
                let at_weights =
                    || Flex::float_reshape(flat(layer.weight_gradient(input.storage(), gradient)), weights.shape());
                let outputs = layer.output().last().copied().unwrap_or(1);
                let at_bias = || flat(sums::columns(gradient, outputs));
                vec![wanted(0).then(at_input), wanted(1).then(at_weights), wanted(2).then(at_bias)]
            }
        }
    };
}

/// Nothing where the output was not positive.
fn masked(gradient: &mut Primitive, output: &Primitive) {
    let pieces = gradient.storage_mut::<f32>().par_chunks_mut(PIECE).zip(output.storage::<f32>().par_chunks(PIECE));
    pieces.for_each(|(gradient, output)| {
        vectorised(
            #[inline(always)]
            || mask(gradient, output),
        );
    });
}

fn flat(values: Vec<f32>) -> Primitive {
    let length = values.len();
    tensor(values, [length])
}

affine!(Convolved, Convolution);
affine!(ConvolvedDepthwise, Depthwise);
affine!(Multiplied, Linear);

impl Convolved {
    fn new(images: Primitive, weights: Primitive, window: Window) -> Self {
        let [outputs, ..] = shape::<4>(&weights);
        let layer = Convolution { window, input: shape(&images), outputs };
        Self { input: images.to_contiguous(), weights: weights.to_contiguous(), layer, output: None }
    }
}

impl ConvolvedDepthwise {
    fn new(images: Primitive, weights: Primitive, window: Window) -> Self {
        let layer = Depthwise { window, input: shape(&images) };
        Self { input: images.to_contiguous(), weights: weights.to_contiguous(), layer, output: None }
    }
}

impl Multiplied {
    fn new(rows: Primitive, weights: Primitive) -> Self {
        let ([count, inputs], [_, outputs]) = (shape(&rows), shape(&weights));
        let layer = Linear { rows: count, inputs, outputs };
        Self { input: rows.to_contiguous(), weights: weights.to_contiguous(), layer, output: None }
    }
}

impl Derivative for Pooled {
    fn gradients(self, gradient: Primitive, _: &[bool]) -> Vec<Option<Primitive>> {
        let input: Shape = self.input();
        vec![Some(tensor(self.gradient(gradient.storage()), input))]
    }
}

fn largest(images: Primitive, pool: MaxPool) -> (Primitive, Pooled) {
    let images = images.to_contiguous();
    let (output, pooled) = pool.forward(images.storage(), shape(&images));
    (tensor(output, pooled.output()), pooled)
}

/// A mean over height and width.
#[derive(Debug, Clone)]
struct Averaged {
    input: Shape,
}

impl Averaged {
    fn forward(&self, images: Primitive) -> Primitive {
        let [batch, .., channels] = self.input;
        let images = images.to_contiguous();
        tensor(channels::averages(images.storage(), self.input), [batch, channels])
    }
}

impl Derivative for Averaged {
    fn gradients(self, gradient: Primitive, _: &[bool]) -> Vec<Option<Primitive>> {
        vec![Some(tensor(channels::shares(gradient.storage(), self.input), self.input))]
    }
}

/// Images and a factor for each of their channels.
#[derive(Debug, Clone)]
struct Scaled {
    images: Primitive,
    factors: Primitive,
}

impl Scaled {
    fn new(images: Primitive, factors: Primitive) -> Self {
        Self { images: images.to_contiguous(), factors: factors.to_contiguous() }
    }

    fn forward(&self) -> Primitive {
        let input = shape(&self.images);
        tensor(channels::scaled(self.images.storage(), self.factors.storage(), input), input)
    }
}

impl Derivative for Scaled {
    fn gradients(self, gradient: Primitive, _: &[bool]) -> Vec<Option<Primitive>> {
        let Self { images, factors } = self;
        let input = shape(&images);
        let at_images = channels::scaled(gradient.storage(), factors.storage(), input);
        let at_factors = channels::products(gradient.storage(), images.storage(), input);
        vec![Some(tensor(at_images, input)), Some(tensor(at_factors, shape::<2>(&factors)))]
    }
}

/// A normalisation's forward pass.
#[derive(Debug, Clone)]
struct Normalised {
    input: Primitive,
    gamma: Primitive,
    statistics: Statistics,
    layer: Normalisation,
    output: Primitive,
}

impl Normalised {
    /// Mean and variance.
    fn statistics(&self) -> (Primitive, Primitive) {
        (flat(self.statistics.mean.clone()), flat(self.statistics.variance.clone()))
    }
}

fn normalise(
    images: Primitive,
    gamma: Primitive,
    beta: &Primitive,
    added: &Primitive,
    layer: Normalisation,
) -> Normalised {
    let (input, gamma) = (images.to_contiguous(), gamma.to_contiguous());
    let (beta, added) = (beta.to_contiguous(), added.to_contiguous());
    let added = Some(added.storage()).filter(|added: &&[f32]| !added.is_empty());
    let statistics = Statistics::of(input.storage(), gamma.storage::<f32>().len());
    let output = layer.forward(input.storage(), &statistics, [gamma.storage(), beta.storage()], added);
    let output = tensor(output, shape::<4>(&input));
    Normalised { input, gamma, statistics, layer, output }
}

impl Derivative for Normalised {
    fn gradients(self, mut gradient: Primitive, wanted: &[bool]) -> Vec<Option<Primitive>> {
        let Self { input, gamma, statistics, layer, output } = self;
        if layer.rectified {
            masked(&mut gradient, &output);
        }
        let at_added = (wanted.last() == Some(&true)).then(|| gradient.clone());
        let found = layer.gradients(input.storage(), &statistics, gamma.storage(), gradient.storage_mut());
        vec![Some(gradient), Some(flat(found.gamma)), Some(flat(found.beta)), at_added]
    }
}
