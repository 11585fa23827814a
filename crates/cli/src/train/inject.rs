//! Does to processes what faults say.

use peerless_peer::process;
use rustix::process::Signal;

use super::fault::Action;
use super::peers::Peer;
use crate::functions::FUNCTION_COMMAND;

/// Does to a peer what the action asks for; whether there was a process to do it to. A peer that is
/// to be restarted starts when its process is seen to have ended: [`Peer::restart`] says so.
pub(crate) fn strike(peer: &mut Peer, action: Action) -> bool {
    match action {
        Action::Kill { .. } | Action::KillServer => peer.signal(Signal::KILL),
        Action::Stop { .. } => peer.signal(Signal::STOP),
        Action::Continue { .. } => peer.signal(Signal::CONT),
        Action::Restart { .. } => {
            // A peer that lives has to end before another process can have its directory.
            peer.restart = peer.signal(Signal::KILL);
            true
        }
        Action::Slow { .. } => {
            peer.slow_down();
            peer.lives()
        }
        Action::KillFunctions { .. } => false,
    }
}

/// Kills up to `count` functions of all peers, busy ones first. Returns their process ids.
pub(crate) fn kill_functions(peers: &[Peer], count: usize) -> Vec<u32> {
    let living = peers.iter().filter(|peer| peer.lives()).filter_map(|peer| peer.status.as_ref());
    let mut functions: Vec<_> = living.flat_map(|status| status.functions.processes.iter().copied()).collect();
    functions.sort_by_key(|function| !function.busy);
    let functions = functions.into_iter().filter(|function| process::is_alive(function.pid, FUNCTION_COMMAND));
    let killed = functions.filter(|function| process::signal(function.pid, Signal::KILL));
    killed.take(count).map(|function| function.pid).collect()
}
