//! Direct TLS and iroh side by side, under the contract of all transports.

#![cfg(feature = "iroh")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

#[macro_use]
mod contract;

use contract::{Member, Network, Node, start};
use peerless_peer::transport::composite::{self, CompositeTransport};

struct Composite;

impl Network for Composite {
    type Transport = CompositeTransport;

    async fn start(&self, member: Member) -> Node<CompositeTransport> {
        start(member, |config, blobs| composite::bind(config, &[], blobs)).await
    }
}

contract_tests!(Composite);
