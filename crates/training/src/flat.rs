//! Between a module and the one flat vector that peers exchange.
//!
//! A module is walked in the order of its fields, the same for every instance of a type. The flat
//! vector holds all parameters in that order and behind them all buffers in that order.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use peerless_protocol::{Layout, LayoutEntry, Role};

use crate::TrainingError;

/// Where each tensor of a module lies in the flat vector.
#[derive(Debug, Clone)]
pub(crate) struct FlatMap {
    layout: Layout,
    /// The layout entry of each tensor, in the order in which a walk meets them.
    walk: Vec<usize>,
}

impl FlatMap {
    /// The map of `module`, which must be on a device with automatic differentiation: what requires
    /// no gradient there is a buffer.
    pub(crate) fn of<M: Module>(module: &M) -> Self {
        let mut survey = Survey::default();
        module.visit(&mut survey);
        let tensors = survey.tensors;
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&tensor| tensors[tensor].role == Role::Buffer);
        let mut walk = vec![0; tensors.len()];
        let mut layout = Layout::default();
        for tensor in order {
            walk[tensor] = layout.entries.len();
            let offset = layout.elements();
            let entry = LayoutEntry { offset, ..tensors[tensor].clone() };
            layout.entries.push(entry);
        }
        Self { layout, walk }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// `module` with its tensors taken from the flat vector `values`, which must have the layout's
    /// length. Buffers of clones of `module` change with it.
    pub(crate) fn load<M: Module>(&self, module: M, values: &[f32], device: &Device) -> M {
        module.map(&mut Loader { map: self, values, device, next: 0 })
    }

    /// The gradients of the parameters and the values of the buffers, as a flat vector. `valid` is
    /// `module.valid()`: only that has buffers with the last forward pass folded in.
    pub(crate) fn collect<M: Module>(
        &self,
        module: &M,
        valid: &M,
        gradients: Gradients,
    ) -> Result<Vec<f32>, TrainingError> {
        let mut collector = Collector {
            map: self,
            flat: vec![0.0; self.layout.elements() as usize],
            gradients,
            role: Role::Parameter,
            next: 0,
            error: None,
        };
        module.visit(&mut collector);
        collector.role = Role::Buffer;
        collector.next = 0;
        valid.visit(&mut collector);
        collector.error.map_or(Ok(collector.flat), Err)
    }
}

/// Names, shapes and roles in walking order; offsets are filled in later.
#[derive(Default)]
struct Survey {
    path: Vec<String>,
    tensors: Vec<LayoutEntry>,
}

impl ModuleVisitor for Survey {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        self.tensors.push(LayoutEntry {
            name: self.path.join("."),
            shape: value.dims().map(|side| side as u32).to_vec(),
            offset: 0,
            role: if value.is_require_grad() { Role::Parameter } else { Role::Buffer },
        });
    }
}

struct Loader<'a> {
    map: &'a FlatMap,
    values: &'a [f32],
    device: &'a Device,
    next: usize,
}

impl ModuleMapper for Loader<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let entry = &self.map.layout.entries[self.map.walk[self.next]];
        self.next += 1;
        let shape: Vec<usize> = entry.shape.iter().map(|&side| side as usize).collect();
        let data = TensorData::new(self.values[range(entry)].to_vec(), shape);
        let tensor = Tensor::<D>::from_data(data, self.device);
        param.map(|_| tensor.set_require_grad(entry.role == Role::Parameter))
    }
}

struct Collector<'a> {
    map: &'a FlatMap,
    flat: Vec<f32>,
    gradients: Gradients,
    role: Role,
    next: usize,
    error: Option<TrainingError>,
}

impl Collector<'_> {
    fn store(&mut self, entry: &LayoutEntry, data: &TensorData) -> Result<(), TrainingError> {
        let unexpected = || TrainingError::Tensor(format!("{:?} of {} for {}", data.dtype(), data.shape(), entry.name));
        let values = data.as_slice::<f32>().map_err(|_| unexpected())?;
        let target = &mut self.flat[range(entry)];
        if values.len() != target.len() {
            return Err(unexpected());
        }
        target.copy_from_slice(values);
        Ok(())
    }
}

impl ModuleVisitor for Collector<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let map = self.map;
        let entry = &map.layout.entries[map.walk[self.next]];
        self.next += 1;
        if entry.role != self.role {
            return;
        }
        let tensor = match self.role {
            // A parameter that the forward pass did not use has no gradient: it stays zero.
            Role::Parameter => param.val().grad_remove(&mut self.gradients),
            Role::Buffer => Some(param.val()),
        };
        if let Some(tensor) = tensor
            && let Err(error) = self.store(entry, &tensor.into_data())
        {
            self.error.get_or_insert(error);
        }
    }
}

fn range(entry: &LayoutEntry) -> std::ops::Range<usize> {
    entry.offset as usize..(entry.offset + entry.elements()) as usize
}

#[cfg(test)]
mod tests {
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};

    use super::*;

    #[derive(Module, Debug)]
    struct Normed {
        norm: BatchNorm,
        out: Linear,
    }

    fn normed(device: &Device) -> Normed {
        Normed { norm: BatchNormConfig::new(2).init(device), out: LinearConfig::new(2, 1).init(device) }
    }

    #[test]
    fn parameters_precede_buffers_without_gaps() {
        let map = FlatMap::of(&normed(&Device::flex().autodiff()));
        let names: Vec<&str> = map.layout().entries.iter().map(|entry| entry.name.as_str()).collect();
        let expected = ["norm.gamma", "norm.beta", "out.weight", "out.bias", "norm.running_mean", "norm.running_var"];
        assert_eq!(names, expected);
        assert!(map.layout().is_valid());
        assert_eq!((map.layout().parameters(), map.layout().elements()), (7, 11));
    }

    #[test]
    fn gradients_and_updated_buffers_come_back_in_their_places() {
        let device = Device::flex().autodiff();
        let module = normed(&device);
        let map = FlatMap::of(&module);
        // gamma, beta, out.weight, out.bias, running_mean, running_var
        let values = [1.0, 1.0, 0.0, 0.0, 2.0, 3.0, 0.5, 10.0, 20.0, 4.0, 5.0];
        let module = map.load(module, &values, &device);
        let input = Tensor::<3>::from_data([[[1.0], [5.0]], [[3.0], [9.0]]], &device);
        let normed = module.norm.forward(input).reshape([2, 2]);
        let gradients = module.out.forward(normed).sum().backward();
        let flat = map.collect(&module, &module.valid(), gradients).unwrap();
        assert_eq!(flat[2..4], [4.0, 6.0], "beta: two samples times the output weights");
        assert_eq!(flat[6], 2.0, "bias: two samples");
        // Burn's momentum is 0.1: 0.9 of the old value and 0.1 of the batch's.
        assert!((flat[7] - (9.0 + 0.2)).abs() < 1e-5, "running mean {}", flat[7]);
        assert!((flat[8] - (18.0 + 0.7)).abs() < 1e-5, "running mean {}", flat[8]);
        assert!(flat[9] > 3.6 && flat[10] > 4.5, "running variances {:?}", &flat[9..]);
    }
}
