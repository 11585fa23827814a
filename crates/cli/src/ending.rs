//! Processes that look at others that train: how they step back, and when they end.

use std::io;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// How far.
const NICE: i32 = 10;

/// Steps back for those that train. Where the system does not allow it, they still have the larger part of the cores.
pub(crate) fn step_back() {
    let _ = rustix::process::nice(NICE);
}

/// Resolves when the process is asked to end: by a signal or, if it is to end with its parent, by the end of stdin.
pub(crate) fn asked_to_end(end_with_parent: bool) -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let (parent, mut parent_ended) = tokio::sync::mpsc::channel::<()>(1);
    // Nobody sends anything: the channel ends when its sender is dropped.
    let mut parent = Some(parent);
    if end_with_parent {
        let sender = parent.take();
        // A thread and not tokio's stdin, which keeps the runtime from ending while it reads.
        std::thread::spawn(move || {
            // An error ends the stream as well.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            drop(sender);
        });
    }
    Ok(async move {
        let _parent = parent;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = parent_ended.recv() => {}
        }
    })
}
