//! A function for tests: answers pings, and does whatever the model's name in the task says.
//!
//! Files in the folder `PEERLESS_SCRIPT_DIR` are how tests see and steer it.

#![allow(clippy::unwrap_used, reason = "a test program; its panics are test failures")]

use std::io::{self, BufRead, Write, stderr, stdin, stdout};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, abort, exit};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use peerless_protocol::Digest;
use peerless_protocol::function::{Failure, FailureKind, Output, Place, Report, Task, Work};

fn main() {
    let (lines, tasks) = mpsc::sync_channel(1);
    // On a thread of its own, so that the end of stdin ends the program also during a task.
    thread::spawn(move || {
        for line in stdin().lock().lines() {
            lines.send(line.unwrap()).unwrap();
        }
        // One that breaks the rule does not end with its peer.
        if env::var_os("PEERLESS_SCRIPT_DEAF").is_none() {
            exit(0);
        }
        loop {
            thread::park();
        }
    });
    for line in tasks {
        let task: Task = serde_json::from_str(&line).unwrap();
        perform(&task);
    }
}

fn perform(task: &Task) {
    match task.spec.model.as_str() {
        "abort" => abort(),
        "exit-3" => {
            eprintln!("giving up\nfor good");
            exit(3);
        }
        "sleep" => {
            mark(&format!("asleep-{}", task.invocation));
            loop {
                thread::park();
            }
        }
        "hold" => hold(task),
        "allocate" => allocate(task),
        "garbage" => say("this is no report"),
        "wrong-kind" => answer(task.invocation, Ok(Output::Unit { tally: Default::default(), digest: None })),
        "other-invocation" => pong(task.invocation + 1),
        "twice" => {
            pong(task.invocation);
            pong(task.invocation);
        }
        "endless-line" => loop {
            // Fails when the parent had enough; the reader of stdin ends the program.
            let _broken_pipe = stdout().write_all(&[b'x'; 65_536]);
        },
        "crash-once" if mark("crashed") => abort(),
        "stderr" => {
            (0..100_000).for_each(|number| eprintln!("complaint {number}"));
            stderr().write_all(&vec![b'x'; 1 << 20]).unwrap();
            eprintln!("\nlast words");
            exit(4);
        }
        "environment" => {
            let names: Vec<String> = env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
            fs::write(folder().join("environment"), names.concat()).unwrap();
            pong(task.invocation);
        }
        "grandchild" => {
            let mut grandchild = Command::new("sleep").arg("1000").spawn().unwrap();
            fs::write(folder().join("grandchild"), grandchild.id().to_string()).unwrap();
            grandchild.wait().unwrap();
        }
        "fail-numerics" => fail(task, FailureKind::Numerics),
        "fail-environment" => fail(task, FailureKind::Environment),
        "fill-shared-memory" => fill_shared_memory(task),
        "report-denied" => {
            let message = "cannot read /etc/shadow: Permission denied (os error 13)".into();
            answer(task.invocation, Err(Failure { kind: FailureKind::Input, message }));
        }
        attempt if attempt.starts_with("attempt ") => {
            let words: Vec<&str> = attempt.split(' ').collect();
            let outcome = try_to(words[1], words[2]).unwrap_or_else(|error| format!("{:?}", error.kind()));
            fs::write(folder().join("outcome"), outcome).unwrap();
            pong(task.invocation);
        }
        "unit" => compute(task, 1 << 20),
        "large-unit" => compute(task, u64::MAX),
        "exit-when-idle" => {
            pong(task.invocation);
            exit(0);
        }
        _ => pong(task.invocation),
    }
}

/// Writes a gradient of one element where the task says.
fn compute(task: &Task, peak_memory_bytes: u64) {
    let Work::Unit { output: Place::Path(path), .. } = &task.work else { panic!("{task:?}") };
    let gradient = 1.5_f32.to_le_bytes();
    fs::write(path, gradient).unwrap();
    let outcome = Ok(Output::Unit { tally: Default::default(), digest: Some(Digest::of(&gradient)) });
    report(&Report {
        invocation: task.invocation,
        outcome,
        duration_us: 1,
        peak_memory_bytes,
        cold: false,
        reads: None,
    });
}

/// Works until the file `release` appears, and says so by a file.
fn hold(task: &Task) {
    mark(&format!("started-{}", task.invocation));
    while !folder().join("release").exists() {
        thread::sleep(Duration::from_millis(1));
    }
    pong(task.invocation);
}

fn allocate(task: &Task) {
    // Bounded, so that a limit that does not work fails the test and not the machine.
    let blocks: Vec<Vec<u8>> = (0..64).map(|_| vec![1; 16 << 20]).collect();
    eprintln!("allocated {} blocks", blocks.len());
    pong(task.invocation);
}

/// Memory that is no part of the heap: pages of a file system that is in memory, in the folder of the test.
fn fill_shared_memory(task: &Task) {
    let mut file = fs::File::create(folder().join("filled")).unwrap();
    // Bounded, so that a limit that does not work fails the test and not the machine.
    (0..64).for_each(|_| file.write_all(&vec![1; 4 << 20]).unwrap());
    pong(task.invocation);
}

fn try_to(what: &str, argument: &str) -> io::Result<String> {
    match what {
        "read" => fs::read(argument)?,
        "write" => fs::write(argument, "x").map(|()| Vec::new())?,
        "temporary" => fs::write(env::temp_dir().join(argument), "x").map(|()| Vec::new())?,
        "connect" => TcpStream::connect(argument).map(|_| Vec::new())?,
        "execute" => Command::new(argument).status().map(|_| Vec::new())?,
        other => panic!("unknown attempt {other}"),
    };
    Ok("done".into())
}

fn folder() -> PathBuf {
    env::var_os("PEERLESS_SCRIPT_DIR").unwrap().into()
}

/// Creates a file; false if it was there.
fn mark(name: &str) -> bool {
    fs::File::create_new(folder().join(name)).is_ok()
}

fn fail(task: &Task, kind: FailureKind) {
    let message = "as asked".into();
    answer(task.invocation, Err(Failure { kind, message }));
}

fn pong(invocation: u64) {
    answer(invocation, Ok(Output::Pong));
}

fn answer(invocation: u64, outcome: Result<Output, Failure>) {
    let start = Instant::now();
    let duration_us = start.elapsed().as_micros() as u64 + 1;
    report(&Report { invocation, outcome, duration_us, peak_memory_bytes: 1 << 20, cold: false, reads: None });
}

fn report(report: &Report) {
    say(&serde_json::to_string(report).unwrap());
}

fn say(line: &str) {
    let mut stdout = stdout().lock();
    writeln!(stdout, "{line}").unwrap();
    stdout.flush().unwrap();
}
