//! The optimizer step inside the database.

use peerless_aggregation::{Optimizer, clip_by_global_norm};
use redis_module::{Context, RedisResult, RedisString, RedisValue};

use crate::aggregate::{f32_bytes, read_mean};
use crate::arguments::Arguments;
use crate::error::{CommandError, Result, reply};
use crate::keys::{Source, Target, check_distinct};

/// Elements that are brought through the optimizer together: aligned copies, since the server's strings are
/// not.
const TILE: usize = 4096;

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
    divisor: Option<u64>,
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
        let mut step = Self {
            parameters,
            slots,
            sum,
            learning_rate,
            step_index,
            optimizer,
            divisor: None,
            clip_norm: None,
            buffers: 0,
        };
        while !arguments.is_empty() {
            step.option(&mut arguments)?;
        }
        step.optimizer.validate()?;
        check_distinct([&step.parameters, &step.slots, &step.sum])?;
        Ok(step)
    }

    fn option(&mut self, arguments: &mut Arguments) -> Result<()> {
        let expected = "a hyperparameter of the optimizer, divisor, clip_norm or buffers";
        let name: String = arguments.parse("option", expected)?;
        match name.as_str() {
            "divisor" => self.divisor = Some(arguments.parse("divisor", "an integer above 0")?),
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
        let sum = Source::open(context, &self.sum, "sum")?;
        let mut mean = Vec::new();
        read_mean(&sum, self.divisor, &mut mean)?;
        drop(sum);
        let elements = mean.len();
        check_length(&parameters, "parameters", 4 * elements)?;
        if self.buffers > elements {
            let found = self.buffers.to_string();
            return Err(CommandError::Argument { what: "buffers", found, expected: "at most the elements" });
        }
        let (gradient, buffers) = mean.split_at_mut(elements - self.buffers);
        let slots = self.open_slots(context, gradient.len())?;
        if let Some(norm) = self.clip_norm {
            clip_by_global_norm(gradient, f64::from(norm));
        }
        parameters.update(|parameters| {
            let (parameters, kept) = parameters.split_at_mut(4 * gradient.len());
            kept.copy_from_slice(&f32_bytes(buffers));
            match &slots {
                Some(slots) => slots.update(|slots| self.step(parameters, slots, gradient)),
                None => self.step(parameters, &mut [], gradient),
            }
        })?;
        // A repeated command finds no sum and does not step twice.
        Target::open(context, &self.sum)?.remove()?;
        context.replicate_verbatim();
        Ok(elements as i64)
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
            slots.write(&vec![0; bytes])?;
        }
        Ok(Some(slots))
    }

    /// Steps along `gradient`, tile by tile.
    fn step(&self, parameters: &mut [u8], slots: &mut [u8], gradient: &[f32]) -> Result<()> {
        let mut p = [0.0; TILE];
        let mut s = [[0.0; TILE]; 2];
        let mut slots: Vec<&mut [u8]> = slots.chunks_mut(4 * gradient.len().max(1)).collect();
        for (tile, gradient) in gradient.chunks(TILE).enumerate() {
            let (start, end) = (4 * TILE * tile, 4 * (TILE * tile + gradient.len()));
            load(&mut p, &parameters[start..end]);
            for (s, slot) in s.iter_mut().zip(&slots) {
                load(s, &slot[start..end]);
            }
            let parameters_now = &mut p[..gradient.len()];
            let mut slots_now: Vec<&mut [f32]> =
                s.iter_mut().take(slots.len()).map(|slot| &mut slot[..gradient.len()]).collect();
            self.optimizer.step(self.step_index, self.learning_rate, parameters_now, &mut slots_now, gradient)?;
            store(&mut parameters[start..end], &p);
            for (s, slot) in s.iter().zip(&mut slots) {
                store(&mut slot[start..end], s);
            }
        }
        Ok(())
    }
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

fn load(tile: &mut [f32; TILE], bytes: &[u8]) {
    for (element, bytes) in tile.iter_mut().zip(bytes.as_chunks().0) {
        *element = f32::from_le_bytes(*bytes);
    }
}

fn store(bytes: &mut [u8], tile: &[f32; TILE]) {
    for (bytes, element) in bytes.as_chunks_mut().0.iter_mut().zip(tile) {
        *bytes = element.to_le_bytes();
    }
}
