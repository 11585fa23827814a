//! Tasks for functions, and what becomes of their answers.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use peerless_functions::{FunctionPlatform, Meter, PlatformSnapshot, RetryPolicy, Retrying};
use peerless_protocol::function::{FUNCTION_PROTOCOL, Output, Place, Task, Work};
use peerless_protocol::{Digest, Input, Layout, PeerId, RunId, RunSpec, StateRef, UnitKind, UnitSet};
use peerless_store::StoredState;
use tokio::task::JoinSet;

use super::storage::Storage;
use crate::data_path::{DataPath, DataPathSnapshot};
use crate::options::PeerError;

/// The peer's functions.
pub(super) struct Functions {
    retrying: Retrying<Arc<dyn FunctionPlatform>>,
    /// How tensors reach functions that do not see this peer's files.
    data_path: Option<Arc<dyn DataPath>>,
    spec: RunSpec,
    run: RunId,
    next: AtomicU64,
}

/// What a run starts from.
pub(super) struct Prepared {
    pub layout: Layout,
    pub vector: Vec<f32>,
    pub fingerprint: Digest,
}

impl Functions {
    /// Functions of a platform that sees this peer's files, or has `data_path` around it.
    pub fn new(
        platform: Arc<dyn FunctionPlatform>,
        data_path: Option<Arc<dyn DataPath>>,
        spec: RunSpec,
        me: PeerId,
        meter: Arc<dyn Meter>,
    ) -> Self {
        let mut seed = [0; 8];
        seed.copy_from_slice(&me.0[..8]);
        let policy = RetryPolicy { seed: u64::from_le_bytes(seed), ..RetryPolicy::default() };
        let retrying = Retrying::new(platform, policy, meter);
        let run = spec.id();
        Self { retrying, data_path, spec, run, next: AtomicU64::new(1) }
    }

    /// Most functions at work at the same time.
    pub fn concurrency(&self) -> usize {
        self.retrying.platform().concurrency()
    }

    pub fn snapshot(&self) -> PlatformSnapshot {
        self.retrying.platform().snapshot()
    }

    /// What the data path moved.
    pub fn data_path(&self) -> Option<DataPathSnapshot> {
        self.data_path.as_ref().map(|path| path.snapshot())
    }

    pub async fn shutdown(&self) {
        self.retrying.platform().shutdown().await;
    }

    fn task(&self, work: Work) -> Task {
        let invocation = self.next.fetch_add(1, Ordering::Relaxed);
        Task { version: FUNCTION_PROTOCOL, invocation, run: self.run, spec: self.spec.clone(), work }
    }

    /// Has the model's initial parameters made in `output`, which is removed again.
    pub async fn prepare(&self, output: &Path) -> Result<Prepared, PeerError> {
        let task = self.task(Work::Initialise { output: Place::Path(output.into()) });
        let invocation = self.retrying.invoke(&task, None).await?;
        let damaged = |reason: String| PeerError::InitialParameters { path: output.into(), reason };
        let Output::Initialised { layout, digest, fingerprint } = invocation.output else {
            return Err(damaged("the function answered something else".into()));
        };
        let bytes = fs::read(output).map_err(|error| damaged(error.to_string()))?;
        let _ = fs::remove_file(output);
        if Digest::of(&bytes) != digest {
            return Err(damaged("their digest is not the one that the function reported".into()));
        }
        let vector = bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
        Ok(Prepared { layout, vector, fingerprint })
    }

    /// Computes one unit and puts its gradient into the store. `None` when its round is over.
    pub async fn compute(&self, storage: &Storage, state: &StoredState, unit: u32, kind: UnitKind) -> Option<Input> {
        let from = state.reference;
        match self.try_compute(storage, state, unit, kind).await {
            Ok(tally) => tally.map(|tally| Input::UnitComputed { from, unit, tally }),
            Err(cause) => Some(Input::UnitFailed { from, unit, cause }),
        }
    }

    /// Computes gradients again that a database has lost. They are not reported: the protocol has these units.
    pub async fn compute_again(
        self: &Arc<Self>,
        storage: &Storage,
        state: &StoredState,
        units: &UnitSet,
    ) -> Result<(), PeerError> {
        let mut computing = JoinSet::new();
        for unit in units.iter() {
            let (functions, storage, state) = (Arc::clone(self), storage.clone(), state.clone());
            computing.spawn(async move { functions.compute(&storage, &state, unit, UnitKind::Gradient).await });
        }
        while let Some(computed) = computing.join_next().await {
            if let Ok(Some(Input::UnitFailed { unit, cause, .. })) = computed {
                return Err(PeerError::Lost { unit, cause });
            }
        }
        Ok(())
    }

    async fn try_compute(
        &self,
        storage: &Storage,
        state: &StoredState,
        unit: u32,
        unit_kind: UnitKind,
    ) -> Result<Option<peerless_protocol::Tally>, String> {
        let from: StateRef = state.reference;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let output = storage.unit_output(from.round, unit);
        let work = Work::Unit {
            round: from.round,
            unit,
            unit_kind,
            parameters: state.vector(),
            output: Place::Path(output.clone()),
            dataset: BTreeMap::new(),
        };
        let invocation = self.retrying.invoke(&self.task(work), None).await.map_err(|e| text(&e))?;
        let output = invocation.elsewhere.unwrap_or(output);
        match (invocation.output, unit_kind) {
            (Output::Unit { tally, digest: Some(digest) }, UnitKind::Gradient) => {
                let added = storage.run(move |worker| worker.add_unit(from, unit, &output, digest)).await;
                let added = added.map_err(|e| text(&e))?.map_err(|e| text(&e))?;
                Ok(added.then_some(tally))
            }
            (Output::Unit { tally, .. }, UnitKind::Evaluation) => Ok(Some(tally)),
            _ => Err("the function answered something else".into()),
        }
    }
}
