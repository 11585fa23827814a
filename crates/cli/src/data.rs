//! Datasets for the commands that need one.

use peerless_protocol::{DatasetSpec, RunSpec};
use peerless_training::datasets::{
    DatasetError, DatasetInfo, PullEvent, PullOptions, dataset, default_dir, pull, verify,
};
use peerless_training::{Model, Trainer, TrainingError, datasets};

use crate::failure::{Advise, advised, code};
use crate::output::say;

/// The dataset of that name.
pub(crate) fn named(name: &str) -> anyhow::Result<DatasetInfo> {
    dataset(name).code(code::USAGE)
}

/// Makes sure that a dataset is there and right. It is pulled on first use; damaged files are not
/// replaced unasked, as somebody may want to know what happened to them.
pub(crate) fn ensure(name: &str) -> anyhow::Result<()> {
    match verify(name, &default_dir()) {
        Ok(()) => Ok(()),
        Err(DatasetError::Missing { .. }) => fetch(name, &PullOptions::default()).map(|_| ()),
        Err(error) => Err(pull_hint(error, name)),
    }
}

/// Makes sure that this machine has the very dataset that a run is for.
pub(crate) fn verify_for(spec: &RunSpec) -> anyhow::Result<()> {
    let name = &spec.dataset.name;
    let known = dataset(name).code(code::DATA)?.spec();
    if known != spec.dataset {
        return Err(other_dataset(&spec.dataset, &known)).code(code::DATA);
    }
    verify(name, &default_dir()).map_err(|error| pull_hint(error, name))
}

/// The model and its dataset, which must fit together.
pub(crate) fn trainer(model: &str, dataset: &str) -> anyhow::Result<Trainer> {
    let build = || {
        let opened = datasets::Dataset::open(dataset, &default_dir())?;
        let model = Model::fitting(model, opened.info().shape, opened.info().classes)?;
        Trainer::new(model, opened)
    };
    build().map_err(|error| match error {
        TrainingError::Dataset(error) => pull_hint(error, dataset),
        TrainingError::UnknownModel { .. } => {
            let hint = "only the models of `peerless models` can be computed here";
            advised(error, code::USAGE, Some(hint.to_owned()))
        }
        TrainingError::Mismatch { .. } => advised(error, code::USAGE, None),
        error => error.into(),
    })
}

/// Pulls a dataset and tells on stderr what it tries.
pub(crate) fn fetch(name: &str, options: &PullOptions) -> anyhow::Result<std::path::PathBuf> {
    let mut report = |event: PullEvent| match event {
        PullEvent::Present { folder } => say(&format!("{name} is in {} already", folder.display())),
        PullEvent::Trying { source } => say(&format!("{name}: trying {source}")),
        PullEvent::Failed { source, reason } => say(&format!("{name}: {source} failed: {reason}")),
        PullEvent::Stored { folder, bytes } => {
            say(&format!("{name}: {:.1} MB in {}", bytes as f64 / 1e6, folder.display()));
        }
    };
    let pulled = pull(name, options, &mut report);
    pulled.map_err(|error| match error {
        DatasetError::Unknown { .. } => advised(error, code::USAGE, None),
        error => advised(error, code::DATA, None),
    })
}

fn pull_hint(error: DatasetError, name: &str) -> anyhow::Error {
    let hint = match &error {
        DatasetError::Unknown { .. } => return advised(error, code::USAGE, None),
        _ => format!("`peerless data pull {name}` fetches it again"),
    };
    advised(error, code::DATA, Some(hint))
}

fn other_dataset(asked: &DatasetSpec, known: &DatasetSpec) -> anyhow::Error {
    anyhow::anyhow!(
        "the run is for {} with digest {}, this program knows it with digest {}",
        asked.name,
        asked.digest.short(),
        known.digest.short()
    )
}
