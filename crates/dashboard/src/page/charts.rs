//! The charts of the page.

use peerless_charts::{Axis, LineChart, Mark, Part, Row, Scale, Series, Span, SpanKind, StackedBars, Timeline};

use crate::snapshot::{Peer, PeerCondition, Snapshot, Story, Times, Tone};

/// Most peers in a chart.
const MAX_PEERS: usize = 24;
/// Most marks in a chart: more labels would lie over each other.
const MAX_MARKS: usize = 6;

fn axis(label: &str, from_zero: bool) -> Axis {
    Axis { label: label.to_owned(), scale: Scale::Linear, range: None, from_zero }
}

fn series(name: &str, points: &[(u64, f64)]) -> Series {
    Series { name: name.to_owned(), points: points.iter().map(|&(round, value)| (round as f64, value)).collect() }
}

/// Training and test loss by round.
pub fn loss(snapshot: &Snapshot, width: u32) -> String {
    let mut curves = vec![series("training", &snapshot.loss)];
    if !snapshot.test_loss.is_empty() {
        curves.push(series("test", &snapshot.test_loss));
    }
    let (x, y) = (axis("round", true), axis("mean loss per sample", true));
    LineChart { title: "Loss".to_owned(), x, y, series: curves, marks: marks_by_round(snapshot), width }.svg()
}

/// Test accuracy by round.
pub fn accuracy(snapshot: &Snapshot, width: u32) -> String {
    let points: Vec<(u64, f64)> = snapshot.accuracy.iter().map(|&(round, share)| (round, 100.0 * share)).collect();
    let least = points.iter().map(|(_, share)| *share).fold(f64::INFINITY, f64::min);
    // From the ten per cent below; without points the chart says so.
    let from = if least.is_finite() { ((least - 1.0) / 10.0).floor().max(0.0) * 10.0 } else { 0.0 };
    let y = Axis { range: Some((from, 100.0)), ..axis("test set predicted right (%)", false) };
    let x = axis("round", true);
    let title = "Test accuracy".to_owned();
    LineChart { title, x, y, series: vec![series("test accuracy", &points)], marks: Vec::new(), width }.svg()
}

/// Rounds in which a peer was lost.
fn marks_by_round(snapshot: &Snapshot) -> Vec<Mark> {
    let called = |name: &str| snapshot.peers.iter().find(|peer| peer.name == name).map(label).unwrap_or_default();
    let stories = &snapshot.stories;
    let lost = stories.iter().filter(|story| story.tone != Tone::Note);
    let mark = |story: &Story| Some(Mark { at: story.round? as f64, label: called(story.peer.as_deref()?) });
    let marks: Vec<Mark> = lost.filter_map(mark).collect();
    if marks.len() > MAX_MARKS { Vec::new() } else { marks }
}

/// Where the time of the newest rounds went, by peer.
pub fn times(snapshot: &Snapshot, width: u32) -> String {
    let timed: Vec<(&Peer, Times)> =
        snapshot.peers.iter().filter_map(|peer| Some((peer, peer.times?))).take(MAX_PEERS).collect();
    let part = |name: &str, of: fn(&Times) -> f64| Part {
        name: name.to_owned(),
        values: timed.iter().map(|(_, times)| of(times)).collect(),
    };
    let parts = vec![
        part("compute", |times| times.compute_ms),
        part("sum", |times| times.sum_ms),
        part("transfer", |times| times.transfer_ms),
        part("update", |times| times.update_ms),
        part("digest", |times| times.digest_ms),
        part("wait", |times| times.wait_ms),
    ];
    let categories = timed.iter().map(|(peer, _)| label(peer)).collect();
    let title = "Time of a round, mean of the last 50".to_owned();
    StackedBars { title, value: axis("time (ms)", true), categories, parts, width }.svg()
}

fn label(peer: &Peer) -> String {
    if peer.server { "server".to_owned() } else { format!("peer {}", peer.name) }
}

/// When which peer's process lived.
pub fn lives(snapshot: &Snapshot, width: u32) -> String {
    let lives = || snapshot.peers.iter().flat_map(|peer| &peer.lives);
    let begin = lives().map(|life| life.0).min().unwrap_or_default();
    let last = lives().map(|life| life.1).max().unwrap_or_default();
    let at = |us: u64| us.saturating_sub(begin) as f64 / 1e6;
    let rows = snapshot.peers.iter().take(MAX_PEERS).map(|peer| row(peer, last, at)).collect();
    let title = "Lives of the peers' processes".to_owned();
    Timeline { title, x: axis("time since the first start (s)", true), rows, marks: Vec::new(), width }.svg()
}

fn row(peer: &Peer, last: u64, at: impl Fn(u64) -> f64) -> Row {
    let span = |from: u64, to: u64, kind| Span { from: at(from), to: at(to), kind, label: String::new() };
    let mut spans: Vec<Span> = Vec::new();
    for pair in peer.lives.windows(2) {
        spans.push(span(pair[0].1, pair[1].0, SpanKind::Dead));
    }
    spans.extend(peer.lives.iter().map(|life| span(life.0, life.1, SpanKind::Alive)));
    let end = peer.lives.last().map(|life| life.1);
    match (peer.condition, end) {
        (PeerCondition::Dead | PeerCondition::Failed, Some(end)) => spans.push(span(end, last, SpanKind::Dead)),
        (PeerCondition::Silent, Some(end)) => spans.push(span(end, last, SpanKind::Stopped)),
        _ => {}
    }
    Row { name: label(peer), spans }
}
