//! The function as a real process behind its line protocol.

#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, not in their helpers")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use peerless_aggregation::{LearningRate, Optimizer};
use peerless_function_host::{ENGINE_VARIABLE, MAX_LINE_BYTES};
use peerless_protocol::function::{
    FUNCTION_PROTOCOL, Failure, FailureKind, Output, Place, Report, Task, TensorRef, Work,
};
use peerless_protocol::{Digest, EpochOrder, EvaluationSpec, RunSpec, SPEC_VERSION, UnitKind, unit_seed};
use peerless_training::datasets::{Dataset, PullOptions, dataset, default_dir, pull};
use peerless_training::{Engine, Model, Trainer};

struct Function {
    child: Child,
    tasks: Option<ChildStdin>,
    reports: BufReader<ChildStdout>,
    invocations: u64,
}

impl Function {
    fn start(data_dir: &Path) -> Self {
        Self::start_with(data_dir, None)
    }

    /// With the engine of that name.
    fn start_with(data_dir: &Path, engine: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_peerless-function"));
        command.env("PEERLESS_DATA", data_dir).env("RAYON_NUM_THREADS", "1");
        command.envs(engine.map(|engine| (ENGINE_VARIABLE, engine)));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let tasks = child.stdin.take();
        let reports = BufReader::new(child.stdout.take().unwrap());
        Self { child, tasks, reports, invocations: 0 }
    }

    fn send(&mut self, line: &[u8]) {
        let tasks = self.tasks.as_mut().unwrap();
        tasks.write_all(line).and_then(|()| tasks.flush()).unwrap();
    }

    fn report(&mut self) -> Report {
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    fn invoke(&mut self, spec: &RunSpec, work: Work) -> Result<Output, Failure> {
        self.invocations += 1;
        let task =
            Task { version: FUNCTION_PROTOCOL, invocation: self.invocations, run: spec.id(), spec: spec.clone(), work };
        let mut line = serde_json::to_vec(&task).unwrap();
        line.push(b'\n');
        self.send(&line);
        let report = self.report();
        assert_eq!(report.invocation, self.invocations);
        assert!(report.peak_memory_bytes > 1 << 20, "{report:?}");
        report.outcome
    }

    /// Closes stdin and gives the exit status, and what is left on stdout and stderr.
    fn end(mut self) -> (ExitStatus, String, String) {
        drop(self.tasks.take());
        let (mut output, mut errors) = (String::new(), String::new());
        self.reports.read_to_string(&mut output).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap(), output, errors)
    }
}

fn data() -> PathBuf {
    pull("mnist", &PullOptions::default(), &mut |_| ()).unwrap();
    default_dir()
}

fn spec() -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "lenet5".to_owned(),
        dataset: dataset("mnist").unwrap().spec(),
        seed: 11,
        units_per_round: 4,
        samples_per_unit: 32,
        rounds: 10,
        optimizer: Optimizer::Sgd { weight_decay: 0.0 },
        learning_rate: LearningRate::constant(0.1),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 5, samples_per_unit: 100 },
        early_stopping: None,
        until_correct: None,
    }
}

fn write(path: &Path, values: &[f32]) -> TensorRef {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    fs::write(path, bytes).unwrap();
    TensorRef { place: Place::Path(path.to_owned()), offset: 0, elements: values.len() as u64, digest: None }
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|&word| f32::from_le_bytes(word)).collect()
}

fn unit(round: u64, unit: u32, unit_kind: UnitKind, parameters: TensorRef, output: &Path) -> Work {
    Work::Unit { round, unit, unit_kind, parameters, output: Place::Path(output.to_owned()), dataset: BTreeMap::new() }
}

#[test]
fn a_ping_is_answered_and_the_end_of_stdin_is_a_clean_exit() {
    let mut function = Function::start(Path::new("/nowhere"));
    assert_eq!(function.invoke(&spec(), Work::Ping), Ok(Output::Pong));
    let (status, output, _) = function.end();
    assert!(status.success() && output.is_empty(), "{status} {output:?}");
}

#[test]
fn initial_parameters_are_those_of_the_model_and_need_no_dataset() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("initial");
    let mut function = Function::start(Path::new("/nowhere"));
    let outcome = function.invoke(&spec(), Work::Initialise { output: Place::Path(output.clone()) });
    let mut model = Model::named("lenet5").unwrap();
    assert_eq!(floats(&output), model.initial_values(11).unwrap());
    let expected = Output::Initialised {
        layout: model.layout().clone(),
        digest: Digest::of(&fs::read(&output).unwrap()),
        fingerprint: model.fingerprint().unwrap(),
    };
    assert_eq!(outcome, Ok(expected));
}

#[test]
fn the_engine_of_the_environment_computes_or_is_said_to_be_missing() {
    let folder = tempfile::tempdir().unwrap();
    // GPUs are not there for tests.
    for engine in [Engine::Flex, Engine::LibTorch] {
        let mut function = Function::start_with(Path::new("/nowhere"), Some(engine.name()));
        let outcome = function.invoke(&spec(), Work::Initialise { output: Place::Path(folder.path().join("initial")) });
        match (outcome, Model::named("lenet5").unwrap().on(engine)) {
            (Ok(Output::Initialised { fingerprint, .. }), Ok(mut model)) => {
                assert_eq!(fingerprint, model.fingerprint().unwrap(), "{engine}");
            }
            (Err(failure), Err(missing)) => {
                assert_eq!((failure.kind, failure.message), (FailureKind::Unsupported, missing.to_string()));
            }
            (outcome, model) => panic!("{engine}: {outcome:?} of the function, here {model:?}"),
        }
    }
    let (status, output, errors) = Function::start_with(Path::new("/nowhere"), Some("tpu")).end();
    assert_eq!((status.code(), output.as_str()), (Some(2), ""));
    assert!(errors.contains("PEERLESS_FUNCTION_ENGINE: engine \"tpu\" is unknown"), "{errors}");
}

#[test]
fn units_equal_those_computed_without_a_function() {
    let data = data();
    let (folder, spec) = (tempfile::tempdir().unwrap(), spec());
    let mut trainer = Trainer::new(Model::named("lenet5").unwrap(), Dataset::open("mnist", &data).unwrap()).unwrap();
    let values = trainer.model().initial_values(spec.seed).unwrap();
    let parameters = write(&folder.path().join("parameters"), &values);
    let output = folder.path().join("gradient");
    let mut function = Function::start(&data);
    for (round, number) in [(0, 0), (0, 3), (7, 1)] {
        let work = unit(round, number, UnitKind::Gradient, parameters.clone(), &output);
        let outcome = function.invoke(&spec, work);
        let order = EpochOrder::new(&spec, 0);
        let samples = order.samples(&spec, round, number);
        let direct = trainer.gradient(&values, samples, unit_seed(&spec, round, number)).unwrap();
        assert_eq!(floats(&output), direct.gradient);
        let digest = Some(Digest::of(&fs::read(&output).unwrap()));
        assert_eq!(outcome, Ok(Output::Unit { tally: direct.tally, digest }));
    }
    // Round 5 evaluates: units 0 to 3 are gradients, unit 4 is the first slice of the test set.
    let unused = folder.path().join("unused");
    let outcome = function.invoke(&spec, unit(5, 5, UnitKind::Evaluation, parameters, &unused));
    let tally = trainer.evaluate(&values, 100..200).unwrap();
    assert_eq!(outcome, Ok(Output::Unit { tally, digest: None }));
    assert!(!unused.exists());
}

#[test]
fn a_task_that_cannot_be_done_is_reported_and_the_function_goes_on() {
    let data = data();
    let (folder, spec) = (tempfile::tempdir().unwrap(), spec());
    let values = Model::named("lenet5").unwrap().initial_values(1).unwrap();
    let parameters = write(&folder.path().join("parameters"), &values);
    let output = folder.path().join("gradient");
    let gradient = |parameters: &TensorRef| unit(0, 0, UnitKind::Gradient, parameters.clone(), &output);
    let mut function = Function::start(&data);
    let mut fails = |spec: &RunSpec, work: Work, kind: FailureKind, message: &str| {
        let failure = function.invoke(spec, work).unwrap_err();
        assert_eq!(failure.kind, kind, "{}", failure.message);
        assert!(failure.message.contains(message), "{message:?} is not in {:?}", failure.message);
    };

    let unknown_model = RunSpec { model: "lenet6".to_owned(), ..spec.clone() };
    fails(&unknown_model, gradient(&parameters), FailureKind::Unsupported, "use one of lenet5");
    let mut other_data = spec.clone();
    other_data.dataset.digest = Digest::of(b"other");
    fails(&other_data, gradient(&parameters), FailureKind::Unsupported, "with digest");
    let no_samples = RunSpec { samples_per_unit: 0, ..spec.clone() };
    fails(&no_samples, gradient(&parameters), FailureKind::Unsupported, "samples_per_unit is 0");
    let no_unit = unit(0, 4, UnitKind::Gradient, parameters.clone(), &output);
    fails(&spec, no_unit, FailureKind::Unsupported, "round 0 has no Gradient unit 4");

    let missing = TensorRef { place: Place::Path(folder.path().join("missing")), ..parameters.clone() };
    fails(&spec, gradient(&missing), FailureKind::Input, "cannot read parameters");
    let longer = TensorRef { elements: 61_707, ..parameters.clone() };
    fails(&spec, gradient(&longer), FailureKind::Input, "but the model has 61706");
    let behind = TensorRef { offset: 4, ..parameters.clone() };
    fails(&spec, gradient(&behind), FailureKind::Input, "truncated");

    let mut wrong = values.clone();
    wrong[61_705] = f32::NAN;
    let wrong = write(&folder.path().join("wrong"), &wrong);
    fails(&spec, gradient(&wrong), FailureKind::Numerics, "the loss of sample");
    let nowhere = unit(0, 0, UnitKind::Gradient, parameters.clone(), &folder.path().join("no/such/folder"));
    fails(&spec, nowhere, FailureKind::Environment, "cannot write");

    assert!(!output.exists(), "a failed task leaves no output");
    assert!(function.invoke(&spec, gradient(&parameters)).is_ok());
}

#[test]
fn a_missing_dataset_is_reported_with_the_command_that_pulls_it() {
    let folder = tempfile::tempdir().unwrap();
    let parameters = write(&folder.path().join("parameters"), &[0.0; 61_706]);
    let mut function = Function::start(folder.path());
    let work = unit(0, 0, UnitKind::Gradient, parameters, &folder.path().join("gradient"));
    let failure = function.invoke(&spec(), work).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Input);
    assert!(failure.message.contains("peerless data pull mnist"), "{}", failure.message);
}

#[test]
fn a_task_of_another_version_or_shape_is_reported() {
    let mut function = Function::start(Path::new("/nowhere"));
    for (line, message) in [
        (r#"{"version":99,"invocation":5,"anything":"else"}"#, "task of function protocol 99"),
        (r#"{"version":2,"invocation":5,"work":{"kind":"dance"}}"#, "the task cannot be read"),
    ] {
        function.send(format!("{line}\n").as_bytes());
        let report = function.report();
        let failure = report.outcome.unwrap_err();
        assert_eq!((report.invocation, failure.kind), (5, FailureKind::Unsupported));
        assert!(failure.message.contains(message), "{}", failure.message);
    }
}

#[test]
fn a_line_that_names_no_invocation_ends_the_function_with_a_message() {
    for (line, message) in [
        (b"{\"version\":1,\n".to_vec(), "not a task"),
        (b"\xff\xfe\n".to_vec(), "not a task"),
        (vec![b' '; MAX_LINE_BYTES as usize + 2], "more than 1048576 bytes"),
    ] {
        let mut function = Function::start(Path::new("/nowhere"));
        function.send(&line);
        let (status, output, errors) = function.end();
        assert_eq!((status.code(), output.as_str()), (Some(2), ""));
        assert!(errors.contains(message), "{errors}");
    }
}
