//! The front door for AWS Lambda: the custom runtime of `provided.al2023`. The event is a task, the
//! response its report.

use std::sync::{Arc, Mutex, PoisonError};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use peerless_protocol::function::Report;
use serde_json::value::RawValue;

use crate::host::{Host, Options};
use crate::stdio::{ServeError, answer};

/// Serves events until Lambda ends the process.
///
/// # Errors
/// [`ServeError::Io`] when the runtime interface cannot be reached.
pub fn run_lambda(options: Options) -> Result<(), ServeError> {
    if !peerless_training::use_threads(options.threads) {
        tracing::warn!(threads = options.threads, "the number of threads was already set");
    }
    // Lambda gives an environment one event at a time, so it is computed on the only thread.
    let host = Arc::new(Mutex::new(Host::new(options)));
    let handle = move |event: LambdaEvent<Box<RawValue>>| {
        let host = Arc::clone(&host);
        async move { report(event.payload.get().as_bytes(), &mut host.lock().unwrap_or_else(PoisonError::into_inner)) }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let served = runtime.block_on(lambda_runtime::run(service_fn(handle)));
    served.map_err(|error| ServeError::Io(std::io::Error::other(error.to_string())))
}

/// The report, or what Lambda is to tell the caller: names that stay the same, where a boxed error would
/// be called after its type.
fn report(event: &[u8], host: &mut Host) -> Result<Report, Diagnostic> {
    answer(event, host)
        .map_err(|error| Diagnostic { error_type: "Peerless.NotATask".to_owned(), error_message: error.to_string() })
}
