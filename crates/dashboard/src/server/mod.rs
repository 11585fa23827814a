//! The HTTP server: the page, its events, JSON and metrics.

mod doorway;
mod events;
mod guard;
mod token;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};

use crate::feed::Feed;
use crate::metrics;
use crate::page::{self, Widths};
use crate::reader::RunReader;
use crate::snapshot::Snapshot;
use doorway::Doorway;
use guard::Guard;

pub use token::Token;

/// How long readers may take to go when the dashboard ends.
const CLOSING: Duration = Duration::from_secs(3);

/// A dashboard that cannot be served.
#[derive(Debug, Error)]
pub enum DashboardError {
    /// Others than this machine's users could read.
    #[error("{0} can be reached from other machines, so the dashboard needs a token there")]
    NeedsToken(SocketAddr),
    /// A token that could be guessed or not be sent.
    #[error("a token is 16 to 256 visible ASCII characters, such as those of `head -c 32 /dev/urandom | base64`")]
    Token,
    /// It cannot listen.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// It cannot go on.
    #[error("cannot serve the dashboard: {0}")]
    Serve(#[from] io::Error),
}

/// How much readers may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; further ones wait.
    pub connections: usize,
    /// Of these, those that get events; further ones are refused with 503.
    pub watchers: usize,
    /// How long a connection may take nothing of what is sent.
    pub patience: Duration,
}

impl Default for Limits {
    /// A few people with a few windows each, and a collector of metrics.
    fn default() -> Self {
        Self { connections: 64, watchers: 24, patience: Duration::from_secs(20) }
    }
}

/// What is shown to whom.
#[derive(Debug, Clone)]
pub struct DashboardOptions {
    /// The run directory, which need not be there yet.
    pub run: PathBuf,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// What readers must show; needed unless only this machine's users can connect.
    pub token: Option<Token>,
    /// How much readers may take.
    pub limits: Limits,
}

/// A dashboard that listens.
#[derive(Debug)]
pub struct Dashboard {
    doorway: Doorway,
    options: DashboardOptions,
    address: SocketAddr,
}

/// What handlers share.
#[derive(Debug, Clone)]
struct Shared {
    feed: Feed,
    watchers: Arc<Semaphore>,
    limits: Limits,
    closing: watch::Receiver<bool>,
}

impl Dashboard {
    /// Begins to listen.
    ///
    /// # Errors
    /// [`DashboardError`]; see its variants.
    pub fn listen(options: DashboardOptions) -> Result<Self, DashboardError> {
        let address = options.listen;
        if !address.ip().is_loopback() && options.token.is_none() {
            return Err(DashboardError::NeedsToken(address));
        }
        let Limits { connections, patience, .. } = options.limits;
        let listen = |source| DashboardError::Listen { address, source };
        let doorway = Doorway::open(address, connections, patience).map_err(listen)?;
        let address = doorway.address().map_err(listen)?;
        Ok(Self { doorway, options, address })
    }

    /// The address that it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is ready; readers then get the last snapshot.
    ///
    /// # Errors
    /// [`DashboardError::Serve`].
    pub async fn serve(self, stop: impl Future<Output = ()> + Send + 'static) -> Result<(), DashboardError> {
        let (close, closing) = watch::channel(false);
        let feed = Feed::start(RunReader::new(self.options.run));
        let limits = self.options.limits;
        let shared = Shared { feed, watchers: Arc::new(Semaphore::new(limits.watchers)), limits, closing };
        let guard = Guard { address: self.address, token: self.options.token };
        let mut closed = shared.closing.clone();
        let begin_to_close = async move {
            stop.await;
            close.send_replace(true);
        };
        let serving = axum::serve(self.doorway, router(shared, guard)).with_graceful_shutdown(begin_to_close);
        let overdue = async {
            // Fails when serving has ended, and then nobody waits for this.
            let _ended = closed.wait_for(|closing| *closing).await.is_err();
            tokio::time::sleep(CLOSING).await;
        };
        tokio::select! {
            served = serving.into_future() => Ok(served?),
            () = overdue => Ok(()),
        }
    }
}

fn router(shared: Shared, guard: Guard) -> Router {
    let text = |content_type: &'static str, text: &'static str| {
        get(move || async move { ([(header::CONTENT_TYPE, content_type)], text) })
    };
    Router::new()
        .route("/", get(first_page))
        .route("/events", get(events::events))
        .route("/snapshot.json", get(snapshot_json))
        .route("/metrics", get(prometheus))
        .route("/dashboard.css", text("text/css; charset=utf-8", page::STYLE))
        .route("/charts.css", text("text/css; charset=utf-8", page::CHART_STYLE))
        .route("/dashboard.js", text("text/javascript; charset=utf-8", page::SCRIPT))
        .route("/icon.svg", text("image/svg+xml", page::ICON))
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such page\n"))
        .layer(from_fn_with_state(guard, guard::guard))
        .with_state(shared)
}

/// The widths that a page asks for.
fn widths(request: &Request) -> Widths {
    let number = |field| guard::query(request.uri(), field).and_then(|value| value.parse().ok());
    Widths::new(number("width"), number("wide"))
}

async fn first_page(State(mut shared): State<Shared>, request: Request) -> Response {
    let widths = widths(&request);
    answer(shared.feed.fresh().await, |snapshot| Html(page::page(snapshot, widths)))
}

async fn snapshot_json(State(mut shared): State<Shared>) -> Response {
    answer(shared.feed.fresh().await, |snapshot| match serde_json::to_vec(snapshot) {
        Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    })
}

async fn prometheus(State(mut shared): State<Shared>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    answer(shared.feed.fresh().await, |snapshot| (content_type, metrics::text(snapshot)))
}

fn answer<R: IntoResponse>(snapshot: Option<Arc<Snapshot>>, with: impl FnOnce(&Snapshot) -> R) -> Response {
    match snapshot {
        Some(snapshot) => with(&snapshot).into_response(),
        None => (StatusCode::SERVICE_UNAVAILABLE, "the dashboard is ending\n").into_response(),
    }
}
