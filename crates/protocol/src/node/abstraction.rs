//! A peer without its clock, for the model checker.
//!
//! The checker explores every order of events, and when a timer fires is one of the things that it
//! chooses. So for it time stands still at zero between two inputs, every wait begins anew with each
//! input, and what was learned about pace is forgotten: a timer fires exactly if the checker lets
//! enough time pass in one input. That adds histories (timers of one peer fire in any order) and takes
//! none away, as clocks of different peers are unrelated anyway.

use std::fmt::{self, Write};
use std::hash::Hasher;
use std::time::Duration;

use super::catch_up::DOUBT;
use super::{HEARTBEAT_EVERY, LINGER, Node, Phase};
use crate::pace::Pace;
use crate::time::Time;

const ZERO: Time = Time(0);

impl Node {
    /// Begins every wait anew at time zero. `now` is the time of the last input: waits that were over
    /// by then stay over.
    pub fn forget_time(&mut self, now: Time) {
        let rest = |until: Time, wait: Duration| if until > now { ZERO + wait } else { ZERO };
        self.gather_until = rest(self.gather_until, self.config.gather_at_most);
        self.next_heartbeat = ZERO + HEARTBEAT_EVERY;
        self.behind_since = self.behind_since.map(|_| ZERO);
        self.pace = Pace::default();
        if matches!(self.phase, Phase::Finished { .. }) {
            self.phase = Phase::Finished { until: ZERO + LINGER };
        }
        for neighbour in self.neighbours.values_mut() {
            neighbour.heard = ZERO;
            neighbour.probed = None;
            neighbour.doubted_until = rest(neighbour.doubted_until, DOUBT);
        }
        self.round.forget_time(ZERO + self.pace.in_flight());
    }

    /// Feeds `hasher` with everything that what this peer will do depends on, after
    /// [`forget_time`](Self::forget_time).
    pub fn fingerprint(&self, hasher: &mut impl Hasher) {
        // Taken apart in full, so that a new field is not forgotten here. Left out is what never
        // changes, what `forget_time` makes constant, and effects, which are handed out at once.
        let Self {
            config: _,
            verify: _,
            run: _,
            me: _,
            state,
            phase,
            gather_until,
            round,
            neighbours,
            members,
            early,
            held,
            unannounced,
            history,
            fetching,
            behind_since,
            pace: _,
            next_heartbeat: _,
            probe_after,
            effects: _,
            #[cfg(feature = "mutants")]
                mutant: _,
        } = self;
        let known = (neighbours, probe_after, members, history, fetching, behind_since);
        let _ = write!(Feed(hasher), "{:?}", (state, phase, gather_until, round, early, held, unannounced, known));
    }
}

/// Hashes what is printed, so that no type needs `Hash` for the checker alone.
struct Feed<'a, H>(&'a mut H);

impl<H: Hasher> Write for Feed<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}
