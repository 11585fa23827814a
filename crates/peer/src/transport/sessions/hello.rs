//! The greeting after TLS: who belongs to the run.
//!
//! Each side sends one `Hello`, the dialling side first. A side that does not like what it reads
//! answers with a `Refuse` that says why. The proof of the join secret is
//! `BLAKE3-keyed(secret, context ‖ exporter ‖ prover ‖ verifier ‖ run ‖ direction)`, where the
//! exporter value (RFC 8446, section 7.5) is unique to the TLS connection: a proof can be neither
//! replayed nor forwarded, and tells nothing about the secret.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use peerless_protocol::{PeerId, RunId};
use serde::{Deserialize, Serialize};

use super::super::{MAX_ADDRESSES, Refusal};
use crate::ticket::JoinSecret;

/// Version of everything this transport puts on the wire.
pub(super) const TRANSPORT_VERSION: u16 = 1;
/// Label of the TLS exporter value that proofs are bound to.
pub(in super::super) const EXPORTER_LABEL: &[u8] = b"EXPORTER-peerless-join";
const PROOF_CONTEXT: &[u8] = b"peerless join proof 1";

/// Who is admitted to the run: holders of the secret, and the peers on the list.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// Admits every peer that proves to hold it; `None` if only the list counts.
    pub secret: Option<JoinSecret>,
    /// Admitted without a secret.
    pub allowed: BTreeSet<PeerId>,
}

/// Who of two connected peers is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum Side {
    Dialler,
    Acceptor,
}

impl Side {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Dialler => Self::Acceptor,
            Self::Acceptor => Self::Dialler,
        }
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Channel {
    /// Messages both ways. `replace`: the dialler has no connection, whatever the acceptor thinks.
    Control { replace: bool },
    /// Blobs from `sender` to the other side, and the other side's requests for them.
    Bulk { sender: Side },
}

/// The greeting after its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) run: RunId,
    /// Random number of the sender's process: a peer that restarted has another one.
    pub(super) instance: u64,
    /// Random number that ties bulk connections to their control connection.
    pub(super) session: u64,
    pub(super) channel: Channel,
    /// Where the sender listens.
    pub(super) addresses: Vec<SocketAddr>,
    /// Proof that the sender holds the run's join secret.
    pub(super) proof: Option<[u8; 32]>,
}

/// What a proof is bound to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Binding {
    /// TLS exporter value of the connection.
    pub(super) exporter: [u8; 32],
    pub(super) prover: PeerId,
    pub(super) verifier: PeerId,
    pub(super) run: RunId,
    /// Which side of the connection proves.
    pub(super) side: Side,
}

impl Binding {
    fn proof(&self, secret: &JoinSecret) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(secret.as_bytes());
        hasher.update(PROOF_CONTEXT).update(&self.exporter);
        hasher.update(self.prover.as_bytes()).update(self.verifier.as_bytes()).update(self.run.as_bytes());
        hasher.update(&[matches!(self.side, Side::Acceptor).into()]);
        hasher.finalize()
    }
}

impl Admission {
    /// The proof that this side shows.
    pub(super) fn prove(&self, binding: &Binding) -> Option<[u8; 32]> {
        self.secret.as_ref().map(|secret| *binding.proof(secret).as_bytes())
    }

    /// Whether the prover of `binding`, who showed `hello`, belongs to the run.
    pub(super) fn check(&self, hello: &Hello, binding: &Binding) -> Result<(), Refusal> {
        if hello.run != binding.run {
            return Err(Refusal::OtherRun);
        }
        if self.allowed.contains(&binding.prover) {
            return Ok(());
        }
        match (&self.secret, hello.proof) {
            // Comparing two `Hash`es takes the same time wherever they differ.
            (Some(secret), Some(proof)) if binding.proof(secret) == blake3::Hash::from_bytes(proof) => Ok(()),
            (Some(_), Some(_)) => Err(Refusal::WrongSecret),
            (_, None) | (None, _) => Err(Refusal::NotListed),
        }
    }
}

impl Hello {
    pub(super) fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        postcard::to_extend(self, TRANSPORT_VERSION.to_le_bytes().to_vec())
    }

    /// Reads a greeting: first its version, so that all versions to come can be told apart.
    pub(super) fn decode(body: &[u8]) -> Result<Self, Refusal> {
        let (version, rest) = body.split_first_chunk().ok_or(Refusal::Greeting)?;
        let offered = u16::from_le_bytes(*version);
        if offered != TRANSPORT_VERSION {
            return Err(Refusal::Version { offered, spoken: TRANSPORT_VERSION });
        }
        match postcard::take_from_bytes::<Self>(rest) {
            Ok((hello, [])) if hello.addresses.len() <= MAX_ADDRESSES => Ok(hello),
            _ => Err(Refusal::Greeting),
        }
    }

    /// The announced addresses as seen from here: "any interface" means the one it came from, if it
    /// came from one that can be told.
    pub(super) fn addresses_from(&self, remote: SocketAddr) -> Vec<SocketAddr> {
        let seen = |address: &SocketAddr| match address.ip().is_unspecified() {
            true => SocketAddr::new(remote.ip(), address.port()),
            false => *address,
        };
        self.addresses.iter().map(seen).filter(|address| !address.ip().is_unspecified()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn binding() -> Binding {
        Binding {
            exporter: [1; 32],
            prover: PeerId([2; 32]),
            verifier: PeerId([3; 32]),
            run: RunId([4; 32]),
            side: Side::Dialler,
        }
    }

    fn with_secret(byte: u8) -> Admission {
        Admission { secret: Some(JoinSecret::from_bytes([byte; 32])), ..Admission::default() }
    }

    fn hello(proof: Option<[u8; 32]>) -> Hello {
        let addresses = vec!["0.0.0.0:4000".parse().unwrap()];
        let channel = Channel::Control { replace: false };
        Hello { run: RunId([4; 32]), instance: 1, session: 2, channel, addresses, proof }
    }

    #[test]
    fn the_same_secret_admits_and_another_does_not() {
        let shown = hello(with_secret(9).prove(&binding()));
        assert_eq!(with_secret(9).check(&shown, &binding()), Ok(()));
        assert_eq!(with_secret(8).check(&shown, &binding()), Err(Refusal::WrongSecret));
        assert_eq!(with_secret(9).check(&hello(None), &binding()), Err(Refusal::NotListed));
        assert_eq!(Admission::default().check(&shown, &binding()), Err(Refusal::NotListed));
    }

    #[test]
    fn a_proof_is_worth_nothing_elsewhere() {
        let admission = with_secret(9);
        let shown = hello(admission.prove(&binding()));
        let elsewhere = [
            Binding { exporter: [7; 32], ..binding() },
            Binding { prover: PeerId([7; 32]), ..binding() },
            Binding { verifier: PeerId([7; 32]), ..binding() },
            Binding { side: Side::Acceptor, ..binding() },
        ];
        for other in elsewhere {
            assert_eq!(admission.check(&shown, &other), Err(Refusal::WrongSecret), "{other:?}");
        }
    }

    #[test]
    fn a_listed_peer_needs_no_secret() {
        let admission = Admission { secret: None, allowed: [binding().prover].into() };
        assert_eq!(admission.check(&hello(None), &binding()), Ok(()));
    }

    #[test]
    fn another_run_is_refused_before_the_secret_is_looked_at() {
        let shown = Hello { run: RunId([5; 32]), ..hello(None) };
        assert_eq!(with_secret(9).check(&shown, &binding()), Err(Refusal::OtherRun));
    }

    #[test]
    fn a_later_version_is_told_from_garbage() {
        let mut bytes = hello(None).encode().unwrap();
        bytes[0] = 9;
        assert_eq!(Hello::decode(&bytes), Err(Refusal::Version { offered: 9, spoken: TRANSPORT_VERSION }));
        assert_eq!(Hello::decode(&[1]), Err(Refusal::Greeting));
        assert_eq!(Hello::decode(&[1, 0, 3]), Err(Refusal::Greeting));
    }

    #[test]
    fn any_interface_is_read_as_the_one_the_greeting_came_from() {
        let seen = hello(None).addresses_from("10.0.0.7:51000".parse().unwrap());
        assert_eq!(seen, ["10.0.0.7:4000".parse().unwrap()]);
        // Behind a relay, nothing is known.
        assert_eq!(hello(None).addresses_from("0.0.0.0:0".parse().unwrap()), []);
    }

    proptest! {
        #[test]
        fn a_greeting_survives_the_wire(instance: u64, session: u64, replace: bool, proof: Option<[u8; 32]>) {
            let channel = Channel::Control { replace };
            let sent = Hello { instance, session, channel, ..hello(proof) };
            prop_assert_eq!(Hello::decode(&sent.encode().unwrap()), Ok(sent));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::decode(&bytes);
            let _ = Hello::decode(&[&[1, 0], &bytes[..]].concat());
        }
    }
}
