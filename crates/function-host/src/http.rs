//! The front door for HTTP: a task is the body of a POST, its report the answer. Knative, Cloud Run and
//! of-watchdog (HTTP mode) start such servers with `$PORT`; a container on any machine does as well.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use std::{fmt, io};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use peerless_protocol::function::Report;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::host::{Host, Options};
use crate::stdio::{MAX_LINE_BYTES, ServeError, answer};

/// Longest time for a body to come: a task is about 1 KB.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// How an HTTP function is served.
pub struct HttpOptions {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// What callers must send as `Authorization: Bearer TOKEN`; everybody may call without one.
    pub token: Option<String>,
    /// Tasks computed at a time. Further ones are refused with 429, for the caller to take elsewhere.
    pub instances: usize,
}

/// Shows no token.
impl fmt::Debug for HttpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, token, instances } = self;
        let token = token.as_ref().map(|_| "…");
        f.debug_struct("HttpOptions")
            .field("listen", listen)
            .field("token", &token)
            .field("instances", instances)
            .finish()
    }
}

/// Threads that compute, each with a function of its own.
struct Instances {
    jobs: mpsc::Sender<Job>,
    /// One for each thread, so that no job waits.
    slots: Arc<Semaphore>,
    token: Option<String>,
}

struct Job {
    task: Bytes,
    reply: oneshot::Sender<Result<Report, ServeError>>,
    /// Given back when the task is done, also when the caller has gone away.
    slot: OwnedSemaphorePermit,
}

impl Instances {
    fn start(options: &Options, count: usize, token: Option<String>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..count {
            let (options, queue) = (options.clone(), Arc::clone(&queue));
            let work = move || compute(options, &queue);
            std::thread::Builder::new().name(format!("instance-{number}")).spawn(work)?;
        }
        Ok(Self { jobs, slots: Arc::new(Semaphore::new(count)), token })
    }

    /// Has the task done; `None` if all are at work.
    fn answer(&self, task: Bytes) -> Option<oneshot::Receiver<Result<Report, ServeError>>> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let (reply, answer) = oneshot::channel();
        // Fails only when all threads have died, and then there is no answer either.
        let _sent = self.jobs.send(Job { task, reply, slot });
        Some(answer)
    }
}

/// Does tasks until the server ends.
fn compute(options: Options, queue: &Mutex<mpsc::Receiver<Job>>) {
    let threads = peerless_training::use_own_threads(options.threads);
    if threads.is_none() {
        tracing::warn!(threads = options.threads, "cannot set the number of threads of an instance");
    }
    let mut host = Host::new(options);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { task, reply, slot }) = job else { return };
        let report = answer(&task, &mut host);
        // First, so that the caller can come with the next task at once.
        drop(slot);
        // Fails when the caller has gone away.
        let _discarded = reply.send(report);
    }
}

/// Serves tasks until SIGTERM or SIGINT, and then finishes those at work. (A process without a handler
/// that is the first in its container would ignore SIGTERM.) `listening` is told the address.
///
/// # Errors
/// [`ServeError::Io`] when it cannot listen.
pub fn run_http(options: Options, http: HttpOptions, listening: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let instances = Instances::start(&options, http.instances.max(1), http.token)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(http.listen).await?;
        let mut terminated = signal(SignalKind::terminate())?;
        let mut interrupted = signal(SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminated.recv() => {}
                _ = interrupted.recv() => {}
            }
        };
        listening(listener.local_addr()?);
        axum::serve(listener, router(instances)).with_graceful_shutdown(stop).await?;
        Ok(())
    })
}

fn router(instances: Instances) -> Router {
    let instances = Arc::new(instances);
    // The root as well as a name of its own: gateways of engines pass on either.
    Router::new()
        .route("/", post(invoke))
        .route("/invoke", post(invoke))
        .layer(from_fn_with_state(Arc::clone(&instances), authorise))
        // Before anybody is asked for a token: engines probe without one.
        .route("/health", get(|| async { "well\n" }))
        .layer(DefaultBodyLimit::max(MAX_LINE_BYTES as usize))
        .with_state(instances)
}

async fn authorise(State(instances): State<Arc<Instances>>, request: Request, next: Next) -> Response {
    match &instances.token {
        Some(token) if !bears(request.headers(), token) => {
            (StatusCode::UNAUTHORIZED, "the token is missing or wrong\n").into_response()
        }
        _ => next.run(request).await,
    }
}

/// Whether the request has the token. Compared by digest, so that the time taken tells nothing about it.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
    given.is_some_and(|given| blake3::hash(given) == blake3::hash(token.as_bytes()))
}

async fn invoke(State(instances): State<Arc<Instances>>, request: Request) -> Response {
    // All of it before an instance is taken: whoever sends slowly keeps nobody from work.
    let task = match read(request).await {
        Ok(task) => task,
        Err(refusal) => return refusal,
    };
    let Some(answer) = instances.answer(task) else {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "0")], "all instances are at work\n")
            .into_response();
    };
    let failed = |error: &dyn fmt::Display| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response();
    match answer.await {
        Ok(Ok(report)) => match serde_json::to_vec(&report) {
            Ok(report) => ([(header::CONTENT_TYPE, "application/json")], report).into_response(),
            Err(error) => failed(&error),
        },
        Ok(Err(error)) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
        // `Host::handle` does not panic, so the thread lives.
        Err(error) => failed(&error),
    }
}

async fn read(request: Request) -> Result<Bytes, Response> {
    let body = axum::body::to_bytes(request.into_body(), MAX_LINE_BYTES as usize);
    match tokio::time::timeout(BODY_LIMIT, body).await {
        Ok(Ok(task)) => Ok(task),
        Ok(Err(error)) => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("cannot read the task: {error}\n")).into_response())
        }
        Err(_) => Err((StatusCode::REQUEST_TIMEOUT, "the task did not come\n").into_response()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_slot_for_each_instance_and_it_is_free_again_after_a_task() {
        let (jobs, queue) = mpsc::channel();
        let instances = Instances { jobs, slots: Arc::new(Semaphore::new(1)), token: None };
        let first = instances.answer(Bytes::new());
        assert!(first.is_some() && instances.answer(Bytes::new()).is_none());
        // The caller goes away, and the slot is taken until the task is done.
        drop(first);
        assert!(instances.answer(Bytes::new()).is_none());
        drop(queue.recv().unwrap());
        assert!(instances.answer(Bytes::new()).is_some());
    }

    #[test]
    fn options_show_no_token() {
        let listen = SocketAddr::from(([127, 0, 0, 1], 1));
        let options = HttpOptions { listen, token: Some("hunter2".into()), instances: 1 };
        assert!(!format!("{options:?}").contains("hunter2"));
    }
}
