//! The traces of a run that is trained here, sent by a process of its own.

use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::beside;
use super::peers::Launch;
use crate::output::label;

/// How long the end of training waits until the last rounds are with the collector. The process gives up before.
const WAIT: Duration = Duration::from_secs(7);

/// The process. When this is dropped, it is told that training is over, and waited for.
#[derive(Debug)]
pub(crate) struct TracesProcess {
    child: Option<Child>,
}

impl TracesProcess {
    /// Starts it. That it cannot is no reason not to train.
    pub(crate) fn start(launch: &Launch, collector: &str) -> Self {
        let child = beside::spawn(launch, "trace", &["--follow", "--otlp", collector], Stdio::null());
        let failed = |error: &anyhow::Error| label("warning", &format!("there are no traces: {error:#}"));
        Self { child: child.inspect_err(failed).ok() }
    }
}

impl Drop for TracesProcess {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        drop(child.stdin.take());
        let (ended, end) = mpsc::channel();
        // One that was stopped by a signal does not end: it is left alone.
        std::thread::spawn(move || {
            let _ = child.wait();
            let _ = ended.send(());
        });
        let _ = end.recv_timeout(WAIT);
    }
}
