//! The optimizer step inside the database.

use peerless_aggregation::{FixedPoint, Optimizer, clip_by_global_norm};
use redis_module::{Context, RedisResult, RedisString, RedisValue};

use crate::aggregate::write_mean;
use crate::arguments::Arguments;
use crate::error::{CommandError, Result, reply};
use crate::keys::{Target, check_distinct};
use crate::sum::{HEADER_BYTES, parse};
use crate::tile::{TILE, load, store};

/// `PEERLESS.STEP parameters slots sum learning_rate step optimizer [name value ...]`
pub fn step(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    let stepped = Step::parse(Arguments::new(arguments)).and_then(|step| step.apply(context));
    stepped.map(RedisValue::Integer).map_err(reply)
}

struct Step {
    parameters: RedisString,
    slots: RedisString,
    sum: RedisString,
    learning_rate: f32,
    step_index: u64,
    optimizer: Optimizer,
    clip_norm: Option<f32>,
    /// Elements at the end that are averaged instead of optimised.
    buffers: usize,
}

impl Step {
    fn parse(mut arguments: Arguments) -> Result<Self> {
        let (parameters, slots, sum) = (arguments.key()?, arguments.key()?, arguments.key()?);
        let learning_rate = finite(&mut arguments, "learning_rate")?;
        let step_index = arguments.parse("step", "an integer, at least 0")?;
        let name: String = arguments.parse("optimizer", "sgd, momentum, nesterov, adam or adamw")?;
        let optimizer = name.parse()?;
        let mut step =
            Self { parameters, slots, sum, learning_rate, step_index, optimizer, clip_norm: None, buffers: 0 };
        while !arguments.is_empty() {
            step.option(&mut arguments)?;
        }
        step.optimizer.validate()?;
        check_distinct([&step.parameters, &step.slots, &step.sum])?;
        Ok(step)
    }

    fn option(&mut self, arguments: &mut Arguments) -> Result<()> {
        let expected = "a hyperparameter of the optimizer, clip_norm or buffers";
        let name: String = arguments.parse("option", expected)?;
        match name.as_str() {
            "buffers" => self.buffers = arguments.parse("buffers", "an integer, at least 0")?,
            "clip_norm" => {
                let norm = finite(arguments, "clip_norm")?;
                if norm <= 0.0 {
                    let found = norm.to_string();
                    return Err(CommandError::Argument { what: "clip_norm", found, expected: "above 0" });
                }
                self.clip_norm = Some(norm);
            }
            name => {
                let found = name.escape_default().to_string();
                let unknown = CommandError::Argument { what: "option", found, expected };
                let hyperparameter = hyperparameter(&mut self.optimizer, name).ok_or(unknown)?;
                *hyperparameter = arguments.parse("hyperparameter", "a number")?;
            }
        }
        Ok(())
    }

    fn apply(&self, context: &Context) -> Result<i64> {
        let parameters = Target::open(context, &self.parameters)?;
        let sum = Target::open(context, &self.sum)?;
        if !sum.exists() {
            return Err(CommandError::Missing { what: "sum", key: sum.name().to_owned() });
        }
        let (shape, units) = sum.update(|bytes| parse(bytes, sum.name()))?;
        if units.is_empty() {
            return Err(CommandError::NoUnits { key: sum.name().to_owned() });
        }
        check_length(&parameters, "parameters", 4 * shape.elements)?;
        if self.buffers > shape.elements {
            let found = self.buffers.to_string();
            return Err(CommandError::Argument { what: "buffers", found, expected: "at most the elements" });
        }
        let optimised = shape.elements - self.buffers;
        let slots = self.open_slots(context, optimised)?;
        sum.update(|sum| {
            parameters.update(|parameters| {
                let (parameters, buffers) = parameters.split_at_mut(4 * optimised);
                let (parameter_sum, buffer_sum) = shape.sums(sum).split_at(8 * optimised);
                let vectors = Vectors { grid: shape.grid, divisor: units.len(), sum: parameter_sum, parameters };
                match &slots {
                    Some(slots) => slots.update(|slots| self.step(vectors, slots))?,
                    None => self.step(vectors, &mut [])?,
                }
                Ok(write_mean(shape.grid, buffer_sum, units.len(), buffers)?)
            })?;
            // The same command sent again finds no unit and does not step twice. The string stays: the next
            // round needs as much, and memory from the system costs more than the step.
            sum[HEADER_BYTES..].fill(0);
            Ok(())
        })?;
        context.replicate_verbatim();
        Ok(shape.elements as i64)
    }

    /// The string of all slots one after the other; zeros before the first step. `None` if there are no slots.
    fn open_slots(&self, context: &Context, length: usize) -> Result<Option<Target>> {
        let bytes = 4 * length * self.optimizer.slots();
        if bytes == 0 {
            return Ok(None);
        }
        let slots = Target::open(context, &self.slots)?;
        if slots.exists() || self.step_index > 0 {
            check_length(&slots, "slots", bytes)?;
        } else {
            drop(slots);
            return Target::sized(context, &self.slots, bytes).map(Some);
        }
        Ok(Some(slots))
    }

    /// Forms the mean and steps along it, tile by tile; clipping needs all of the mean at once.
    fn step(&self, vectors: Vectors<'_>, slots: &mut [u8]) -> Result<()> {
        let Vectors { grid, divisor, sum, parameters } = vectors;
        let elements = sum.len() / 8;
        let chunk = if self.clip_norm.is_some() { elements } else { TILE }.max(1);
        let mut slots: Vec<&mut [u8]> = slots.chunks_mut(4 * elements.max(1)).collect();
        let mut mean = vec![0.0; chunk.min(elements)];
        for (index, sum) in sum.chunks(8 * chunk).enumerate() {
            let mean = &mut mean[..sum.len() / 8];
            grid.mean_bytes(sum, divisor, mean)?;
            if let Some(norm) = self.clip_norm {
                clip_by_global_norm(mean, f64::from(norm));
            }
            for (tile, gradient) in mean.chunks(TILE).enumerate() {
                let start = 4 * (index * chunk + tile * TILE);
                self.step_tile(start, gradient, parameters, &mut slots)?;
            }
        }
        Ok(())
    }

    /// Steps the elements from byte `start` on.
    fn step_tile(&self, start: usize, gradient: &[f32], parameters: &mut [u8], slots: &mut [&mut [u8]]) -> Result<()> {
        let (mut p, mut s) = ([0.0; TILE], [[0.0; TILE]; 2]);
        let bytes = start..start + 4 * gradient.len();
        let p = &mut p[..gradient.len()];
        let mut s: Vec<&mut [f32]> = s.iter_mut().take(slots.len()).map(|slot| &mut slot[..gradient.len()]).collect();
        load(p, &parameters[bytes.clone()]);
        for (s, slot) in s.iter_mut().zip(slots.iter()) {
            load(s, &slot[bytes.clone()]);
        }
        self.optimizer.step(self.step_index, self.learning_rate, p, &mut s, gradient)?;
        store(&mut parameters[bytes.clone()], p);
        for (s, slot) in s.iter().zip(slots) {
            store(&mut slot[bytes.clone()], s);
        }
        Ok(())
    }
}

/// What an optimizer steps: parameters along the mean of a sum.
struct Vectors<'a> {
    grid: FixedPoint,
    divisor: u64,
    sum: &'a [u8],
    parameters: &'a mut [u8],
}

/// The hyperparameter of that name, if the optimizer has it.
fn hyperparameter<'a>(optimizer: &'a mut Optimizer, name: &str) -> Option<&'a mut f64> {
    match (optimizer, name) {
        (Optimizer::Momentum { momentum, .. }, "momentum") => Some(momentum),
        (Optimizer::Adam { beta1, .. } | Optimizer::AdamW { beta1, .. }, "beta1") => Some(beta1),
        (Optimizer::Adam { beta2, .. } | Optimizer::AdamW { beta2, .. }, "beta2") => Some(beta2),
        (Optimizer::Adam { epsilon, .. } | Optimizer::AdamW { epsilon, .. }, "epsilon") => Some(epsilon),
        (
            Optimizer::Sgd { weight_decay }
            | Optimizer::Momentum { weight_decay, .. }
            | Optimizer::Adam { weight_decay, .. }
            | Optimizer::AdamW { weight_decay, .. },
            "weight_decay",
        ) => Some(weight_decay),
        _ => None,
    }
}

fn finite(arguments: &mut Arguments, what: &'static str) -> Result<f32> {
    let expected = "a finite number";
    let value: f32 = arguments.parse(what, expected)?;
    let found = || value.to_string();
    if value.is_finite() { Ok(value) } else { Err(CommandError::Argument { what, found: found(), expected }) }
}

fn check_length(target: &Target, what: &'static str, expected: usize) -> Result<()> {
    let key = target.name().to_owned();
    if !target.exists() {
        return Err(CommandError::Missing { what, key });
    }
    let found = target.update(|bytes| Ok(bytes.len()))?;
    if found == expected {
        Ok(())
    } else {
        Err(CommandError::Length { what, key, found, expected: expected.to_string() })
    }
}
