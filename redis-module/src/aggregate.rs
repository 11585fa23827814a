//! The commands that form sums and means.

use std::collections::BTreeSet;

use peerless_aggregation::{FixedPoint, SumError, UnitBytes, add_bytes};
use redis_module::{Context, RedisResult, RedisString, RedisValue};

use crate::arguments::Arguments;
use crate::error::{CommandError, Result, reply};
use crate::keys::{Source, Target, check_distinct};
use crate::sum::{HEADER_BYTES, MAX_ELEMENTS, Shape, Units, parse};
use crate::tile::{TILE, store};

/// `PEERLESS.ADD fraction_bits sum unit gradient [unit gradient ...]`
pub fn add(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    add_units(context, Arguments::new(arguments)).map(RedisValue::Integer).map_err(reply)
}

/// `PEERLESS.COMBINE sum other [other ...]`
pub fn combine(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    combine_sums(context, Arguments::new(arguments)).map(RedisValue::Integer).map_err(reply)
}

/// `PEERLESS.SUM fraction_bits gradient [gradient ...]`
pub fn sum(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    sum_of(context, Arguments::new(arguments)).map(RedisValue::StringBuffer).map_err(reply)
}

/// `PEERLESS.MEAN mean sum [divisor]`
pub fn mean(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    mean_of_sum(context, Arguments::new(arguments)).map(RedisValue::Integer).map_err(reply)
}

/// `PEERLESS.AVERAGE fraction_bits mean gradient [gradient ...]`
pub fn average(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    average_of(context, Arguments::new(arguments)).map(RedisValue::Integer).map_err(reply)
}

/// `PEERLESS.CLEAR sum`
pub fn clear(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    clear_sum(context, Arguments::new(arguments)).map(RedisValue::Integer).map_err(reply)
}

/// `PEERLESS.INFO sum`
pub fn info(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    info_of(context, Arguments::new(arguments)).map(RedisValue::Array).map_err(reply)
}

/// Gradients that are read in place, and what they have in common.
struct Gradients {
    sources: Vec<(u32, Source)>,
    elements: usize,
}

impl Gradients {
    /// Opens at least one key; all must be as long as `elements` says, or else as the first.
    fn open(context: &Context, keys: &[(u32, RedisString)], elements: Option<usize>) -> Result<Self> {
        let open = |(unit, key): &(u32, RedisString)| Ok((*unit, Source::open(context, key, "gradient")?));
        let sources = keys.iter().map(open).collect::<Result<Vec<_>>>()?;
        let (_, first) = sources.first().ok_or(CommandError::Arity)?;
        let elements = elements.map_or_else(|| first.elements("gradient").map(|bytes| bytes.len() / 4), Ok)?;
        let expected = 4 * elements.min(MAX_ELEMENTS);
        for (_, source) in &sources {
            let found = source.elements("gradient")?.len();
            if found != expected {
                let (what, key) = ("gradient", source.name().to_owned());
                return Err(CommandError::Length { what, key, found, expected: expected.to_string() });
            }
        }
        Ok(Self { sources, elements })
    }

    fn bytes(&self) -> Vec<UnitBytes<'_>> {
        self.sources.iter().map(|(unit, source)| (*unit, source.bytes())).collect()
    }

    /// Names the key of the gradient that cannot be added.
    fn name(&self, source: SumError) -> CommandError {
        let unit = match source {
            SumError::NotANumber { unit, .. }
            | SumError::Infinite { unit, .. }
            | SumError::OutOfRange { unit, .. }
            | SumError::Overflow { unit, .. } => Some(unit),
            _ => None,
        };
        let named = self.sources.iter().find(|gradient| Some(gradient.0) == unit);
        let key = named.or(self.sources.first()).map_or_else(String::new, |gradient| gradient.1.name().to_owned());
        CommandError::Gradient { key, source }
    }
}

fn add_units(context: &Context, mut arguments: Arguments) -> Result<i64> {
    let (grid, key) = (arguments.grid()?, arguments.key()?);
    let gradients = units_and_keys(&mut arguments)?;
    check_distinct(gradients.iter().map(|gradient| &gradient.1).chain([&key]))?;
    let target = Target::open(context, &key)?;
    let present = if target.exists() { Some(target.update(|bytes| parse(bytes, target.name()))?) } else { None };
    let units = present.as_ref().map(|present| present.1.clone()).unwrap_or_default();
    let new: Vec<_> = gradients.into_iter().filter(|(unit, _)| !units.contains(*unit)).collect();
    if let Some((shape, _)) = &present {
        Shape { grid, ..*shape }.check_same(*shape, target.name())?;
    }
    if new.is_empty() {
        return Ok(0);
    }
    let gradients = Gradients::open(context, &new, present.as_ref().map(|present| present.0.elements))?;
    let shape = Shape { grid, elements: gradients.elements };
    let mut after = units;
    new.iter().for_each(|(unit, _)| after.insert(*unit));
    let accumulate = |bytes: &mut [u8]| {
        let added = grid.accumulate_bytes(shape.sums_mut(bytes), &gradients.bytes());
        added.map_err(|error| gradients.name(error))
    };
    let target = if present.is_some() { target } else { create(context, &key, target, shape)? };
    let added = target.update(accumulate);
    if added.is_err() && present.is_none() {
        target.remove()?;
    }
    added?;
    write_units(&target, shape, &after)?;
    context.replicate_verbatim();
    Ok(new.len() as i64)
}

/// A sum of no unit under a key where nothing is.
fn create(context: &Context, key: &RedisString, empty: Target, shape: Shape) -> Result<Target> {
    drop(empty);
    let target = Target::sized(context, key, shape.bytes())?;
    target.update(|bytes| {
        shape.write_header(bytes);
        Ok(())
    })?;
    Ok(target)
}

/// Pairs up to the last argument; every unit once.
fn units_and_keys(arguments: &mut Arguments) -> Result<Vec<(u32, RedisString)>> {
    let (mut pairs, mut units) = (Vec::new(), BTreeSet::new());
    while !arguments.is_empty() || pairs.is_empty() {
        let (unit, key) = (arguments.unit()?, arguments.key()?);
        if !units.insert(unit) {
            return Err(CommandError::Argument { what: "unit", found: unit.to_string(), expected: "given once" });
        }
        pairs.push((unit, key));
    }
    Ok(pairs)
}

/// Writes the units behind the sums; they are never fewer than before.
fn write_units(target: &Target, shape: Shape, units: &Units) -> Result<()> {
    let units = units.as_bytes();
    let written = target.update(|bytes| {
        let present = &mut bytes[shape.bytes()..];
        let length = present.len().min(units.len());
        present[..length].copy_from_slice(&units[..length]);
        Ok(length)
    })?;
    // Room that the server adds makes the next unit free.
    if written < units.len() { target.append(&units[written..]) } else { Ok(()) }
}

fn combine_sums(context: &Context, mut arguments: Arguments) -> Result<i64> {
    let key = arguments.key()?;
    let others = keys(&mut arguments)?;
    check_distinct(others.iter().chain([&key]))?;
    let target = Target::open(context, &key)?;
    let mut total: Option<(Shape, Units)> = None;
    if target.exists() {
        total = Some(target.update(|bytes| parse(bytes, target.name()))?);
    }
    let mut added: Option<Vec<u8>> = None;
    for other in &others {
        let source = Source::open(context, other, "sum")?;
        let (shape, units) = parse(source.bytes(), source.name())?;
        if units.is_empty() {
            return Err(CommandError::NoUnits { key: source.name().to_owned() });
        }
        let (expected, all) = total.get_or_insert_with(|| (shape, Units::default()));
        expected.check_same(shape, source.name())?;
        if let Some(unit) = units.iter().find(|unit| all.contains(*unit)) {
            return Err(CommandError::UnitTwice { key: source.name().to_owned(), unit });
        }
        units.iter().for_each(|unit| all.insert(unit));
        let add = |sum: &mut Vec<u8>| add_bytes(sum, shape.sums(source.bytes()));
        match &mut added {
            Some(sum) => {
                add(sum).map_err(|error| CommandError::Sum { key: source.name().to_owned(), source: error })?
            }
            None => added = Some(shape.sums(source.bytes()).to_vec()),
        }
    }
    let (Some((shape, units)), Some(added)) = (total, added) else { return Err(CommandError::Arity) };
    let target_name = target.name().to_owned();
    let in_target = |error| CommandError::Sum { key: target_name.clone(), source: error };
    let new = !target.exists();
    let target = if new { create(context, &key, target, shape)? } else { target };
    let combined = target.update(|bytes| add_bytes(shape.sums_mut(bytes), &added).map_err(in_target));
    if combined.is_err() && new {
        target.remove()?;
    }
    combined?;
    write_units(&target, shape, &units)?;
    context.replicate_verbatim();
    Ok(units.len() as i64)
}

/// The remaining arguments, at least one.
fn keys(arguments: &mut Arguments) -> Result<Vec<RedisString>> {
    let mut keys = vec![arguments.key()?];
    while !arguments.is_empty() {
        keys.push(arguments.key()?);
    }
    Ok(keys)
}

/// Gradients without units: each is numbered by its place, so that errors find its key.
fn numbered(keys: Vec<RedisString>) -> Vec<(u32, RedisString)> {
    (0..).zip(keys).collect()
}

fn sum_of(context: &Context, mut arguments: Arguments) -> Result<Vec<u8>> {
    let grid = arguments.grid()?;
    let gradients = numbered(keys(&mut arguments)?);
    check_distinct(gradients.iter().map(|gradient| &gradient.1))?;
    let gradients = Gradients::open(context, &gradients, None)?;
    let shape = Shape { grid, elements: gradients.elements };
    let mut bytes = vec![0; shape.bytes()];
    shape.write_header(&mut bytes);
    let added = grid.accumulate_bytes(shape.sums_mut(&mut bytes), &gradients.bytes());
    added.map_err(|error| gradients.name(error))?;
    Ok(bytes)
}

fn mean_of_sum(context: &Context, mut arguments: Arguments) -> Result<i64> {
    let (mean_key, sum_key) = (arguments.key()?, arguments.key()?);
    let divisor = if arguments.is_empty() { None } else { Some(arguments.parse("divisor", "an integer above 0")?) };
    arguments.end()?;
    check_distinct([&mean_key, &sum_key])?;
    let sum = Source::open(context, &sum_key, "sum")?;
    let (shape, units) = parse(sum.bytes(), sum.name())?;
    let divisor = match divisor {
        Some(divisor) => divisor,
        None if units.is_empty() => return Err(CommandError::NoUnits { key: sum.name().to_owned() }),
        None => units.len(),
    };
    if divisor == 0 {
        return Err(CommandError::Sum { key: sum.name().to_owned(), source: SumError::ZeroDivisor });
    }
    let target = Target::sized(context, &mean_key, 4 * shape.elements)?;
    let failed = |source| CommandError::Sum { key: sum.name().to_owned(), source };
    target.update(|mean| write_mean(shape.grid, shape.sums(sum.bytes()), divisor, mean).map_err(failed))?;
    context.replicate_verbatim();
    Ok(shape.elements as i64)
}

/// Writes the mean of sums as little-endian f32.
pub fn write_mean(grid: FixedPoint, sums: &[u8], divisor: u64, mean: &mut [u8]) -> std::result::Result<(), SumError> {
    let mut tile = [0.0; TILE];
    for (sums, mean) in sums.chunks(8 * TILE).zip(mean.chunks_mut(4 * TILE)) {
        let tile = &mut tile[..sums.len() / 8];
        grid.mean_bytes(sums, divisor, tile)?;
        store(mean, tile);
    }
    Ok(())
}

fn average_of(context: &Context, mut arguments: Arguments) -> Result<i64> {
    let (grid, mean_key): (FixedPoint, _) = (arguments.grid()?, arguments.key()?);
    let gradients = numbered(keys(&mut arguments)?);
    check_distinct(gradients.iter().map(|gradient| &gradient.1).chain([&mean_key]))?;
    let target = Target::open(context, &mean_key)?;
    let gradients = Gradients::open(context, &gradients, None)?;
    let mut mean = vec![0; 4 * gradients.elements];
    grid.average_bytes(&gradients.bytes(), &mut mean).map_err(|error| gradients.name(error))?;
    target.write(&mean)?;
    context.replicate_verbatim();
    Ok(gradients.elements as i64)
}

fn clear_sum(context: &Context, mut arguments: Arguments) -> Result<i64> {
    let key = arguments.key()?;
    arguments.end()?;
    let target = Target::open(context, &key)?;
    if !target.exists() {
        return Ok(0);
    }
    let units = target.update(|bytes| {
        let (_, units) = parse(bytes, target.name())?;
        bytes[HEADER_BYTES..].fill(0);
        Ok(units)
    })?;
    context.replicate_verbatim();
    Ok(units.len() as i64)
}

fn info_of(context: &Context, mut arguments: Arguments) -> Result<Vec<RedisValue>> {
    let key = arguments.key()?;
    arguments.end()?;
    let sum = Source::open(context, &key, "sum")?;
    let (shape, units) = parse(sum.bytes(), sum.name())?;
    Ok(vec![
        RedisValue::BulkString("fraction_bits".into()),
        RedisValue::Integer(i64::from(shape.grid.fraction_bits())),
        RedisValue::BulkString("elements".into()),
        RedisValue::Integer(shape.elements as i64),
        RedisValue::BulkString("units".into()),
        RedisValue::Array(units.iter().map(|unit| RedisValue::Integer(i64::from(unit))).collect()),
    ])
}
