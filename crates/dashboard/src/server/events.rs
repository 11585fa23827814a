//! Server-sent events: the parts of the page that have changed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{Shared, widths};
use crate::feed::Feed;
use crate::page::{self, Widths};
use crate::snapshot::Snapshot;

/// How long the last snapshot may take when the dashboard ends.
const LAST: Duration = Duration::from_secs(2);

/// One reader of events.
struct Watcher {
    feed: Feed,
    widths: Widths,
    /// Digests of the parts as this reader has them.
    sent: BTreeMap<&'static str, blake3::Hash>,
    closing: watch::Receiver<bool>,
    stage: Stage,
    _slot: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was sent.
    New,
    /// Snapshots are sent as they come.
    Open,
    /// The last snapshot was sent.
    Closing,
    /// Nothing more will be sent.
    Closed,
}

pub(super) async fn events(State(shared): State<Shared>, request: Request) -> Response {
    let Ok(slot) = Arc::clone(&shared.watchers).try_acquire_owned() else {
        let later = [(header::RETRY_AFTER, "10")];
        return (StatusCode::SERVICE_UNAVAILABLE, later, "too many windows watch this run already\n").into_response();
    };
    let watcher = Watcher {
        feed: shared.feed,
        widths: widths(&request),
        sent: BTreeMap::new(),
        closing: shared.closing,
        stage: Stage::New,
        _slot: slot,
    };
    // So often that a connection whose reader reads is never taken for one whose reader does not.
    let keep_alive = KeepAlive::new().interval(shared.limits.patience / 3);
    Sse::new(watcher.stream()).keep_alive(keep_alive).into_response()
}

impl Watcher {
    fn stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut watcher| async move {
            let event = watcher.next().await?;
            Some((Ok(event), watcher))
        })
    }

    /// The next event. Asked for only when there is room to send it, so that a slow reader skips snapshots.
    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.stage {
                Stage::New => {
                    self.stage = Stage::Open;
                    let snapshot = self.feed.fresh().await?;
                    return Some(self.changes(&snapshot).unwrap_or_default());
                }
                Stage::Open => {
                    let snapshot = tokio::select! {
                        snapshot = self.feed.next() => Some(snapshot?),
                        _ = self.closing.wait_for(|closing| *closing) => None,
                    };
                    if let Some(event) = self.take(snapshot).await {
                        return Some(event);
                    }
                }
                Stage::Closing => {
                    self.stage = Stage::Closed;
                    return Some(Event::default().event("closing").data("{}"));
                }
                Stage::Closed => return None,
            }
        }
    }

    /// What there is to send for a snapshot, or for the last one.
    async fn take(&mut self, snapshot: Option<Arc<Snapshot>>) -> Option<Event> {
        let snapshot = match snapshot {
            Some(snapshot) => Some(snapshot),
            None => {
                self.stage = Stage::Closing;
                tokio::time::timeout(LAST, self.feed.taken_from_now_on()).await.ok().flatten()
            }
        };
        snapshot.and_then(|snapshot| self.changes(&snapshot))
    }

    /// The parts that this reader has not, as a JSON object by element.
    fn changes(&mut self, snapshot: &Snapshot) -> Option<Event> {
        let mut changed = serde_json::Map::new();
        for (element, html) in page::parts(snapshot, self.widths) {
            let digest = blake3::hash(html.as_bytes());
            if self.sent.insert(element, digest) != Some(digest) {
                changed.insert(element.to_owned(), html.into());
            }
        }
        let data = serde_json::Value::Object(changed);
        let some = data.as_object().is_some_and(|changed| !changed.is_empty());
        some.then(|| Event::default().event("parts").data(data.to_string()))
    }
}
