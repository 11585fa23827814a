//! No progress is lost that was durable, and a process never goes back.
//!
//! Why: a peer that starts again with its disk must resume where the disk says, or a cluster whose
//! machines all restart would lose work that it had told its user is safe. Writes that were under way
//! are no such progress: they may be gone or torn, and must be recognised. Within one process rounds
//! only grow: working on a round again would announce other sums of the same units.

/// The rounds of one peer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress {
    /// The newest round that was durable, unless the disk is gone since.
    durable: u64,
    /// The round that the running process began last.
    begun: Option<u64>,
}

impl Progress {
    /// The process died: `durable` is what had been reported as durable before, 0 if the disk is gone.
    pub fn crashed(&mut self, durable: u64) {
        self.durable = durable;
    }

    /// A process starts from the state of `round`.
    pub fn started(&mut self, round: u64) -> Result<(), String> {
        self.begun = None;
        let durable = self.durable;
        if round < durable {
            return Err(format!("starts from round {round}, although round {durable} was durable"));
        }
        Ok(())
    }

    /// Work on `round` begins.
    pub fn begun(&mut self, round: u64) -> Result<(), String> {
        match self.begun.replace(round) {
            Some(before) if round <= before => Err(format!("begins round {round} after round {before}")),
            _ => Ok(()),
        }
    }
}
