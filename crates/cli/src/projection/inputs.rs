//! What was measured of models, kept so that a projection needs no measuring.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::Measured;

/// The file that comes with the program.
const BUILT_IN: &str = include_str!("../../measured/units.toml");
const VERSION: u32 = 1;
/// Far more than any such file has.
const MAX_BYTES: u64 = 1 << 20;

/// Measured models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inputs {
    version: u32,
    pub(crate) date: String,
    /// What it was measured on.
    pub(crate) machine: String,
    /// What it was measured with.
    pub(crate) program: String,
    /// What else the machine did.
    pub(crate) load: String,
    #[serde(rename = "model")]
    pub(crate) models: BTreeMap<String, ModelInput>,
}

/// One model on one dataset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelInput {
    pub(crate) dataset: String,
    /// Samples of an epoch.
    pub(crate) train_samples: u32,
    pub(crate) samples_per_unit: u32,
    pub(crate) measured: Measured,
}

/// A file of measured models that cannot be used.
#[derive(Debug, Error)]
pub(crate) enum InputError {
    #[error("cannot read {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} has more than {MAX_BYTES} bytes, which no file of measured units has")]
    TooLong { path: PathBuf },
    #[error("{path} is no file of measured units: {source}")]
    Syntax { path: PathBuf, source: Box<toml::de::Error> },
    #[error("{path} has version {version}, and this program knows version {VERSION}")]
    Version { path: PathBuf, version: u32 },
    #[error("{path} says nothing of any model")]
    Empty { path: PathBuf },
    #[error("{path}: {model} has {field} = {value}, which cannot be")]
    Value { path: PathBuf, model: String, field: &'static str, value: f64 },
}

impl Inputs {
    /// What comes with the program.
    pub(crate) fn built_in() -> Result<Self, InputError> {
        Self::parse(BUILT_IN, Path::new("units.toml"))
    }

    /// From a file, as `peerless project --measure` writes it.
    pub(crate) fn read(path: &Path) -> Result<Self, InputError> {
        let failed = |source| InputError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > MAX_BYTES {
            return Err(InputError::TooLong { path: path.to_owned() });
        }
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, InputError> {
        let path = || path.to_owned();
        let inputs: Self =
            toml::from_str(text).map_err(|source| InputError::Syntax { path: path(), source: Box::new(source) })?;
        if inputs.version != VERSION {
            return Err(InputError::Version { path: path(), version: inputs.version });
        }
        if inputs.models.is_empty() {
            return Err(InputError::Empty { path: path() });
        }
        for (model, input) in &inputs.models {
            if let Some((field, value)) = input.impossible() {
                return Err(InputError::Value { path: path(), model: model.clone(), field, value });
            }
        }
        Ok(inputs)
    }

    /// The names of all models, smallest first.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<&String> = self.models.keys().collect();
        names.sort_by_key(|name| self.models[*name].measured.elements);
        names.into_iter().cloned().collect()
    }

    /// As a file that [`Inputs::read`] reads.
    pub(crate) fn text(&self) -> String {
        let quoted = |text: &str| format!("{text:?}");
        let mut lines = vec![
            format!("version = {VERSION}"),
            format!("date = {}", quoted(&self.date)),
            format!("machine = {}", quoted(&self.machine)),
            format!("program = {}", quoted(&self.program)),
            format!("load = {}", quoted(&self.load)),
        ];
        for name in self.names() {
            let ModelInput { dataset, train_samples, samples_per_unit, measured } = &self.models[&name];
            lines.extend([
                String::new(),
                format!("[model.{}]", quoted(&name)),
                format!("dataset = {}", quoted(dataset)),
                format!("train_samples = {train_samples}"),
                format!("samples_per_unit = {samples_per_unit}"),
                format!("[model.{}.measured]", quoted(&name)),
            ]);
            lines.extend(fields(measured));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    /// Of models that were just measured.
    pub(crate) fn new(
        date: String,
        machine: String,
        program: String,
        load: String,
        models: BTreeMap<String, ModelInput>,
    ) -> Self {
        Self { version: VERSION, date, machine, program, load, models }
    }
}

fn fields(measured: &Measured) -> Vec<String> {
    let time = |name: &str, time: &crate::model::UnitTime| {
        format!(
            "{name} = {{ alone_us = {:.1}, alone_p10_us = {:.1}, alone_p90_us = {:.1}, busy_us = {:.1} }}",
            time.alone_us, time.alone_p10_us, time.alone_p90_us, time.busy_us
        )
    };
    vec![
        format!("cores = {}", measured.cores),
        format!("units = {}", measured.units),
        time("gradient", &measured.gradient),
        time("evaluation", &measured.evaluation),
        format!("call_us = {:.1}", measured.call_us),
        format!("start_us = {:.1}", measured.start_us),
        format!("initialise_us = {:.1}", measured.initialise_us),
        format!("add_us = {:.1}", measured.add_us),
        format!("merge_us = {:.1}", measured.merge_us),
        format!("update_us = {:.1}", measured.update_us),
        format!("memory_bytes = {}", measured.memory_bytes),
        format!("elements = {}", measured.elements),
    ]
}

impl ModelInput {
    /// A field that cannot have its value.
    fn impossible(&self) -> Option<(&'static str, f64)> {
        let Measured { gradient, call_us, add_us, merge_us, update_us, .. } = &self.measured;
        let counts = [
            ("train_samples", f64::from(self.train_samples)),
            ("samples_per_unit", f64::from(self.samples_per_unit)),
            ("cores", f64::from(self.measured.cores)),
            ("elements", self.measured.elements as f64),
            ("memory_bytes", self.measured.memory_bytes as f64),
            ("gradient.alone_us", gradient.alone_us),
            ("gradient.busy_us", gradient.busy_us),
        ];
        let times = [("call_us", *call_us), ("add_us", *add_us), ("merge_us", *merge_us), ("update_us", *update_us)];
        let bad_count = counts.into_iter().find(|(_, value)| !(value.is_finite() && *value > 0.0));
        bad_count.or_else(|| times.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Inputs, InputError> {
        Inputs::parse(text, Path::new("here.toml"))
    }

    #[test]
    fn what_comes_with_the_program_is_read_and_written_again() {
        let inputs = Inputs::built_in().unwrap();
        assert_eq!(parse(&inputs.text()).unwrap(), inputs);
        assert!(inputs.models.contains_key("lenet5") && inputs.models.contains_key("vgg11"));
        let sizes: Vec<u64> = inputs.names().iter().map(|name| inputs.models[name].measured.elements).collect();
        assert!(sizes.is_sorted(), "{sizes:?}");
    }

    #[test]
    fn a_file_that_cannot_be_used_is_refused_with_the_reason() {
        let good = Inputs::built_in().unwrap().text();
        let with = |from: &str, to: &str| {
            assert!(good.contains(from), "{from}");
            parse(&good.replacen(from, to, 1)).unwrap_err().to_string()
        };
        for (found, part) in [
            (with("version = 1", "version = 2"), "knows version 1"),
            (with("train_samples = 60000", "train_samples = 0"), "train_samples = 0"),
            (with("add_us = ", "add_us = -1"), "add_us = -1"),
            (with("elements = ", "elemente = "), "no file of measured units"),
            (with("date = ", "data = "), "no file of measured units"),
            (parse("").unwrap_err().to_string(), "no file of measured units"),
        ] {
            assert!(found.contains(part) && found.starts_with("here.toml"), "{found:?} does not say {part:?}");
        }
        let head = &good[..good.find("[model").unwrap()];
        assert!(parse(&format!("{head}\n[model]\n")).unwrap_err().to_string().contains("nothing of any model"));
    }
}
