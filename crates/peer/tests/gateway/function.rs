//! Functions elsewhere: a platform whose functions compute a stand-in for a model and reach tensors only
//! where their tasks say, well-behaved or not.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use peerless_functions::{
    AttemptId, BoxFuture, Call, Counters, FunctionPlatform, Invocation, InvocationRecord, InvokeError, Metering,
    Outcome, PlatformSnapshot, WorkLabel,
};
use peerless_protocol::function::{Failure, FailureKind, Output, Place, Remote, Task, TensorRef, Work};
use peerless_protocol::{Digest, Layout, LayoutEntry, Role, Tally, UnitKind};

use crate::bench::{agent, bearer, put_head};

pub const ELEMENTS: u32 = 5000;

/// What a function does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mischief {
    None,
    /// It dies after its output has arrived and before its report.
    DiesAfterWriting,
    /// It is given up, and writes something else when another attempt is under way.
    WritesLate,
    /// It writes something else when it has written.
    WritesTwice,
    /// Its connection is cut in the middle of its output, and it sends that again.
    CutWhileWriting,
    /// It reports success and has written nothing.
    WritesNothing,
    /// It fails with a message that quotes its task.
    QuotesItsTask,
    /// What it writes is not what it reports.
    WritesGarbage,
}

type Chooser = dyn Fn(&Task, u32) -> Mischief + Send + Sync;

/// A platform of such functions.
pub struct Elsewhere {
    shares_files: bool,
    choose: Box<Chooser>,
    seen: Arc<Seen>,
}

/// What happened there.
#[derive(Default)]
pub struct Seen {
    pub tasks: Mutex<Vec<Task>>,
    /// How the gateway answered what should not have been written.
    pub refusals: Mutex<Vec<(Mischief, u16)>>,
    late: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

impl Seen {
    pub fn wait_for_the_late(&self) {
        self.late.lock().unwrap().drain(..).for_each(|thread| thread.join().unwrap());
    }
}

impl Elsewhere {
    pub fn new(choose: impl Fn(&Task, u32) -> Mischief + Send + Sync + 'static) -> Self {
        Self { shares_files: false, choose: Box::new(choose), seen: Arc::default() }
    }

    /// The same functions on this machine.
    pub fn here() -> Self {
        Self { shares_files: true, ..Self::new(|_, _| Mischief::None) }
    }

    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }
}

impl FunctionPlatform for Elsewhere {
    fn name(&self) -> &'static str {
        "elsewhere"
    }

    fn concurrency(&self) -> usize {
        4
    }

    fn shares_files(&self) -> bool {
        self.shares_files
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        let (task, seen) = (call.task.clone(), Arc::clone(&self.seen));
        let mischief = (self.choose)(&task, call.attempt);
        seen.tasks.lock().unwrap().push(task.clone());
        Box::pin(async move {
            let work = WorkLabel::from(&task.work);
            let outcome = match mischief {
                Mischief::QuotesItsTask => Err(quoting(&task)),
                _ => tokio::task::spawn_blocking(move || self::work(&task, mischief, &seen)).await.unwrap(),
            };
            let recorded = outcome.clone().map_or_else(Outcome::Failed, |_| Outcome::Succeeded);
            let (platform, id, metering) = ("elsewhere", AttemptId::from(&call), Metering::default());
            call.meter.record(InvocationRecord { id, work, platform, outcome: recorded, metering });
            Ok(Invocation { output: outcome?, metering, elsewhere: None })
        })
    }

    fn snapshot(&self) -> PlatformSnapshot {
        PlatformSnapshot { warm: 0, busy: 0, queued: 0, functions: Vec::new(), counters: Counters::default() }
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

fn work(task: &Task, mischief: Mischief, seen: &Seen) -> Result<Output, InvokeError> {
    match &task.work {
        Work::Ping => Ok(Output::Pong),
        Work::Initialise { output } => {
            let bytes = vector((0..ELEMENTS).map(|index| index as f32 * 1e-4));
            write(output, &bytes);
            let entry = LayoutEntry { name: "weight".into(), shape: vec![ELEMENTS], offset: 0, role: Role::Parameter };
            let layout = Layout { entries: vec![entry] };
            Ok(Output::Initialised { layout, digest: Digest::of(&bytes), fingerprint: Digest([1; 32]) })
        }
        Work::Unit { unit_kind: UnitKind::Evaluation, parameters, .. } => {
            read(parameters);
            let samples = task.spec.evaluation.samples_per_unit.into();
            Ok(Output::Unit { tally: Tally { samples, correct: 0, loss_sum: 0 }, digest: None })
        }
        Work::Unit { round, unit, parameters, output, .. } => {
            let gradient = gradient(&read(parameters), *round, *unit);
            behave(mischief, output, &gradient, seen)?;
            let samples = task.spec.samples_per_unit.into();
            Ok(Output::Unit { tally: Tally { samples, correct: 0, loss_sum: 0 }, digest: Some(Digest::of(&gradient)) })
        }
    }
}

fn behave(mischief: Mischief, output: &Place, gradient: &[u8], seen: &Seen) -> Result<(), InvokeError> {
    let garbage = vec![7; gradient.len()];
    match mischief {
        Mischief::None => write(output, gradient),
        Mischief::WritesGarbage => write(output, &garbage),
        Mischief::WritesNothing | Mischief::QuotesItsTask => {}
        Mischief::DiesAfterWriting => {
            write(output, gradient);
            return Err(died());
        }
        Mischief::WritesTwice => {
            write(output, gradient);
            let status = put(remote(output), &garbage);
            seen.refusals.lock().unwrap().push((mischief, status));
        }
        Mischief::WritesLate => {
            let status = put_late(remote(output).clone(), garbage);
            seen.late.lock().unwrap().push(std::thread::spawn(status));
            return Err(died());
        }
        Mischief::CutWhileWriting => {
            let remote = remote(output);
            let address = remote.url.strip_prefix("http://").unwrap().split('/').next().unwrap();
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&put_head(remote, gradient.len())).unwrap();
            stream.write_all(&garbage[..garbage.len() / 2]).unwrap();
            drop(stream);
            // Until the gateway has noticed that the first is gone.
            while put(remote, gradient) == 409 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
    Ok(())
}

fn quoting(task: &Task) -> InvokeError {
    let message = serde_json::to_string(task).unwrap();
    InvokeError::Reported(Failure { kind: FailureKind::Input, message })
}

fn died() -> InvokeError {
    InvokeError::Reported(Failure { kind: FailureKind::Environment, message: "gone".into() })
}

fn put_late(remote: Remote, garbage: Vec<u8>) -> impl FnOnce() + Send + 'static {
    move || {
        std::thread::sleep(Duration::from_millis(5));
        // The gateway itself may be gone at the end of the test.
        if let Ok(answer) = agent().put(&remote.url).header("Authorization", bearer(&remote)).send(&garbage[..]) {
            assert_ne!(answer.status().as_u16(), 204, "an attempt that is over has written");
        }
    }
}

/// The gradient that follows from state, round and unit.
pub fn gradient(state: &[u8], round: u64, unit: u32) -> Vec<u8> {
    let mut noise = vec![0; state.len() / 4];
    let seed = [&round.to_le_bytes()[..], &unit.to_le_bytes()].concat();
    blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut noise);
    vector(
        state
            .as_chunks::<4>()
            .0
            .iter()
            .zip(noise)
            .map(|(parameter, noise)| f32::from_le_bytes(*parameter) * 0.1 + f32::from(noise) / 256.0 - 0.5),
    )
}

fn vector(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}

fn read(tensor: &TensorRef) -> Vec<u8> {
    let length = tensor.elements as usize * 4;
    match &tensor.place {
        Place::Path(path) => {
            let mut bytes = vec![0; length];
            let mut file = fs::File::open(path).unwrap();
            file.seek(SeekFrom::Start(tensor.offset)).unwrap();
            file.read_exact(&mut bytes).unwrap();
            bytes
        }
        Place::Remote(remote) => {
            let range = format!("bytes={}-{}", tensor.offset, tensor.offset + length as u64 - 1);
            let request = agent().get(&remote.url).header("Authorization", bearer(remote)).header("Range", range);
            let mut response = request.call().unwrap();
            assert_eq!(response.status(), 206);
            let bytes = response.body_mut().read_to_vec().unwrap();
            assert_eq!(Some(Digest::of(&bytes)), tensor.digest);
            bytes
        }
    }
}

fn write(place: &Place, bytes: &[u8]) {
    match place {
        Place::Path(path) => fs::write(path, bytes).unwrap(),
        Place::Remote(remote) => assert_eq!(put(remote, bytes), 204),
    }
}

fn put(remote: &Remote, bytes: &[u8]) -> u16 {
    agent().put(&remote.url).header("Authorization", bearer(remote)).send(bytes).unwrap().status().as_u16()
}

fn remote(place: &Place) -> &Remote {
    match place {
        Place::Remote(remote) => remote,
        Place::Path(path) => panic!("{} is a file", path.display()),
    }
}
