//! Messages between peers and their encoding.
//!
//! A message is one version byte and the postcard encoding of [`Message`]. Everything is bounded
//! before it is decoded, and checked again by the state machine before it is used.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::contribution::SignedContribution;
use crate::ids::PeerId;
use crate::spec::MAX_SPEC_BYTES;
use crate::state::StateRef;
use crate::unit_time::UnitTime;
use crate::units::UnitSet;

/// Version of the encoding; bumped when a message changes.
pub const WIRE_VERSION: u8 = 3;

/// Largest encoded message, in bytes. The largest real one is a list of members.
pub const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// Most members in one message.
pub const MAX_MEMBERS: usize = 1024;

/// Most addresses per member.
pub const MAX_ADDRESSES: usize = 8;

/// Longest cause of a failed unit, in bytes; longer ones are cut by the sender.
pub const MAX_CAUSE_BYTES: usize = 1024;

/// A peer and where it listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The peer's key.
    pub peer: PeerId,
    /// Where it can be dialled.
    pub addresses: Vec<SocketAddr>,
}

/// "I live, and this is how far I am."
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's newest state.
    pub state: StateRef,
    /// Size of that state's encoding, for those who fetch it.
    pub state_bytes: u64,
    /// Functions that the sender can run at once.
    pub functions: u32,
    /// How long the sender takes for a unit.
    pub unit_time: UnitTime,
    /// Whether that state is the run's last.
    pub finished: bool,
}

/// What peers say to each other. Payloads and states travel beside, by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Sent periodically and on every new state.
    Heartbeat(Heartbeat),
    /// A heartbeat that is to be answered by one.
    Probe(Heartbeat),
    /// This peer does not answer the sender. Whoever hears that finds out for itself.
    Silent(PeerId),
    /// An exact sum is ready; its payload is pushed to whoever gets this message.
    Contribution(Box<SignedContribution>),
    /// Asks for the exact sum of just these units: the answer is a contribution.
    UnitsWanted {
        /// The state that the round starts from.
        from: StateRef,
        /// The units.
        units: UnitSet,
        /// The shard of the sum that is asked for; `None` for all of it.
        shard: Option<u32>,
    },
    /// Every attempt at a unit failed at the sender.
    UnitFailed {
        /// The state that the round starts from.
        from: StateRef,
        /// The unit.
        unit: u32,
        /// Why, for people.
        cause: String,
    },
    /// Peers that the sender knows.
    Members(Vec<Member>),
    /// Asks for the peers that the receiver knows.
    MembersWanted,
    /// The sender leaves on purpose.
    Leaving,
    /// A joiner asks for the run's spec; all it knows is the run's id.
    SpecWanted,
    /// The encoded spec, whose digest is the run's id.
    Spec(Vec<u8>),
    /// A parameter server has the receiver compute units, and contribute their sum as one.
    Work {
        /// The state to compute from; it is pushed to whoever does not have it.
        from: StateRef,
        /// Size of that state's encoding.
        state_bytes: u64,
        /// The units.
        units: UnitSet,
    },
}

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// Larger than [`MAX_MESSAGE_BYTES`].
    #[error("message of {0} bytes, at most {MAX_MESSAGE_BYTES} are allowed")]
    TooLarge(usize),
    /// Of another version of the program.
    #[error("message of wire version {0}, this program speaks version {WIRE_VERSION}")]
    Version(u8),
    /// Not decodable.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// A list or text is longer than allowed.
    #[error("message with too many {0}")]
    TooMany(&'static str),
}

impl Message {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Postcard cannot fail on this type: it has no map and no sequence of unknown length.
        postcard::to_extend(self, vec![WIRE_VERSION]).unwrap_or_default()
    }

    /// Decodes bytes from the network.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLarge(bytes.len()));
        }
        let malformed = |what: String| MessageError::Malformed(what);
        let (&version, rest) = bytes.split_first().ok_or_else(|| malformed("no bytes".into()))?;
        if version != WIRE_VERSION {
            return Err(MessageError::Version(version));
        }
        let (message, left) = postcard::take_from_bytes(rest).map_err(|error| malformed(error.to_string()))?;
        if !left.is_empty() {
            return Err(malformed(format!("{} bytes too many", left.len())));
        }
        check_bounds(&message)?;
        Ok(message)
    }
}

fn check_bounds(message: &Message) -> Result<(), MessageError> {
    match message {
        Message::Members(members) if members.len() > MAX_MEMBERS => Err(MessageError::TooMany("members")),
        Message::Members(members) if members.iter().any(|member| member.addresses.len() > MAX_ADDRESSES) => {
            Err(MessageError::TooMany("addresses"))
        }
        Message::Spec(bytes) if bytes.len() > MAX_SPEC_BYTES => Err(MessageError::TooMany("bytes of spec")),
        Message::UnitFailed { cause, .. } if cause.len() > MAX_CAUSE_BYTES => {
            Err(MessageError::TooMany("bytes of cause"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Digest;

    fn heartbeat() -> Message {
        let state = StateRef { round: 7, digest: Digest([3; 32]) };
        Message::Heartbeat(Heartbeat {
            state,
            state_bytes: 1 << 20,
            functions: 2,
            unit_time: UnitTime { us: 1500, from_round: 9 },
            finished: false,
        })
    }

    #[test]
    fn a_message_survives_encoding() {
        let from = StateRef { round: 1, digest: Digest([9; 32]) };
        let wanted = Message::UnitsWanted { from, units: [1, 64, 900].into_iter().collect(), shard: Some(3) };
        for message in [heartbeat(), wanted, Message::Leaving, Message::Spec(vec![1, 2, 3])] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
    }

    #[test]
    fn a_message_of_another_version_is_named_as_such() {
        let mut bytes = heartbeat().encode();
        bytes[0] = WIRE_VERSION + 1;
        assert_eq!(Message::decode(&bytes), Err(MessageError::Version(WIRE_VERSION + 1)));
    }

    #[test]
    fn oversized_messages_and_lists_are_refused() {
        assert!(matches!(Message::decode(&vec![1; MAX_MESSAGE_BYTES + 1]), Err(MessageError::TooLarge(_))));
        let member = Member { peer: PeerId([0; 32]), addresses: Vec::new() };
        let many = Message::Members(vec![member; MAX_MEMBERS + 1]);
        assert_eq!(Message::decode(&many.encode()), Err(MessageError::TooMany("members")));
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut bytes = heartbeat().encode();
        bytes.push(0);
        assert!(matches!(Message::decode(&bytes), Err(MessageError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Message::decode(&bytes);
            if let Some(version) = bytes.first_mut() {
                *version = WIRE_VERSION;
                let _ = Message::decode(&bytes);
            }
            let _ = crate::RunSpec::decode(&bytes);
        }

        #[test]
        fn a_damaged_message_is_another_message_or_an_error(at in 0..40_usize, with: u8) {
            let mut bytes = heartbeat().encode();
            let at = at % bytes.len();
            bytes[at] = with;
            if let Ok(message) = Message::decode(&bytes) {
                prop_assert_eq!(Message::decode(&message.encode()), Ok(message));
            }
        }
    }
}
