//! Remote functions used as if they shared the peer's files, and what wrong ones change: nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerless_functions::{FunctionPlatform, InvocationRecord, InvokeError, RetryPolicy, Retrying};
use peerless_peer::data_path::{DataPath, OverNetwork};
use peerless_peer::gateway::{Gateway, GatewayConfig};
use peerless_protocol::function::{FUNCTION_PROTOCOL, Output, Place, Task, TensorRef, Work};
use peerless_protocol::{Digest, RunSpec, UnitKind};

use crate::function::{Elsewhere, Mischief, Seen, gradient};

const OFFSET: usize = 13;

struct Fixture {
    folder: tempfile::TempDir,
    functions: Retrying<OverNetwork>,
    gateway: Arc<Gateway>,
    seen: Arc<Seen>,
    state: Vec<u8>,
    records: Arc<Mutex<Vec<InvocationRecord>>>,
}

impl Fixture {
    async fn new(choose: impl Fn(&Task, u32) -> Mischief + Send + Sync + 'static) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state: Vec<u8> = (0..1000).flat_map(|index| (index as f32 * 1e-3).to_le_bytes()).collect();
        fs::write(folder.path().join("state"), [&[9; OFFSET], &state[..]].concat()).unwrap();
        let config = GatewayConfig::new("127.0.0.1:0".parse().unwrap());
        let gateway = Arc::new(Gateway::start(&config).await.unwrap());
        let elsewhere = Elsewhere::new(choose);
        let seen = elsewhere.seen();
        let platform = OverNetwork::new(Arc::new(elsewhere), gateway.clone(), Duration::from_secs(60));
        assert!(platform.shares_files());
        let policy = RetryPolicy { base_delay: Duration::from_millis(1), ..RetryPolicy::default() };
        let records: Arc<Mutex<Vec<_>>> = Arc::default();
        let meter = Arc::clone(&records);
        let meter = Arc::new(move |record: InvocationRecord| meter.lock().unwrap().push(record));
        let functions = Retrying::new(platform, policy, meter);
        Self { records, folder, functions, gateway, seen, state }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn task(&self, unit: u32, unit_kind: UnitKind) -> Task {
        let parameters = TensorRef {
            place: Place::Path(self.path("state")),
            offset: OFFSET as u64,
            elements: self.state.len() as u64 / 4,
            digest: None,
        };
        let output = Place::Path(self.path(&output_name(unit)));
        task(Work::Unit { round: 3, unit, unit_kind, parameters, output, dataset: BTreeMap::new() })
    }

    async fn gradient(&self, unit: u32) -> Result<Output, InvokeError> {
        let task = self.task(unit, UnitKind::Gradient);
        self.functions.invoke(&task, None).await.map(|invocation| invocation.output).map_err(|failed| failed.error)
    }
}

fn output_name(unit: u32) -> String {
    format!("r3-u{unit}.f32")
}

fn task(work: Work) -> Task {
    let spec = spec(1);
    Task { version: FUNCTION_PROTOCOL, invocation: 1, run: spec.id(), spec, work }
}

pub fn spec(rounds: u64) -> RunSpec {
    serde_json::from_value(serde_json::json!({
        "version": 1, "model": "stand-in",
        "dataset": { "name": "none", "digest": "00".repeat(32), "train_samples": 1024, "test_samples": 16 },
        "seed": 1, "units_per_round": 6, "samples_per_unit": 4, "rounds": rounds,
        "optimizer": { "momentum": { "momentum": 0.9, "nesterov": true, "weight_decay": 0.0 } },
        "learning_rate": { "base": 0.05, "warm_up_rounds": 0, "schedule": "constant" },
        "clip_norm": null, "fraction_bits": 40,
        "evaluation": { "every_rounds": 5, "samples_per_unit": 16 },
        "early_stopping": null, "until_correct": null
    }))
    .unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_functions_do_wrong_the_gradient_is_the_same() {
    let mischiefs = [
        Mischief::None,
        Mischief::DiesAfterWriting,
        Mischief::WritesLate,
        Mischief::WritesTwice,
        Mischief::CutWhileWriting,
        Mischief::WritesNothing,
    ];
    let choose = move |task: &Task, attempt| match task.work {
        Work::Unit { unit, .. } if attempt == 1 => mischiefs[unit as usize],
        _ => Mischief::None,
    };
    let fixture = Fixture::new(choose).await;
    for (unit, mischief) in mischiefs.into_iter().enumerate() {
        let unit = unit as u32;
        let expected = gradient(&fixture.state, 3, unit);
        let output = fixture.gradient(unit).await.unwrap();
        assert!(matches!(output, Output::Unit { digest: Some(digest), .. } if digest == Digest::of(&expected)));
        fixture.seen.wait_for_the_late();
        assert!(fs::read(fixture.path(&output_name(unit))).unwrap() == expected, "{mischief:?}");
    }
    assert_eq!(*fixture.seen.refusals.lock().unwrap(), [(Mischief::WritesTwice, 403)]);
    let expected: Vec<_> = (0..6).map(output_name).chain(["state".into()]).collect();
    assert_eq!(names(fixture.folder.path()), expected, "something was left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_has_rights_of_its_own() {
    let choose = |_: &Task, attempt| if attempt < 3 { Mischief::DiesAfterWriting } else { Mischief::None };
    let fixture = Fixture::new(choose).await;
    fixture.gradient(0).await.unwrap();
    let tasks = fixture.seen.tasks.lock().unwrap();
    let outputs: Vec<_> = tasks
        .iter()
        .map(|task| match &task.work {
            Work::Unit { output: Place::Remote(remote), .. } => (remote.url.clone(), remote.token.clone()),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(outputs.len(), 3);
    assert!(outputs[0] != outputs[1] && outputs[1] != outputs[2]);
    // The reads of three attempts, of one vector that was opened once.
    assert_eq!(fixture.gateway.snapshot().bytes_out, 3 * 4000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_never_writes_fails_the_unit() {
    let fixture = Fixture::new(|_, _| Mischief::WritesNothing).await;
    let error = fixture.gradient(0).await.unwrap_err();
    assert_eq!(error.class(), "transfer");
    assert!(error.retryable());
    assert_eq!(fixture.seen.tasks.lock().unwrap().len(), 3, "it was not tried again");
    assert_eq!(names(fixture.folder.path()), ["state"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_gone_is_an_error_that_says_so() {
    let fixture = Fixture::new(|_, _| Mischief::None).await;
    fs::remove_file(fixture.path("state")).unwrap();
    let error = fixture.gradient(0).await.unwrap_err();
    assert!(!error.retryable());
    let message = error.to_string();
    assert!(message.starts_with("cannot read parameters ") && message.contains("No such file"), "{message}");
    assert!(fixture.seen.tasks.lock().unwrap().is_empty(), "a function was called for nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn evaluations_and_pings_write_nothing() {
    let fixture = Fixture::new(|_, _| Mischief::None).await;
    fixture.functions.invoke(&fixture.task(6, UnitKind::Evaluation), None).await.unwrap();
    let pong = fixture.functions.invoke(&task(Work::Ping), None).await.unwrap();
    assert_eq!(pong.output, Output::Pong);
    assert_eq!(names(fixture.folder.path()), ["state"]);
    let tasks = fixture.seen.tasks.lock().unwrap();
    assert!(matches!(&tasks[0].work, Work::Unit { output: Place::Remote(_), .. }));
    assert_eq!(fixture.gateway.snapshot().requests, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn initial_parameters_arrive() {
    let fixture = Fixture::new(|_, _| Mischief::None).await;
    let output = fixture.path("initial.f32");
    let invocation =
        fixture.functions.invoke(&task(Work::Initialise { output: Place::Path(output.clone()) }), None).await.unwrap();
    let Output::Initialised { digest, .. } = invocation.output else { panic!("{invocation:?}") };
    assert_eq!(Digest::of(&fs::read(output).unwrap()), digest);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gradient_that_is_damaged_on_the_way_is_computed_again() {
    let choose = |_: &Task, attempt| if attempt == 1 { Mischief::WritesGarbage } else { Mischief::None };
    let fixture = Fixture::new(choose).await;
    fixture.gradient(1).await.unwrap();
    assert!(fs::read(fixture.path(&output_name(1))).unwrap() == gradient(&fixture.state, 3, 1));
    assert_eq!(fixture.seen.tasks.lock().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_always_reports_another_gradient_fails_the_unit() {
    let fixture = Fixture::new(|_, _| Mischief::WritesGarbage).await;
    let error = fixture.gradient(1).await.unwrap_err();
    assert_eq!(error.class(), "transfer");
    assert!(error.to_string().contains("digest"), "{error}");
    assert_eq!(names(fixture.folder.path()), ["state"]);
}

/// Should a damaged file get to the sums all the same, they are as if it had not.
#[test]
fn a_corrupted_gradient_is_not_added_and_the_right_one_still_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r3-u1.f32");
    let right = gradient(&[0; 4000], 3, 1);
    let digest = Digest::of(&right);
    let mut corrupted = right.clone();
    corrupted[1000] ^= 1;
    fs::write(&path, corrupted).unwrap();
    let mut sums = crate::runs::sums(1000);
    let refused = sums.add_unit(1, &path, digest).unwrap_err().to_string();
    assert!(refused.contains("digest"), "{refused}");
    fs::write(&path, right).unwrap();
    sums.add_unit(1, &path, digest).unwrap();
    let mut undisturbed = crate::runs::sums(1000);
    undisturbed.add_unit(1, &path, digest).unwrap();
    assert_eq!(crate::runs::digest_of_sum(&mut sums, 1), crate::runs::digest_of_sum(&mut undisturbed, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_quote_their_task_tell_no_secret() {
    let fixture = Fixture::new(|_, _| Mischief::QuotesItsTask).await;
    let error = fixture.gradient(1).await.unwrap_err();
    let tasks = fixture.seen.tasks.lock().unwrap();
    let Work::Unit { output: Place::Remote(remote), .. } = &tasks[0].work else { panic!("a path") };
    let token = remote.token.as_ref().unwrap();
    let records = fixture.records.lock().unwrap();
    assert_eq!(records.len(), 1);
    for text in [error.to_string(), format!("{error:?}"), format!("{records:?}")] {
        assert!(text.contains("/v1/tasks/"), "the task was not quoted: {text}");
        assert!(!text.contains(&token[..16]), "{text}");
    }
}
