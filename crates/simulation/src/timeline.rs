//! What happened, line by line, for people who ask why.

use std::fmt;

use peerless_protocol::Time;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Virtual time.
    pub at: Time,
    /// The round of the peer, or the newest round for what concerns no single peer.
    pub round: u64,
    /// The peer, by index.
    pub peer: Option<usize>,
    /// What happened, and why.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer.map_or_else(|| "--".into(), name);
        write!(f, "{:>11.3} ms  round {:<4} {peer:<4} {}", self.at.0 as f64 / 1e3, self.round, self.text)
    }
}

/// The lines of a log, one for all peers to which the same happened at the same time.
pub fn timeline(log: &[Line]) -> String {
    let alike = |a: &Line, b: &Line| (a.at, a.round, &a.text) == (b.at, b.round, &b.text) && a.peer.is_some();
    let group = |group: &[Line]| {
        let others: Vec<String> = group.iter().skip(1).filter_map(|line| line.peer.map(name)).collect();
        let others = if others.is_empty() { String::new() } else { format!(" (also {})", others.join(" ")) };
        group.first().map(|line| format!("{line}{others}")).unwrap_or_default()
    };
    log.chunk_by(alike).map(group).collect::<Vec<_>>().join("\n")
}

fn name(peer: usize) -> String {
    format!("p{peer}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_to_many_at_once_takes_one_line() {
        let line = |at, peer, text: &str| Line { at: Time(at), round: 3, peer: Some(peer), text: text.into() };
        let log = [line(1_500, 0, "ends"), line(1_500, 1, "ends"), line(1_600, 2, "ends")];
        let expected = "      1.500 ms  round 3    p0   ends (also p1)\n      1.600 ms  round 3    p2   ends";
        assert_eq!(timeline(&log), expected);
    }
}
