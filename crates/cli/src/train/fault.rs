//! Faults to inject: which signal goes to which process at which round.

use std::fmt;
use std::str::FromStr;

use peerless_peer::local::SERVER;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// SIGKILL to a peer.
    Kill {
        /// Its number, from 1.
        peer: usize,
    },
    /// SIGKILL to the parameter server.
    KillServer,
    /// SIGSTOP to a peer.
    Stop {
        /// Its number, from 1.
        peer: usize,
    },
    /// SIGCONT to a peer.
    Continue {
        /// Its number, from 1.
        peer: usize,
    },
    /// Stops a peer's functions nine tenths of the time, from then on.
    Slow {
        /// Its number, from 1.
        peer: usize,
    },
    /// Starts a peer's process again on its directory; a process that lives is killed first.
    Restart {
        /// Its number, from 1.
        peer: usize,
    },
    /// SIGKILL to so many function processes, busy ones first.
    KillFunctions {
        /// How many.
        count: usize,
    },
}

impl Action {
    /// The peer that it is done to; a function fault is done to whichever peers have functions.
    pub(crate) fn peer(self) -> Option<usize> {
        match self {
            Self::Kill { peer }
            | Self::Stop { peer }
            | Self::Continue { peer }
            | Self::Slow { peer }
            | Self::Restart { peer } => Some(peer),
            Self::KillServer | Self::KillFunctions { .. } => None,
        }
    }
}

/// An action and when it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What is done.
    pub(crate) action: Action,
    /// As soon as the most advanced peer has taken this many optimizer steps.
    pub(crate) round: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, number) = match self.action {
            Action::KillServer => return write!(f, "kill:server@{}", self.round),
            Action::Kill { peer } => ("kill", peer),
            Action::Stop { peer } => ("stop", peer),
            Action::Continue { peer } => ("cont", peer),
            Action::Slow { peer } => ("slow", peer),
            Action::Restart { peer } => ("restart", peer),
            Action::KillFunctions { count } => ("kill-function", count),
        };
        write!(f, "{name}:{number}@{}", self.round)
    }
}

impl FromStr for Fault {
    type Err = String;

    /// Reads `ACTION:NUMBER@ROUND`; the error names the part that is wrong.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, rest) = text.split_once(':').ok_or("expected ACTION:NUMBER@ROUND, but there is no ':'")?;
        let (number, round) = rest.split_once('@').ok_or("expected ACTION:NUMBER@ROUND, but there is no '@'")?;
        let round = round.parse().map_err(|_| format!("the round {round:?} is no whole number"))?;
        let count = |what: &str| match number.parse() {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(format!("the {what} {number:?} is no whole number from 1")),
        };
        let peer = || count("peer");
        let action = match name {
            "kill" if number == SERVER => Action::KillServer,
            "kill" => Action::Kill { peer: peer()? },
            "stop" => Action::Stop { peer: peer()? },
            "cont" => Action::Continue { peer: peer()? },
            "slow" => Action::Slow { peer: peer()? },
            "restart" => Action::Restart { peer: peer()? },
            "kill-function" => Action::KillFunctions { count: count("count")? },
            _ => {
                return Err(format!(
                    "the action {name:?} is unknown, use kill, stop, cont, slow, restart or kill-function"
                ));
            }
        };
        Ok(Self { action, round })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_survives_being_printed_and_parsed() {
        for text in
            ["kill:1@10", "stop:2@0", "cont:2@7", "slow:3@5", "restart:12@40", "kill-function:3@15", "kill:server@9"]
        {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_part_that_is_wrong_is_named() {
        let cases = [
            ("kill", "no ':'"),
            ("kill:1", "no '@'"),
            ("kill:x@1", "the peer \"x\""),
            ("stop:server@1", "the peer \"server\""),
            ("kill:0@1", "the peer \"0\""),
            ("kill:-1@1", "the peer \"-1\""),
            ("kill-function:@1", "the count \"\""),
            ("stop:1@soon", "the round \"soon\""),
            ("stop:1@-3", "the round \"-3\""),
            ("hug:1@3", "the action \"hug\""),
            ("Kill:1@3", "the action \"Kill\""),
        ];
        for (text, part) in cases {
            let error = text.parse::<Fault>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
