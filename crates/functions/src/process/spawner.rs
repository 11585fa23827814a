//! The thread that starts functions.
//!
//! The kernel sends a child the signal for its parent's death when the *thread* ends that started it, and the threads
//! of an asynchronous runtime come and go. This one lives as long as its pool.

use std::io;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;

/// Starts processes whose parent is a thread that lives as long as this value.
#[derive(Debug, Default)]
pub(super) struct Spawner {
    /// The thread begins with the first request.
    requests: Mutex<Option<mpsc::Sender<Request>>>,
}

#[derive(Debug)]
struct Request {
    command: Command,
    runtime: Handle,
    reply: mpsc::SyncSender<io::Result<Child>>,
}

impl Spawner {
    /// Starts a process; waits for the fraction of a millisecond that it takes. Needs a runtime around it.
    pub(super) fn spawn(&self, command: Command) -> io::Result<Child> {
        let (reply, child) = mpsc::sync_channel(1);
        let request = Request { command, runtime: Handle::current(), reply };
        let gone = || io::Error::other("the thread that starts functions is gone");
        self.requests()?.send(request).map_err(|_| gone())?;
        child.recv().map_err(|_| gone())?
    }

    fn requests(&self) -> io::Result<mpsc::Sender<Request>> {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = &*requests {
            return Ok(sender.clone());
        }
        let (sender, receiver) = mpsc::channel::<Request>();
        thread::Builder::new().name("function-spawner".into()).spawn(move || serve(&receiver))?;
        Ok(requests.insert(sender).clone())
    }
}

/// Until the last sender is gone.
fn serve(requests: &mpsc::Receiver<Request>) {
    for Request { mut command, runtime, reply } in requests {
        let _entered = runtime.enter();
        // Nobody waits any more only if the caller's thread died.
        let _ = reply.send(command.spawn());
    }
}
