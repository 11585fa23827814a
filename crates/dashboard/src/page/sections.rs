//! The parts of the page besides charts, each the content of one element.

use std::fmt::Write;

use peerless_functions::prices::Money;
use peerless_protocol::FinishReason;

use super::text::{percent, plural, safe, seconds, thousands};
use super::topology::class;
use crate::snapshot::{Peer, PeerCondition, RunCondition, Snapshot, Story, Tone};

/// Stories on the page, the newest first.
const STORIES: usize = 40;

/// One sentence on where the run is. It is read aloud when it changes, so it changes seldom.
pub fn headline(snapshot: &Snapshot) -> String {
    let progress = &snapshot.progress;
    let live = snapshot.peers.iter().filter(|peer| peer.condition.is_live()).count();
    let all = snapshot.peers.len();
    match snapshot.condition {
        RunCondition::Starting => format!("<b class=\"live\">Starting:</b> {live} of {all} peers are here"),
        RunCondition::Training => {
            let tenths = (10 * progress.steps).checked_div(progress.rounds).unwrap_or_default().min(10);
            let gone = snapshot.peers.iter().filter(|peer| class(peer.condition) == "gone").count();
            let done = if tenths > 0 { format!("; {} % done", 10 * tenths) } else { String::new() };
            let gone = if gone > 0 { format!(", {gone} dead") } else { String::new() };
            format!("<b class=\"live\">Training:</b> {live} of {all} peers take part{gone}{done}")
        }
        RunCondition::Finished => {
            let reason = match progress.finish_reason {
                Some(FinishReason::Rounds) => "all rounds are done",
                Some(FinishReason::Accuracy) => "the accuracy asked for is reached",
                Some(FinishReason::EarlyStopping) => "the test loss stopped falling",
                None => "there is a final state",
            };
            format!("<b class=\"done\">The run is over:</b> {reason}")
        }
        RunCondition::Stopped => {
            "<b class=\"gone\">Stopped:</b> no peer lives; <code>peerless train --resume</code> goes on".to_owned()
        }
        RunCondition::Unreadable => {
            "<b class=\"gone\">Not readable:</b> what is below is what was known last".to_owned()
        }
    }
}

/// What could not be read.
pub fn problems(snapshot: &Snapshot) -> String {
    let mut html = String::new();
    if snapshot.incomplete {
        html.push_str("<p>Reading the ledgers: older rounds are still to come.</p>");
    }
    for problem in &snapshot.problems {
        let _ = write!(html, "<p><b>Cannot be read:</b> {}</p>", safe(problem));
    }
    html
}

fn figure(html: &mut String, name: &str, value: &str, note: &str) {
    let _ = write!(html, "<div><dt>{name}</dt><dd>{value}</dd>");
    if !note.is_empty() {
        let _ = write!(html, "<dd class=\"note\">{note}</dd>");
    }
    html.push_str("</div>");
}

/// The figures at the top.
pub fn figures(snapshot: &Snapshot) -> String {
    let progress = &snapshot.progress;
    let mut html = String::new();
    let (steps, rounds) = (progress.steps, progress.rounds);
    let _ = write!(
        html,
        "<progress max=\"{}\" value=\"{steps}\" aria-label=\"rounds done\">{steps} of {rounds}</progress><dl class=\"figures\">",
        rounds.max(1)
    );
    let left = progress.left_s.map(|left| format!("{} left", seconds(left))).unwrap_or_default();
    figure(&mut html, "Rounds", &format!("{} <small>of {}</small>", thousands(steps), thousands(rounds)), &left);
    let loss = progress.training_loss.map_or_else(|| "–".to_owned(), |loss| format!("{loss:.4}"));
    figure(&mut html, "Training loss", &loss, "newest round");
    figure(&mut html, "Test accuracy", &progress.accuracy.map_or_else(|| "–".to_owned(), percent), "newest evaluation");
    let speed = progress.samples_per_s.map_or_else(|| "–".to_owned(), |speed| thousands(speed.round() as u64));
    let round = progress.usual_round_ms.map(|ms| format!("a round takes {ms:.0} ms")).unwrap_or_default();
    figure(&mut html, "Samples per second", &speed, &round);
    figure(&mut html, "Time", &progress.elapsed_s.map_or_else(|| "–".to_owned(), seconds), "since the first start");
    let lost = &snapshot.lost_work;
    let redone = lost.rounds_redone;
    let again = format!("{} {} again", thousands(redone), plural(redone, "round done", "rounds done"));
    figure(&mut html, "Without progress", &seconds(lost.stalled_s), &again);
    html.push_str("</dl>");
    html
}

/// What is trained, and the newest state.
pub fn run(snapshot: &Snapshot) -> String {
    let Some(run) = &snapshot.run else { return String::new() };
    let mut html = format!(
        "{} on {}, {}, run <code>{}</code> in <code>{}</code>",
        safe(&run.model),
        safe(&run.dataset),
        match run.topology {
            "parameter-server" => "with a parameter server",
            "all-reduce" => "by all-reduce",
            _ => "peer to peer",
        },
        run.id.short(),
        safe(&run.directory)
    );
    if let Some(digest) = snapshot.progress.state_digest {
        let held = snapshot.progress.held_by;
        let _ = write!(html, "<br>newest state <code>{}</code>, held by {held}", digest.short());
    }
    html
}

/// The table of peers.
pub fn peers(snapshot: &Snapshot) -> String {
    let mut html = String::from(
        "<table><thead><tr><th scope=\"col\">Peer</th><th scope=\"col\">Condition</th><th scope=\"col\">Round</th>\
         <th scope=\"col\">Functions busy</th><th scope=\"col\">Units</th><th scope=\"col\">For others</th>\
         <th scope=\"col\">Last word</th></tr></thead><tbody>",
    );
    snapshot.peers.iter().for_each(|peer| row(&mut html, peer, snapshot));
    html.push_str("</tbody></table>");
    html
}

fn row(html: &mut String, peer: &Peer, snapshot: &Snapshot) {
    let behind = snapshot.progress.steps.saturating_sub(peer.steps);
    let behind = if behind > 1 && !matches!(peer.condition, PeerCondition::Finished) {
        format!(" <small>{} behind</small>", thousands(behind))
    } else {
        String::new()
    };
    let name = if peer.server { "server".to_owned() } else { safe(&peer.name) };
    let id = peer.id.map(|id| format!(" <code>{}</code>", id.short())).unwrap_or_default();
    let functions =
        if peer.server { "–".to_owned() } else { format!("{} of {}", peer.functions_busy, peer.functions) };
    // A counter that ticks would have the part sent twice a second for nothing.
    let age = match peer.age_s {
        None => "never".to_owned(),
        Some(age) if age < 5.0 => "now".to_owned(),
        Some(age) => format!("{} ago", seconds(age)),
    };
    let _ = write!(
        html,
        "<tr><th scope=\"row\">{name}{id}</th><td data-label=\"Condition\"><span class=\"chip {}\">{}</span></td>\
         <td data-label=\"Round\">{}{behind}</td><td data-label=\"Functions busy\">{functions}</td>\
         <td data-label=\"Units\">{}</td><td data-label=\"For others\">{}</td><td data-label=\"Last word\">{age}</td></tr>",
        class(peer.condition),
        peer.condition.name(),
        thousands(peer.steps),
        if peer.server { "–".to_owned() } else { thousands(peer.units) },
        if peer.server { "–".to_owned() } else { thousands(peer.backup_units) },
    );
    for remark in remarks(peer) {
        let _ = write!(html, "<tr class=\"remark\"><td colspan=\"7\">{remark}</td></tr>");
    }
}

fn remarks(peer: &Peer) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(error) = &peer.error {
        remarks.push(format!("<b>Error:</b> {}", safe(error)));
    }
    if peer.divergences > 0 {
        remarks.push(format!(
            "<b>Other states</b> for the same round seen {} {}",
            thousands(peer.divergences),
            plural(peer.divergences, "time", "times")
        ));
    }
    if peer.refused > 0 {
        let (refused, messages) = (thousands(peer.refused), plural(peer.refused, "message", "messages"));
        remarks.push(format!("<b>Refused:</b> {refused} {messages}; <code>peerless status</code> says whose"));
    }
    remarks
}

/// The functions.
pub fn functions(snapshot: &Snapshot) -> String {
    let functions = &snapshot.functions;
    let mut html = String::from("<dl class=\"figures\">");
    figure(&mut html, "Busy", &functions.busy.to_string(), &format!("{} warm and idle", functions.idle));
    let retried = format!("{} retried", thousands(functions.retried));
    figure(&mut html, "Invocations", &thousands(functions.invocations), &retried);
    figure(&mut html, "Cold starts", &thousands(functions.cold_starts), "processes or instances started");
    figure(&mut html, "Failed", &thousands(functions.failed), &failures(&functions.outcomes));
    let repeated = format!("{} repeated, {} discarded", thousands(functions.repeated), thousands(functions.discarded));
    figure(&mut html, "Of no use", &seconds(functions.wasted_s), &repeated);
    figure(&mut html, "Time at work", &seconds(functions.function_s), "of all functions together");
    html.push_str("</dl>");
    html
}

fn failures(outcomes: &[(String, u64)]) -> String {
    let failed = outcomes.iter().filter(|(outcome, _)| !matches!(outcome.as_str(), "ok" | "discarded"));
    failed.map(|(outcome, times)| format!("{} {}", thousands(*times), safe(outcome))).collect::<Vec<_>>().join(", ")
}

/// The bill and the budget.
pub fn bill(snapshot: &Snapshot) -> String {
    let Some(bill) = &snapshot.bill else {
        return "<p>Nothing here has a price. <code>--peer-price</code> and <code>--function-price</code> give it one; \
                <code>peerless cost --as lambda-x86:1769</code> says what it would have cost on AWS Lambda.</p>"
            .to_owned();
    };
    let mut html = String::new();
    if let Some(budget) = bill.budget_usd {
        let share = bill.spent_usd.share_of(budget).unwrap_or_default();
        let _ = write!(
            html,
            "<progress max=\"1\" value=\"{:.4}\" aria-label=\"budget spent\">{}</progress>",
            share.clamp(0.0, 1.0),
            percent(share)
        );
    }
    html.push_str("<dl class=\"figures\">");
    let budget = bill.budget_usd.map(|budget| format!("of {}", dollars(budget)));
    figure(&mut html, "Spent", &dollars(bill.spent_usd), &budget.unwrap_or_else(|| "no budget is set".to_owned()));
    figure(&mut html, "Functions", &dollars(bill.functions_usd), "");
    figure(&mut html, "Peers", &dollars(bill.peers_usd), "their machines");
    let wasted =
        bill.wasted_usd.share_of(bill.functions_usd).map(|share| format!("{} of the functions", percent(share)));
    figure(&mut html, "Wasted", &dollars(bill.wasted_usd), &wasted.unwrap_or_default());
    html.push_str("</dl>");
    if bill.used_up > 0 {
        let peers = plural(bill.used_up as u64, "peer", "peers");
        let _ = write!(html, "<p><b>Used up:</b> the budget of {} {peers} pays for no more.</p>", bill.used_up);
    }
    html
}

fn dollars(money: Money) -> String {
    format!("{money:.4}")
}

/// What happened, the newest first.
pub fn stories(snapshot: &Snapshot) -> String {
    if snapshot.stories.is_empty() {
        return "<p>Nothing has happened to this run so far.</p>".to_owned();
    }
    let begin =
        snapshot.peers.iter().filter_map(|peer| peer.lives.first()).map(|life| life.0).min().unwrap_or_default();
    let mut html = String::from("<ol class=\"stories\">");
    snapshot.stories.iter().rev().take(STORIES).for_each(|story| told(&mut html, story, begin));
    html.push_str("</ol>");
    html
}

fn told(html: &mut String, story: &Story, begin: u64) {
    let (class, word) = match story.tone {
        Tone::Trouble => ("gone", "trouble"),
        Tone::Recovered => ("done", "recovered"),
        Tone::Note => ("off", "note"),
    };
    let after = seconds(story.at_us.saturating_sub(begin) as f64 / 1e6);
    let round = story.round.map(|round| format!(", round {}", thousands(round))).unwrap_or_default();
    let _ = write!(
        html,
        "<li><span class=\"chip {class}\">{word}</span> <b>{}</b> <small>after {after}{round}</small><br>{}</li>",
        safe(&story.title),
        safe(&story.text)
    );
}
