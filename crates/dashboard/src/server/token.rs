//! What readers must know where others than this machine's users can connect.

use std::fmt;

use super::DashboardError;

/// Fewest characters: 96 bits and more of random base64.
const SHORTEST: usize = 16;
/// Most characters.
const LONGEST: usize = 256;
/// What the cookie is derived for.
const COOKIE: &str = "peerless dashboard 2026-11 cookie";

/// A secret that readers show.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// Shows nothing.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(…)")
    }
}

impl Token {
    /// A token of 16 to 256 visible ASCII characters; white space around it is no part of it.
    ///
    /// # Errors
    /// [`DashboardError::Token`].
    pub fn new(text: &str) -> Result<Self, DashboardError> {
        let text = text.trim();
        let good = (SHORTEST..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if good { Ok(Self(text.to_owned())) } else { Err(DashboardError::Token) }
    }

    /// Whether this is the token. Compared by digest, so that the time taken tells nothing about it.
    pub(super) fn is(&self, given: &[u8]) -> bool {
        blake3::hash(given) == blake3::hash(self.0.as_bytes())
    }

    /// What a browser keeps in its place: whoever finds it there does not know the token.
    pub(super) fn cookie(&self) -> String {
        blake3::Hash::from_bytes(blake3::derive_key(COOKIE, self.0.as_bytes())).to_hex().to_string()
    }

    /// Whether this is the cookie.
    pub(super) fn is_cookie(&self, given: &[u8]) -> bool {
        blake3::hash(given) == blake3::hash(self.cookie().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_odd_tokens_are_refused_and_none_is_shown() {
        for bad in ["", "short", "with a space inside it", "täglich-neue-zeichen", &"x".repeat(300)] {
            assert!(Token::new(bad).is_err(), "{bad:?}");
        }
        let token = Token::new(" hunter2-hunter2-hunter2\n").unwrap();
        assert!(token.is(b"hunter2-hunter2-hunter2") && !token.is(b"hunter2-hunter2-hunter3"));
        assert!(token.is_cookie(token.cookie().as_bytes()) && !token.is(token.cookie().as_bytes()));
        assert!(!format!("{token:?}").contains("hunter"));
    }
}
