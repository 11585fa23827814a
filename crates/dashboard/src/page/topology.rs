//! Who is there and connected to whom, as a picture. What it shows is in the table of peers as well.

use std::f64::consts::TAU;
use std::fmt::Write;

use super::text::{escape, safe};
use crate::snapshot::{Peer, PeerCondition, Snapshot};

/// Most peers that are drawn as a circle; more have the table alone.
const MAX_DRAWN: usize = 24;
/// Most letters of a name in a node.
const LETTERS: usize = 7;
/// Radius of a node, in pixels.
const NODE: f64 = 21.0;
/// Room for a word below a node.
const WORD: f64 = 17.0;

struct Place<'a> {
    peer: &'a Peer,
    x: f64,
    y: f64,
}

/// The picture, `width` CSS pixels wide.
pub fn picture(snapshot: &Snapshot, width: u32) -> String {
    let peers = &snapshot.peers;
    if peers.is_empty() {
        return "<p>No peer has been started here.</p>".to_owned();
    }
    if peers.len() > MAX_DRAWN {
        return format!("<p>{} peers: see the table.</p>", peers.len());
    }
    let width = f64::from(width.min(520));
    let places = places(peers, width);
    let height = places.iter().map(|place| place.y).fold(0.0, f64::max) + NODE + WORD + 10.0;
    let mut svg = format!(
        "<svg class=\"topology\" role=\"img\" width=\"{width}\" height=\"{height:.0}\" viewBox=\"0 0 {width} {height:.0}\">\
         <title>{}</title>",
        escape(&summary(peers))
    );
    links(&mut svg, &places);
    places.iter().for_each(|place| node(&mut svg, place));
    svg.push_str("</svg>");
    svg
}

fn summary(peers: &[Peer]) -> String {
    let words: Vec<String> = peers.iter().map(|peer| format!("{}: {}", name(peer), peer.condition.name())).collect();
    words.join(", ")
}

fn name(peer: &Peer) -> String {
    if peer.server { "parameter server".to_owned() } else { format!("peer {}", peer.name) }
}

/// A circle, with the server in its middle.
fn places(peers: &[Peer], width: f64) -> Vec<Place<'_>> {
    let around: Vec<&Peer> = peers.iter().filter(|peer| !peer.server).collect();
    let has_server = around.len() < peers.len();
    let room = (width / 2.0 - NODE - 24.0).max(60.0);
    // Words below the nodes must not touch the next node.
    let needed = (around.len() as f64 * (2.0 * NODE + 26.0) / TAU).max(if has_server { 112.0 } else { 88.0 });
    let radius = if around.len() == 1 && !has_server { 0.0 } else { needed.min(room) };
    let (middle_x, middle_y) = (width / 2.0, radius + NODE + 6.0);
    let at = |index: usize, peer| {
        let angle = TAU * index as f64 / around.len() as f64 - TAU / 4.0;
        Place { peer, x: middle_x + radius * angle.cos(), y: middle_y + radius * angle.sin() }
    };
    let server = peers.iter().filter(|peer| peer.server).map(|peer| Place { peer, x: middle_x, y: middle_y });
    around.iter().enumerate().map(|(index, peer)| at(index, peer)).chain(server).collect()
}

/// Peers talk to all others, workers to the server alone.
fn links(svg: &mut String, places: &[Place<'_>]) {
    let server = places.iter().any(|place| place.peer.server);
    for (index, one) in places.iter().enumerate() {
        for other in &places[index + 1..] {
            let linked = !server || one.peer.server || other.peer.server;
            if linked && one.peer.condition.is_live() && other.peer.condition.is_live() {
                let _ = write!(
                    svg,
                    "<line class=\"link\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
                    one.x, one.y, other.x, other.y
                );
            }
        }
    }
}

fn node(svg: &mut String, Place { peer, x, y }: &Place<'_>) {
    let class = class(peer.condition);
    let _ = write!(svg, "<g class=\"node {class}\"><title>{}: {}</title>", safe(&name(peer)), peer.condition.name());
    svg.push_str(&shape(peer, *x, *y));
    let label: String = if peer.server { "server".to_owned() } else { peer.name.chars().take(LETTERS).collect() };
    let size = if label.chars().count() > 4 { 11 } else { 15 };
    let _ = write!(
        svg,
        "<text class=\"name\" x=\"{x:.1}\" y=\"{:.1}\" font-size=\"{size}\">{}</text>",
        y + 5.0,
        escape(&label)
    );
    let _ = write!(
        svg,
        "<text class=\"word\" x=\"{x:.1}\" y=\"{:.1}\">{}</text></g>",
        y + NODE + WORD - 3.0,
        peer.condition.name()
    );
}

/// The shape of a condition. A server is a square, whatever its condition.
fn shape(peer: &Peer, x: f64, y: f64) -> String {
    let r = NODE;
    let outline = match (peer.server, peer.condition) {
        (true, _) => {
            let (left, top, side) = (x - r, y - r, 2.0 * r);
            format!(
                "<rect class=\"shape\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{side}\" height=\"{side}\" rx=\"3\"/>"
            )
        }
        (_, PeerCondition::CatchingUp | PeerCondition::Starting) => {
            let d = r + 3.0;
            format!("<path class=\"shape\" d=\"M{x:.1} {:.1}l{d} {d}-{d} {d}-{d}-{d}z\"/>", y - d)
        }
        _ => format!("<circle class=\"shape\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{r}\"/>"),
    };
    let gone = matches!(peer.condition, PeerCondition::Dead | PeerCondition::Failed);
    let d = r * 0.72;
    let cross = format!("<path class=\"cross\" d=\"M{:.1} {:.1}l{w} {w}m0-{w}l-{w} {w}\"/>", x - d, y - d, w = 2.0 * d);
    if gone { outline + &cross } else { outline }
}

/// The class of a condition in the style sheet.
pub fn class(condition: PeerCondition) -> &'static str {
    match condition {
        PeerCondition::Training | PeerCondition::Starting => "live",
        PeerCondition::CatchingUp => "behind",
        PeerCondition::Silent => "silent",
        PeerCondition::Dead | PeerCondition::Failed => "gone",
        PeerCondition::Finished => "done",
        PeerCondition::Left | PeerCondition::Waiting => "off",
    }
}
