//! A straggler: a peer whose functions stand still most of the time, as on a machine that others use, too.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use peerless_peer::process;
use peerless_peer::status::PeerStatus;
use rustix::process::Signal;

use crate::functions::FUNCTION_COMMAND;

/// Functions get a tenth of the time, in slices short against a unit, as from a scheduler.
const STOPPED: Duration = Duration::from_millis(45);
const RUNNING: Duration = Duration::from_millis(5);
/// How often new function processes are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Slows the functions of a peer down until it is dropped.
#[derive(Debug)]
pub(crate) struct Slow {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    /// Begins with the functions of the peer with this directory. A thread of its own, as the slices are shorter than
    /// the time between two looks at the peers.
    pub(crate) fn start(directory: PathBuf) -> Self {
        let (end, ended) = channel();
        let thread = std::thread::spawn(move || {
            let (mut functions, mut looked) = (Vec::new(), None::<Instant>);
            let wait = |time| matches!(ended.recv_timeout(time), Err(RecvTimeoutError::Timeout));
            loop {
                if looked.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY) {
                    (functions, looked) = (of(&directory), Some(Instant::now()));
                }
                send(&functions, Signal::STOP);
                let goes_on = wait(STOPPED);
                // In any case: nobody else would.
                send(&functions, Signal::CONT);
                if !goes_on || !wait(RUNNING) {
                    return;
                }
            }
        });
        Self { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            // It cannot panic, and if it did there would be nothing left to do.
            let _ = thread.join();
        }
    }
}

/// The function processes of a peer, by what it says.
fn of(directory: &Path) -> Vec<u32> {
    let status = PeerStatus::read(directory).ok().flatten();
    let functions = status.into_iter().flat_map(|status| status.functions.processes);
    functions.map(|function| function.pid).filter(|&pid| process::is_alive(pid, FUNCTION_COMMAND)).collect()
}

fn send(functions: &[u32], number: Signal) {
    for &pid in functions {
        process::signal(pid, number);
    }
}
