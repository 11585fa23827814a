//! Dialling: a peer that is wanted is dialled until it is connected, and again after every loss.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use peerless_protocol::PeerId;
use tokio::time::{Instant, sleep};

use super::super::{Refusal, Rejection};
use super::handshake;
use super::hello::Channel;
use super::registry::DialOrders;
use super::session::{self, BulkOrigin};
use super::wire::{NO_ADDRESS, Purpose};
use super::{Shared, lock};

/// Longest pause before the first redial.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause between two dials.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Keeps `peer` connected until it is forgotten.
pub(super) fn keep_connected(shared: &Arc<Shared>, peer: PeerId, addresses: Vec<SocketAddr>) {
    if peer == shared.peer {
        return;
    }
    let Some(orders) = shared.registry.order_dial(peer, addresses) else { return };
    let task = lock(&shared.tasks).spawn(redial(Arc::clone(shared), peer, orders));
    shared.registry.dialling(peer, task);
}

/// How a dial ended.
enum Outcome {
    Connected,
    /// Worth another try soon.
    Failed,
    /// Refused for a reason that a person has to change.
    Hopeless,
}

async fn redial(shared: Arc<Shared>, peer: PeerId, mut orders: DialOrders) {
    sleep(shared.dial_after).await;
    let mut pauses = Pauses::new(shared.seed, peer);
    loop {
        match dial_each(&shared, peer, &mut orders).await {
            Outcome::Connected => {
                let since = Instant::now();
                if orders.connected.wait_for(|connected| !connected).await.is_err() {
                    return;
                }
                if since.elapsed() > LONGEST_PAUSE {
                    pauses.restart();
                }
            }
            Outcome::Failed => {}
            Outcome::Hopeless => pauses.lengthen(),
        }
        // New addresses, or the peer's own dial, make the rest of the pause pointless.
        tokio::select! {
            () = sleep(pauses.next()) => {}
            changed = orders.addresses.changed() => if changed.is_err() { return },
        }
    }
}

async fn dial_each(shared: &Arc<Shared>, peer: PeerId, orders: &mut DialOrders) -> Outcome {
    let addresses = orders.addresses.borrow_and_update().clone();
    let mut outcome = Outcome::Failed;
    for route in shared.wire.routes(&addresses) {
        if shared.registry.is_connected(peer) {
            return Outcome::Connected;
        }
        let mut dialled = dial(shared, peer, &route, false).await;
        let refused_as_known = matches!(dialled, Err(Rejection::ByThem(Refusal::AlreadyConnected)));
        if refused_as_known && !shared.registry.is_connected(peer) {
            // The other side holds on to a connection that is dead on this side.
            dialled = dial(shared, peer, &route, true).await;
        }
        match dialled {
            Ok(()) => return Outcome::Connected,
            Err(Rejection::ByThem(refusal)) if refusal.is_routine() => {}
            Err(rejection) => {
                if let Rejection::ByThem(refusal) | Rejection::ByUs(refusal) = &rejection
                    && !refusal.is_passing()
                {
                    outcome = Outcome::Hopeless;
                }
                let address = route.first().copied().unwrap_or(NO_ADDRESS);
                shared.events.report(Some(peer), address, rejection);
            }
        }
    }
    outcome
}

/// Dials once. `Ok` when `peer` is connected, by this dial or by its own.
async fn dial(shared: &Arc<Shared>, peer: PeerId, route: &[SocketAddr], replace: bool) -> Result<(), Rejection> {
    let secured = handshake::connect(shared, peer, route, Purpose::Control).await?;
    let Some(greeting) = shared.registry.begin_greeting(peer) else { return Ok(()) };
    let number = getrandom::u64().map_err(|error| Rejection::Handshake(error.to_string()))?;
    let control = handshake::greet(shared, secured, Channel::Control { replace }, number).await?;
    let parts = shared.registry.dialled(peer, &control.hello, number).map_err(Rejection::ByUs)?;
    drop(greeting);
    let origin = BulkOrigin::Dial { route: route.to_vec(), number };
    shared.spawn(session::run(Arc::clone(shared), control, origin, parts));
    Ok(())
}

/// The pauses between dials: exponential, and each shortened by a seeded random part of up to half,
/// so that peers that lost each other together do not come back together.
struct Pauses {
    random: u64,
    longest: Duration,
}

impl Pauses {
    fn new(seed: u64, peer: PeerId) -> Self {
        let mut salt = [0; 8];
        salt.copy_from_slice(&peer.as_bytes()[..8]);
        Self { random: seed ^ u64::from_le_bytes(salt), longest: FIRST_PAUSE }
    }

    fn restart(&mut self) {
        self.longest = FIRST_PAUSE;
    }

    fn lengthen(&mut self) {
        self.longest = LONGEST_PAUSE;
    }

    /// SplitMix64 (Steele, Lea, Flood, 2014).
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn next(&mut self) -> Duration {
        let longest = self.longest;
        self.longest = (longest * 2).min(LONGEST_PAUSE);
        let share = (self.random() >> 32) as f64 / f64::from(u32::MAX);
        longest.mul_f64(1.0 - share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_keep_at_least_half() {
        let mut pauses = Pauses::new(7, PeerId([1; 32]));
        let mut longest = FIRST_PAUSE;
        for _ in 0..20 {
            let pause = pauses.next();
            assert!(pause <= longest && pause >= longest / 2, "{pause:?} of at most {longest:?}");
            longest = (longest * 2).min(LONGEST_PAUSE);
        }
        assert_eq!(longest, LONGEST_PAUSE);
    }

    #[test]
    fn pauses_are_the_same_for_a_seed_and_differ_between_peers() {
        let pauses = |seed, peer| {
            let mut pauses = Pauses::new(seed, PeerId([peer; 32]));
            std::array::from_fn::<_, 8, _>(|_| pauses.next())
        };
        assert_eq!(pauses(1, 1), pauses(1, 1));
        assert_ne!(pauses(1, 1), pauses(1, 2));
        assert_ne!(pauses(1, 1), pauses(2, 1));
    }
}
