//! What is written down of a run, and the reasons that only the simulator knows.

use std::collections::BTreeSet;

use peerless_protocol::{Event, PeerId, SUSPECT_AFTER};

use super::{Outcome, World};
use crate::timeline::Line;

impl World {
    /// Writes a line, if lines are wanted.
    pub(super) fn note(&mut self, peer: Option<usize>, text: impl FnOnce(&Self) -> String) {
        if self.setup.record {
            let node = peer.and_then(|peer| self.peers[peer].node.as_ref());
            let round = node.map_or_else(|| self.newest_round(), |node| node.state().state.round);
            let text = text(self);
            self.log.push(Line { at: self.now, round, peer, text });
        }
    }

    pub(super) fn record(&mut self, peer: usize, event: &Event) {
        match event {
            Event::PeerLost(lost) | Event::PeerSuspected(lost) => {
                if let Some(&lost) = self.index.get(lost) {
                    self.recovery.noticed(self.now, peer, lost);
                }
            }
            Event::Refused { .. } => self.metrics.refused += 1,
            _ => {}
        }
        // Who starts connects with everybody; only later connections are news.
        let known = |id: &PeerId| self.index.get(id).is_some_and(|&other| self.is_at_its_beginning(other));
        let routine = matches!(event, Event::PeerConnected(other) if self.is_at_its_beginning(peer) && known(other));
        if !routine {
            self.note(Some(peer), |world| world.explain(peer, event));
        }
    }

    fn is_at_its_beginning(&self, peer: usize) -> bool {
        peer < self.setup.peers && self.peers[peer].incarnation == 1 && self.peers[peer].rounds_begun == 0
    }

    fn name(&self, id: &PeerId) -> String {
        self.index.get(id).map_or_else(|| id.short(), |index| format!("p{index}"))
    }

    /// Writes down whom `peer` shares the work of its round with, and who is no longer among them and why.
    pub(super) fn note_view(&mut self, peer: usize) {
        let Some(node) = self.peers[peer].node.as_ref().filter(|_| self.setup.record) else { return };
        let view: BTreeSet<usize> = node.view().keys().filter_map(|id| self.index.get(id).copied()).collect();
        let connected: BTreeSet<usize> = node.neighbours().filter_map(|id| self.index.get(id).copied()).collect();
        let names: Vec<String> = view.iter().map(|peer| format!("p{peer}")).collect();
        let mut text = format!("begins round {} with {}", node.state().state.round, names.join(" "));
        // Who is not connected was told of already.
        for lost in self.peers[peer].view.difference(&view).filter(|lost| connected.contains(lost)) {
            text += &format!("; without p{lost}: too far behind ({})", self.plight(peer, &self.peers[*lost].id));
        }
        self.peers[peer].view = view;
        self.note(Some(peer), |_| text);
    }

    fn explain(&self, peer: usize, event: &Event) -> String {
        match event {
            Event::PeerConnected(other) => format!("is connected to {}", self.name(other)),
            Event::PeerLost(other) => {
                format!(
                    "{} is left out of the view: its connection is gone ({})",
                    self.name(other),
                    self.plight(peer, other)
                )
            }
            Event::PeerSuspected(other) => {
                let seconds = SUSPECT_AFTER.as_secs_f64();
                let plight = self.plight(peer, other);
                format!("{} is left out of the view: silent for {seconds:.1} s ({plight})", self.name(other))
            }
            Event::PeerHeard(other) => format!("{} is in the view again: it was heard", self.name(other)),
            Event::Backup { unit, instead_of, .. } => {
                let plight = self.plight(peer, instead_of);
                format!("computes unit {unit} for {}, which is overdue ({plight})", self.name(instead_of))
            }
            Event::UnitFailed { unit, peer: at, cause, .. } => {
                format!("unit {unit} failed at {}: {cause}", self.name(at))
            }
            Event::UnitTime(time) => {
                let ms = f64::from(time.us) / 1000.0;
                format!("takes {ms:.1} ms for a unit, which counts from round {} on", time.from_round)
            }
            Event::CatchUp { from, to } => {
                format!("is behind at round {from}: takes the state of round {}", to.round)
            }
            Event::Divergence { round, peer: other, own, winner } => format!(
                "DIVERGENCE: {} says that its state of round {round} is another one; {} counts",
                self.name(other),
                if own == winner { "the own one" } else { "the other one" }
            ),
            Event::Refused { from, kind, reason } => {
                format!("refuses what {} sent ({}): {reason}", self.name(from), kind.name())
            }
        }
    }

    /// What is the matter with a peer, as seen from above.
    fn plight(&self, observer: usize, id: &PeerId) -> String {
        let Some(&index) = self.index.get(id) else { return "a stranger".into() };
        let peer = &self.peers[index];
        let since = format!("{:.1} ms", peer.struck_at.0 as f64 / 1e3);
        if peer.node.is_none() {
            let how = match (&peer.stopped, peer.finished, peer.left) {
                (_, Some(_), _) => "it had finished",
                (_, _, true) => "it left",
                (Some(_), ..) => "it gave up",
                _ => "it crashed",
            };
            return format!("{how} at {since}");
        }
        match (peer.frozen, self.links.open(index, observer), self.links.open(observer, index)) {
            (true, ..) => format!("it stands still since {since}"),
            (_, false, _) => "nothing passes from there".into(),
            (_, _, false) => "nothing passes to it".into(),
            _ if peer.pool.slowdown > 1 => format!("it runs, {} times slower than usual", peer.pool.slowdown),
            _ => "it runs; its messages are late or lost, or it is busy".into(),
        }
    }

    pub(super) fn into_outcome(mut self) -> Outcome {
        let rounds = self.metrics.rounds;
        self.metrics.units_needed = (0..rounds).map(|round| u64::from(self.reference.plan(round).total())).sum();
        self.metrics.detect = std::mem::take(&mut self.recovery.detect);
        self.metrics.recover = std::mem::take(&mut self.recovery.recover);
        self.metrics.virtual_time = self.now.0;
        self.metrics.longest_end = self.now.0.saturating_sub(self.last_fault.0);
        let peers = || self.peers.iter().enumerate();
        Outcome {
            finished: peers().filter_map(|(index, peer)| Some((index, peer.finished?))).collect(),
            stopped: peers().filter_map(|(index, peer)| Some((index, peer.stopped.clone()?))).collect(),
            ended: self.now,
            violation: self.violation,
            metrics: self.metrics,
            log: self.log,
        }
    }
}
