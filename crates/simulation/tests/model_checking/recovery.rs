//! Liveness: whether every live peer reaches the last round once faults stop.
//!
//! stateright's `eventually` ignores histories that end in a cycle, and timers make cycles (a peer asks
//! again and again). So liveness is checked as an invariant of every state that can be reached: from
//! here, without any further fault, a fair schedule leads all peers that run to the last round. In
//! terms of CTL it is AG EF, with the schedule as the witness. The schedule lets everything happen
//! that can (deliver, compute, apply, fetch, reconnect, heartbeats, short waits) and only when nothing
//! changes any more lets the long waits end. Peers that crashed stay dead, which is the harder case,
//! and peers that have the last state do not leave: nobody may need their leaving to go on.

use std::collections::HashSet;
use std::sync::Mutex;

use stateright::Model;

use crate::actions::Action;
use crate::configuration::Peers;
use crate::hashing::hash_of;
use crate::process::Process;
use crate::system::System;

/// Steps after which a schedule is said to lead nowhere. The longest one that was seen to end in the
/// configurations of the tests had less than a fifth of it.
const MAX_STEPS: usize = 1000;

/// States that are known to recover.
#[derive(Default)]
pub struct Recovery(Mutex<HashSet<u64>>);

impl Recovery {
    pub fn holds(&self, peers: &Peers, system: &System) -> bool {
        let mut path = vec![hash_of(system)];
        let mut system = system.clone();
        while path.len() < MAX_STEPS {
            // Whatever else is violated on the way is found by the property that it violates.
            let ends = system.violation.is_some() || is_done(&system);
            if ends || path.last().is_some_and(|last| self.knows(*last)) {
                self.0.lock().expect("no panic under the lock").extend(path);
                return true;
            }
            let Some(next) = step(peers, &system) else { return false };
            path.push(hash_of(&next));
            system = next;
        }
        false
    }

    fn knows(&self, fingerprint: u64) -> bool {
        self.0.lock().expect("no panic under the lock").contains(&fingerprint)
    }
}

fn is_done(system: &System) -> bool {
    system.peers.iter().filter_map(|peer| peer.process.as_deref()).all(Process::is_finished)
}

/// The first thing that can happen and changes something.
fn step(peers: &Peers, system: &System) -> Option<System> {
    let mut actions = Vec::new();
    peers.progress(system, &mut actions);
    let running = (0..peers.count).filter(|&peer| system.process(peer).is_some_and(|process| !process.is_finished()));
    actions.extend(running.map(|peer| Action::WaitLong { peer }));
    let before = hash_of(system);
    actions.into_iter().filter_map(|action| peers.next_state(system, action)).find(|next| hash_of(next) != before)
}
