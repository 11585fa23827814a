//! Tickets: one pasteable string that lets a peer join a run.
//!
//! `peerless1` and, in lower-case base32 without padding (RFC 4648, no characters that a terminal
//! or a mail program would break at), the postcard encoding of the ticket followed by the first four
//! bytes of its BLAKE3 digest. The checksum tells a mangled paste from a ticket to something else.
//! `peerless2` is the same with relays at the end, and is only written where there are any, so that
//! programs that know no relays go on reading the tickets that they can use.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::{Encoding, Specification};
use peerless_protocol::{PeerId, RunId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::transport::RelayUrl;

/// Most peers a ticket may name.
pub const MAX_TICKET_PEERS: usize = 16;
/// Most addresses a ticket may give for each peer.
pub const MAX_TICKET_ADDRESSES: usize = 8;
/// Most relays a ticket may name.
pub const MAX_TICKET_RELAYS: usize = 4;
/// Longest ticket text that is looked at, in bytes: four times what the limits above can give.
pub const MAX_TICKET_TEXT: usize = 32 * 1024;

const NAME: &str = "peerless";
const VERSION: &str = "1";
/// Of tickets that name relays.
const RELAYS_VERSION: &str = "2";
const CHECKSUM_BYTES: usize = 4;

/// The secret that admits its holders to a run. Never printed; in clear only inside a ticket.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret([u8; 32]);

impl JoinSecret {
    /// A new secret from the operating system's randomness.
    ///
    /// # Errors
    /// When the operating system gives none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The secret with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, to be stored where only this peer's user can read them.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(..)")
    }
}

/// What is wrong with a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TicketError {
    /// It does not begin as a ticket does.
    #[error("not a ticket: a ticket begins with {NAME}{VERSION}")]
    NotATicket,
    /// It was made by another version of this program.
    #[error(
        "the ticket has format {found}, this program reads up to {NAME}{RELAYS_VERSION}: use the same version on both machines"
    )]
    Version {
        /// The prefix that was found.
        found: String,
    },
    /// A character that no ticket contains.
    #[error("the ticket is damaged: {character:?} at position {position} does not occur in tickets; copy it again")]
    Character {
        /// The character.
        character: char,
        /// Its position in the text without white space, from 1.
        position: usize,
    },
    /// Something was lost or changed.
    #[error("the ticket is damaged (its checksum does not match): copy the whole of it again")]
    Checksum,
    /// Whole, but not what this program calls a ticket.
    #[error("the ticket is whole but its contents cannot be read: it was made by an incompatible program")]
    Contents,
    /// Too many peers, too many addresses, or too long a text.
    #[error("the ticket has {found} {what}, more than the {limit} allowed")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many are allowed.
        limit: usize,
    },
}

/// An invitation to a run: which run, the secret that admits to it, and where its peers listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    run: RunId,
    secret: JoinSecret,
    peers: Vec<(PeerId, Vec<SocketAddr>)>,
    relays: Vec<RelayUrl>,
}

#[derive(Serialize, Deserialize)]
struct Body {
    run: RunId,
    secret: [u8; 32],
    peers: Vec<(PeerId, Vec<SocketAddr>)>,
}

/// What follows the [`Body`] in a ticket that names relays.
type Relays = Vec<RelayUrl>;

impl Ticket {
    /// A ticket to `run` for the holders of `secret`, by way of `peers` and their listening addresses.
    ///
    /// # Errors
    /// [`TicketError::TooMany`] beyond [`MAX_TICKET_PEERS`] or [`MAX_TICKET_ADDRESSES`].
    pub fn new(run: RunId, secret: JoinSecret, peers: Vec<(PeerId, Vec<SocketAddr>)>) -> Result<Self, TicketError> {
        check("peers", peers.len(), MAX_TICKET_PEERS)?;
        for (_, addresses) in &peers {
            check("addresses for a peer", addresses.len(), MAX_TICKET_ADDRESSES)?;
        }
        Ok(Self { run, secret, peers, relays: Vec::new() })
    }

    /// The same ticket with the relays by which the run's peers reach each other.
    ///
    /// # Errors
    /// [`TicketError::TooMany`] beyond [`MAX_TICKET_RELAYS`].
    pub fn with_relays(self, relays: Vec<RelayUrl>) -> Result<Self, TicketError> {
        check("relays", relays.len(), MAX_TICKET_RELAYS)?;
        Ok(Self { relays, ..self })
    }

    /// The run it admits to.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The secret that admits to the run.
    pub fn secret(&self) -> &JoinSecret {
        &self.secret
    }

    /// Peers to join by, with their listening addresses.
    pub fn peers(&self) -> &[(PeerId, Vec<SocketAddr>)] {
        &self.peers
    }

    /// The relays by which the run's peers reach each other.
    pub fn relays(&self) -> &[RelayUrl] {
        &self.relays
    }

    /// The pasteable text. A method and not `Display`, so that a secret is never logged by accident.
    ///
    /// # Errors
    /// [`TicketError::Contents`] if it cannot be encoded, which no ticket made by [`Ticket::new`] is known to cause.
    pub fn encode(&self) -> Result<String, TicketError> {
        let body = Body { run: self.run, secret: self.secret.0, peers: self.peers.clone() };
        let mut bytes = postcard::to_stdvec(&body).map_err(|_| TicketError::Contents)?;
        let mut version = VERSION;
        if !self.relays.is_empty() {
            bytes = postcard::to_extend(&self.relays, bytes).map_err(|_| TicketError::Contents)?;
            version = RELAYS_VERSION;
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(&checksum.as_bytes()[..CHECKSUM_BYTES]);
        Ok(format!("{NAME}{version}{}", base32()?.encode(&bytes)))
    }
}

fn check(what: &'static str, found: usize, limit: usize) -> Result<(), TicketError> {
    if found > limit { Err(TicketError::TooMany { what, found, limit }) } else { Ok(()) }
}

fn base32() -> Result<Encoding, TicketError> {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().map_err(|_| TicketError::Contents)
}

/// The part of the text after the prefix, and whether it names relays. The version is one digit.
fn strip_prefix(text: &str) -> Result<(&str, bool), TicketError> {
    let rest = text.strip_prefix(NAME).ok_or(TicketError::NotATicket)?;
    let with_relays = rest.starts_with(RELAYS_VERSION);
    match rest.strip_prefix(VERSION).or_else(|| rest.strip_prefix(RELAYS_VERSION)) {
        Some(body) => Ok((body, with_relays)),
        None if rest.starts_with(|c: char| c.is_ascii_digit()) => {
            Err(TicketError::Version { found: format!("{NAME}{}", &rest[..1]) })
        }
        None => Err(TicketError::NotATicket),
    }
}

fn decode_body(text: &str) -> Result<Vec<u8>, TicketError> {
    let base32 = base32()?;
    let known = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
    if let Some((index, character)) = text.chars().enumerate().find(|&(_, c)| !known(c)) {
        return Err(TicketError::Character { character, position: NAME.len() + VERSION.len() + index + 1 });
    }
    // Wrong length or bits left over: something was cut off.
    base32.decode(text.as_bytes()).map_err(|_| TicketError::Checksum)
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// Reads a pasted ticket. White space (a wrapped line) and capital letters do not matter.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        check("bytes", text.len(), MAX_TICKET_TEXT)?;
        let text: String = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_lowercase()).collect();
        let (body, with_relays) = strip_prefix(&text)?;
        let bytes = decode_body(body)?;
        let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(TicketError::Checksum)?;
        if blake3::hash(body).as_bytes()[..CHECKSUM_BYTES] != checksum[..] {
            return Err(TicketError::Checksum);
        }
        let (body, mut rest) = postcard::take_from_bytes::<Body>(body).map_err(|_| TicketError::Contents)?;
        let mut relays = Relays::new();
        if with_relays {
            (relays, rest) = postcard::take_from_bytes(rest).map_err(|_| TicketError::Contents)?;
        }
        if !rest.is_empty() {
            return Err(TicketError::Contents);
        }
        Self::new(body.run, JoinSecret(body.secret), body.peers)?.with_relays(relays)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ticket() -> Ticket {
        let addresses = vec!["10.1.2.3:4000".parse().unwrap(), "[2001:db8::1]:4000".parse().unwrap()];
        Ticket::new(RunId([1; 32]), JoinSecret([2; 32]), vec![(PeerId([3; 32]), addresses)]).unwrap()
    }

    #[test]
    fn a_ticket_survives_being_pasted_with_wraps_and_capitals() {
        let text = ticket().encode().unwrap();
        let (left, right) = text.split_at(60);
        for pasted in [text.clone(), format!("  {left}\n  {right}\n"), text.to_uppercase()] {
            assert_eq!(pasted.parse(), Ok(ticket()));
        }
    }

    #[test]
    fn text_that_is_no_ticket_is_told_from_a_ticket_of_another_version() {
        assert_eq!("http://example.org".parse::<Ticket>(), Err(TicketError::NotATicket));
        assert_eq!("peerlessabc".parse::<Ticket>(), Err(TicketError::NotATicket));
        let other = ticket().encode().unwrap().replacen('1', "3", 1);
        assert_eq!(other.parse::<Ticket>(), Err(TicketError::Version { found: "peerless3".into() }));
    }

    #[test]
    fn relays_are_named_only_by_tickets_of_the_second_version() {
        let relays = vec!["http://10.0.0.1:3340".parse().unwrap(), "https://relay.example.org".parse().unwrap()];
        let with_relays = ticket().with_relays(relays).unwrap();
        let text = with_relays.encode().unwrap();
        assert!(text.starts_with("peerless2") && ticket().encode().unwrap().starts_with("peerless1"));
        assert_eq!(text.parse(), Ok(with_relays));
        // As the other version, either has too little or too much in it.
        assert_eq!(text.replacen('2', "1", 1).parse::<Ticket>(), Err(TicketError::Contents));
        assert_eq!(ticket().encode().unwrap().replacen('1', "2", 1).parse::<Ticket>(), Err(TicketError::Contents));
    }

    #[test]
    fn too_many_relays_are_refused() {
        let relay: RelayUrl = "http://10.0.0.1:3340".parse().unwrap();
        let error = ticket().with_relays(vec![relay; MAX_TICKET_RELAYS + 1]).unwrap_err();
        assert!(matches!(error, TicketError::TooMany { what: "relays", .. }), "{error}");
    }

    #[test]
    fn a_character_that_does_not_belong_is_named_with_its_position() {
        let text = ticket().encode().unwrap();
        let broken = format!("{}!{}", &text[..20], &text[21..]);
        assert_eq!(broken.parse::<Ticket>(), Err(TicketError::Character { character: '!', position: 21 }));
    }

    #[test]
    fn a_ticket_cut_short_anywhere_is_called_damaged() {
        let text = ticket().encode().unwrap();
        for length in 9..text.len() {
            assert_eq!(text[..length].parse::<Ticket>(), Err(TicketError::Checksum), "cut at {length}");
        }
    }

    #[test]
    fn whole_bytes_that_are_no_ticket_are_told_from_damage() {
        let body = b"hello";
        let bytes = [&body[..], &blake3::hash(body).as_bytes()[..CHECKSUM_BYTES]].concat();
        let text = format!("peerless1{}", base32().unwrap().encode(&bytes));
        assert_eq!(text.parse::<Ticket>(), Err(TicketError::Contents));
    }

    #[test]
    fn too_many_peers_or_addresses_are_refused() {
        let one = (PeerId([3; 32]), vec![]);
        let error = Ticket::new(RunId([1; 32]), JoinSecret([2; 32]), vec![one; MAX_TICKET_PEERS + 1]).unwrap_err();
        assert!(matches!(error, TicketError::TooMany { what: "peers", .. }), "{error}");
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        let text = format!("{:?}", ticket());
        assert!(text.contains("JoinSecret(..)") && !text.contains("2, 2"), "{text}");
    }

    proptest! {
        #[test]
        fn one_changed_character_never_gives_another_ticket(at in 9usize..200, to in "[a-z2-7]") {
            let text = ticket().encode().unwrap();
            let at = at.min(text.len() - 1);
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            match changed.parse::<Ticket>() {
                Ok(parsed) => prop_assert_eq!(parsed, ticket()),
                Err(error) => prop_assert_eq!(error, TicketError::Checksum),
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(peerless[12])?\\PC{0,200}") {
            let _ = text.parse::<Ticket>();
        }
    }
}
