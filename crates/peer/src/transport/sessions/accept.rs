//! Accepting connections.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::super::{Refusal, Rejection};
use super::handshake::{Greeted, receive};
use super::hello::{Channel, Hello, Side};
use super::session::{self, BulkOrigin, Direction, Parts};
use super::wire::{Arrival, Secured};
use super::{HANDSHAKE_TIMEOUT, MAX_HANDSHAKES, Shared};

/// How long to wait when the kernel has no descriptor left for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections until the transport is dropped.
pub(super) async fn accept_all(shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match shared.wire.accept().await {
            Ok(arrival) => {
                let task = Arc::clone(&shared);
                shared.spawn(async move {
                    if let Some((control, parts)) = admit(&task, arrival).await {
                        drop(place);
                        session::run(task, control, BulkOrigin::Accept, parts).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Brings a connection to its place: a control connection is returned with the session it begins.
async fn admit(shared: &Shared, arrival: Arrival) -> Option<(Greeted, Parts)> {
    let remote = arrival.remote;
    let (secured, hello) = match receive(shared, arrival).await {
        Ok(received) => received,
        // Nobody was turned away: a peer that finds itself connected, or dies, in the middle of it.
        Err((_, Rejection::HungUp)) => return None,
        Err((peer, rejection)) => {
            shared.events.report(peer, remote, rejection);
            return None;
        }
    };
    let peer = secured.peer;
    match hello.channel {
        Channel::Control { .. } => match shared.registry.admit(peer, &hello) {
            Ok(parts) => match welcome(shared, secured, hello).await {
                Some(control) => Some((control, parts)),
                None => {
                    shared.registry.ended(peer, parts.serial());
                    None
                }
            },
            Err(refusal) => {
                turn_away(shared, secured, refusal).await;
                None
            }
        },
        Channel::Bulk { sender } => {
            attach(shared, secured, hello, sender).await;
            None
        }
    }
}

async fn attach(shared: &Shared, secured: Secured, hello: Hello, sender: Side) {
    let direction = if sender == Side::Acceptor { Direction::Out } else { Direction::In };
    match shared.registry.claim_bulk(secured.peer, &hello, direction) {
        Ok(session) => {
            if let Some(greeted) = welcome(shared, secured, hello).await {
                greeted.stream.tune_for_bulk();
                // It fails when the session has ended meanwhile, and the connection with it.
                let _ = session.send((direction, greeted.stream)).await;
            }
        }
        Err(refusal) => turn_away(shared, secured, refusal).await,
    }
}

async fn welcome(shared: &Shared, mut secured: Secured, hello: Hello) -> Option<Greeted> {
    let sending = secured.send_hello(shared, hello.channel, hello.session);
    let sent = timeout(HANDSHAKE_TIMEOUT, sending).await;
    let error = match sent {
        Ok(Ok(())) => return Some(secured.admitted(hello)),
        Ok(Err(rejection)) => rejection,
        Err(_) => Rejection::Handshake("the other side does not read".into()),
    };
    shared.events.report(Some(secured.peer), secured.remote, error);
    None
}

async fn turn_away(shared: &Shared, secured: Secured, refusal: Refusal) {
    let (peer, remote) = (secured.peer, secured.remote);
    let routine = refusal.is_routine();
    if let Err(rejection) = secured.refuse::<()>(refusal).await
        && !routine
    {
        shared.events.report(Some(peer), remote, rejection);
    }
}
