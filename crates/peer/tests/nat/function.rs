//! A function program that stands in for a model: its gradients follow from state, round and unit.

use std::fs;
use std::io::{self, BufRead, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use peerless_protocol::function::{Output, Place, Report, Task, Work};
use peerless_protocol::{Digest, Layout, LayoutEntry, Role, Tally, UnitKind};

const ELEMENTS: u32 = 5000;
/// So that a run takes seconds.
const UNIT_TIME: Duration = Duration::from_millis(15);

/// Answers the tasks on stdin until it ends.
pub fn serve() -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let task: Task = serde_json::from_str(&line?)?;
        let output = work(&task)?;
        let report = Report {
            reads: None,
            invocation: task.invocation,
            outcome: Ok(output),
            duration_us: 0,
            peak_memory_bytes: 0,
            cold: false,
        };
        let mut stdout = io::stdout().lock();
        serde_json::to_writer(&mut stdout, &report)?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
    }
    Ok(())
}

fn work(task: &Task) -> io::Result<Output> {
    match &task.work {
        Work::Ping => Ok(Output::Pong),
        Work::Initialise { output: Place::Path(output) } => {
            let digest = write(output, (0..ELEMENTS).map(|index| index as f32 * 1e-4))?;
            let entry = LayoutEntry { name: "weight".into(), shape: vec![ELEMENTS], offset: 0, role: Role::Parameter };
            Ok(Output::Initialised { layout: Layout { entries: vec![entry] }, digest, fingerprint: Digest([1; 32]) })
        }
        Work::Unit { unit_kind: UnitKind::Evaluation, .. } => {
            let samples = task.spec.evaluation.samples_per_unit.into();
            Ok(Output::Unit { tally: Tally { samples, correct: 0, loss_sum: 0 }, digest: None })
        }
        Work::Unit { round, unit, parameters, output: Place::Path(output), .. } => {
            std::thread::sleep(UNIT_TIME);
            let Place::Path(path) = &parameters.place else { return Err(io::ErrorKind::Unsupported.into()) };
            let mut file = fs::File::open(path)?;
            file.seek(io::SeekFrom::Start(parameters.offset))?;
            let mut state = vec![0; parameters.elements as usize * 4];
            file.read_exact(&mut state)?;
            let mut noise = vec![0; parameters.elements as usize];
            let seed = [&round.to_le_bytes()[..], &unit.to_le_bytes()].concat();
            blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut noise);
            let gradient = state.chunks_exact(4).zip(noise).map(|(bytes, noise)| {
                let parameter = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                parameter * 0.1 + f32::from(noise) / 256.0 - 0.5
            });
            let digest = write(output, gradient)?;
            let samples = task.spec.samples_per_unit.into();
            Ok(Output::Unit { tally: Tally { samples, correct: 0, loss_sum: 0 }, digest: Some(digest) })
        }
        Work::Initialise { .. } | Work::Unit { .. } => Err(io::ErrorKind::Unsupported.into()),
    }
}

fn write(output: &Path, values: impl Iterator<Item = f32>) -> io::Result<Digest> {
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let partial = output.with_extension(format!("{}.partial", std::process::id()));
    fs::write(&partial, &bytes)?;
    fs::rename(partial, output)?;
    Ok(Digest::of(&bytes))
}
