//! The tasks of a round, with URLs that are good for a time.

use std::collections::BTreeMap;
use std::time::Duration;

use peerless_peer::data_path::BucketConfig;
use peerless_protocol::function::{FUNCTION_PROTOCOL, Place, Remote, Task, TensorRef, Work};
use peerless_protocol::{Digest, RoundPlan, RunSpec};

/// A round whose state is known.
pub(crate) struct Round<'a> {
    pub(crate) spec: &'a RunSpec,
    pub(crate) number: u64,
    /// Parameters and buffers, little-endian f32.
    pub(crate) parameters: &'a [u8],
    /// Names of the dataset's files.
    pub(crate) dataset: Vec<String>,
    /// Where its objects are, below the bucket's prefix.
    pub(crate) folder: String,
}

impl Round<'_> {
    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }
}

/// The tasks of all units. They hold rights: whoever has them can read these objects and write the gradients.
pub(crate) async fn tasks(round: &Round<'_>, bucket: &BucketConfig, lifetime: Duration) -> anyhow::Result<Vec<Task>> {
    let read = async |key: String| -> anyhow::Result<Remote> {
        Ok(Remote { url: bucket.url_to_read(&key, lifetime).await?, token: None })
    };
    let parameters = TensorRef {
        place: Place::Remote(read(round.key("parameters.f32")).await?),
        offset: 0,
        elements: (round.parameters.len() / 4) as u64,
        digest: Some(Digest::of(round.parameters)),
    };
    let mut dataset = BTreeMap::new();
    for name in &round.dataset {
        let key = format!("datasets/{}/{name}", round.spec.dataset.name);
        dataset.insert(name.clone(), read(key).await?);
    }
    let plan = RoundPlan::new(round.spec, round.number);
    let mut tasks = Vec::new();
    for unit in 0..plan.total() {
        let url = bucket.url_to_write(&round.key(&format!("units/{unit}.f32")), lifetime).await?;
        let work = Work::Unit {
            round: round.number,
            unit,
            unit_kind: plan.kind(unit),
            parameters: parameters.clone(),
            output: Place::Remote(Remote { url, token: None }),
            dataset: dataset.clone(),
        };
        let invocation = u64::from(unit) + 1;
        let (run, spec) = (round.spec.id(), round.spec.clone());
        tasks.push(Task { version: FUNCTION_PROTOCOL, invocation, run, spec, work });
    }
    Ok(tasks)
}
