//! Joining a run by ticket: the spec comes from a peer that is in it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use peerless_protocol::{Digest, MAX_SPEC_BYTES, Message, RunSpec};

use crate::identity::Identity;
use crate::options::{JoinFailure, PeerError};
use crate::ticket::Ticket;
use crate::transport::{
    self, Admission, BlobError, BlobSource, Config, Event, Events, PeerTransport, Rejection, Transport,
};

/// Asks the peers of a ticket for the run's spec and checks it against the ticket's run id.
///
/// # Errors
/// [`PeerError::Join`] with the reason that a peer gave, or that none answered within `timeout`.
pub async fn fetch_spec(ticket: &Ticket, timeout: Duration) -> Result<RunSpec, PeerError> {
    let failed = |reason| PeerError::Join { run: ticket.run(), reason };
    let local = |reason: String| failed(JoinFailure::Local(reason));
    // A socket of the loopback interface gets no further, and TCP dials from elsewhere anyway.
    let from = if ticket.relays().is_empty() { Ipv4Addr::LOCALHOST } else { Ipv4Addr::UNSPECIFIED };
    let config = Config {
        // A key for this question only: the peer's own key may be in use already.
        identity: Identity::generate()?,
        run: ticket.run(),
        admission: Admission { secret: Some(ticket.secret().clone()), ..Admission::default() },
        listen: SocketAddr::from((from, 0)),
        advertise: Vec::new(),
        max_blob_bytes: MAX_SPEC_BYTES as u64,
        max_peers: ticket.peers().len().max(1),
        seed: 0,
    };
    let (transport, events) =
        transport::bind(config, ticket.relays(), Arc::new(Nothing)).await.map_err(|error| local(error.to_string()))?;
    ticket.peers().iter().for_each(|(peer, addresses)| transport.dial(*peer, addresses.clone()));
    let mut failure = None;
    let answer = tokio::time::timeout(timeout, ask(&transport, events, ticket, &mut failure)).await;
    transport.shutdown().await;
    let unreachable = JoinFailure::Unreachable { peers: ticket.peers().len(), waited: timeout };
    match answer {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed(failure.unwrap_or(unreachable))),
    }
}

/// Waits for the first peer that lets this one in and answers with the right spec. A refusal that cannot
/// pass and a wrong spec end the wait once every peer has refused or lied.
async fn ask(
    transport: &PeerTransport,
    mut events: Events,
    ticket: &Ticket,
    failure: &mut Option<JoinFailure>,
) -> Result<RunSpec, JoinFailure> {
    let mut hopeless = BTreeSet::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Connected { peer, .. } => {
                // A failure to send is followed by a disconnection and another dial.
                let _ = transport.send(peer, Bytes::from(Message::SpecWanted.encode()));
            }
            Event::Message { from, bytes } => {
                let Ok(Message::Spec(spec)) = Message::decode(&bytes) else { continue };
                match checked(&spec, ticket) {
                    Ok(spec) => return Ok(spec),
                    Err(wrong) => {
                        tracing::warn!(peer = %from, %wrong, "the next peer is asked");
                        transport.forget(from);
                        hopeless.insert(from);
                        *failure = Some(wrong);
                    }
                }
            }
            Event::Rejected { peer: Some(peer), reason: Rejection::ByThem(refusal), .. } => {
                if !refusal.is_passing() {
                    hopeless.insert(peer);
                }
                *failure = Some(JoinFailure::Refused(refusal));
            }
            _ => {}
        }
        if let Some(failure) = failure.take_if(|_| hopeless.len() == ticket.peers().len()) {
            return Err(failure);
        }
    }
    Err(JoinFailure::Local("the transport has ended".into()))
}

fn checked(bytes: &[u8], ticket: &Ticket) -> Result<RunSpec, JoinFailure> {
    let found = Digest::of(bytes);
    if found.0 != ticket.run().0 {
        return Err(JoinFailure::WrongSpec(format!("it is that of run {}", found.short())));
    }
    RunSpec::decode(bytes).map_err(|error| JoinFailure::WrongSpec(error.to_string()))
}

/// Serves nothing.
struct Nothing;

impl BlobSource for Nothing {
    fn read(&self, _: &Digest, _: Range<u64>, _: u64) -> Result<Bytes, BlobError> {
        Err(BlobError::Unknown)
    }
}
