//! A bill as tables for people and as JSON for programs.

use clap::ValueEnum;
use peerless_functions::prices::{Money, Tariff};
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::waste::Fate;
use serde_json::{Value, json};

use super::{Bill, Line, Projection, Reading};
use crate::output::{Align, percent, table, thousands};

/// Version of the JSON; it grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// What a bill is broken down by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// One line per peer.
    Peer,
    /// One line per platform.
    Platform,
    /// One line per epoch.
    Epoch,
}

impl By {
    const ALL: [Self; 3] = [Self::Peer, Self::Platform, Self::Epoch];

    fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Platform => "platform",
            Self::Epoch => "epoch",
        }
    }

    /// The lines by name; in the end the total.
    fn lines(self, bill: &Bill) -> Vec<(String, Line)> {
        let epoch = |epoch: &Option<u64>| epoch.map_or_else(|| "set-up".to_owned(), |epoch| epoch.to_string());
        match self {
            Self::Peer => bill.peers.clone(),
            Self::Platform => {
                let machines =
                    Line { machine: bill.total.machine, machine_us: bill.total.machine_us, ..Line::default() };
                let lines = bill.platforms.iter().map(|(name, line)| (name.clone(), *line));
                lines.chain([("machines".to_owned(), machines)]).collect()
            }
            Self::Epoch => bill.epochs.iter().map(|(name, line)| (epoch(name), *line)).collect(),
        }
    }
}

/// The bill for people.
pub(crate) fn text(
    run: &RunDirectory,
    reading: &Reading,
    bill: &Bill,
    projection: &Projection,
    by: Option<By>,
) -> String {
    let spec = run.spec();
    let path = run.path().display();
    let mut lines = vec![format!("run {} in {path}: {} on {}", spec.id().short(), spec.model, spec.dataset.name)];
    lines.extend(remarks(reading, projection));
    lines.extend(estimates(reading, bill));
    for by in By::ALL.into_iter().filter(|&each| by.is_none_or(|by| by == each)) {
        lines.push(String::new());
        lines.push(breakdown(by, bill));
    }
    lines.push(String::new());
    lines.push(waste_table(bill));
    let prices = prices(&reading.tariffs);
    if !prices.is_empty() {
        lines.push(String::new());
        lines.extend(prices);
    }
    lines.push(String::new());
    lines.push(format!(
        "total {}, of which {} for functions that were of no use",
        bill.total.total(),
        wasted(&bill.total)
    ));
    lines.join("\n")
}

fn wasted(line: &Line) -> String {
    let what = if line.charge.total() == Money::ZERO { "of their time" } else { "of their cost" };
    format!("{} ({} {what})", line.wasted, percent(line.wasted_share()))
}

/// What must be known to read the figures.
fn remarks(reading: &Reading, projection: &Projection) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(rate) = &projection.functions {
        let memory = rate.memory_mb.unwrap_or_default();
        remarks.push(format!(
            "PROJECTED: all invocations as if they had run as {} with {} MB for as long as they did; nobody bills that",
            rate.name,
            thousands(memory.into())
        ));
    }
    if let Some(machine) = &projection.machine {
        remarks.push(format!("PROJECTED: all peers as if they had run on {}; nobody bills that", machine.name));
    }
    if projection.functions.is_none() && reading.tariffs.iter().any(|tariff| tariff.platforms.contains_key("process")) {
        remarks.push("REHEARSED: local functions have a price (--function-price); nobody bills that".to_owned());
    }
    for peer in &reading.without_sessions {
        remarks.push(format!("peer {peer}: part of its ledger is older than prices; that part has no peer time"));
    }
    for unreadable in &reading.unreadable {
        remarks.push(format!("INCOMPLETE: without peer {}: {}", unreadable.peer, unreadable.reason));
    }
    remarks
}

/// Platforms that did not say how long they bill calls.
fn estimates(reading: &Reading, bill: &Bill) -> Vec<String> {
    let estimate = |(platform, line): (&String, &Line)| {
        let (estimated, all) = (thousands(line.charge.estimated), thousands(line.invocations));
        let rates = reading.tariffs.iter().filter_map(|tariff| tariff.platforms.get(platform));
        let name = rates.clone().map(|rate| rate.name.as_str()).next()?;
        let counted = match rates.filter(|rate| rate.memory_mb.is_none()).count() {
            0 => "they count with the time that was measured here".to_owned(),
            _ => format!("their time is NOT COUNTED, as nobody knows their memory: `--as {name}:MB` counts it"),
        };
        Some(format!("ESTIMATED: {platform} did not say how long it bills {estimated} of {all} invocations; {counted}"))
    };
    bill.platforms.iter().filter(|(_, line)| line.charge.estimated > 0).filter_map(estimate).collect()
}

fn breakdown(by: By, bill: &Bill) -> String {
    let mut lines = by.lines(bill);
    lines.push(("total".to_owned(), bill.total));
    let any = |part: fn(&Line) -> Money| part(&bill.total) > Money::ZERO;
    let (transfer, machines) = (any(|line| line.charge.transfer), any(|line| line.machine));
    let mut columns = vec![
        (by.name(), Align::Left),
        ("invocations", Align::Right),
        ("function s", Align::Right),
        ("GB-s", Align::Right),
        ("functions", Align::Right),
    ];
    columns.extend(transfer.then_some(("transfer", Align::Right)));
    columns.push(("peer h", Align::Right));
    columns.extend(machines.then_some(("peers", Align::Right)));
    columns.extend([("total", Align::Right), ("wasted", Align::Right), ("share", Align::Right)]);
    let row = |(name, line): &(String, Line)| {
        let mut row = vec![name.clone(), thousands(line.invocations), seconds(line.function_us), gb_seconds(line)];
        row.push((line.charge.compute + line.charge.requests).to_string());
        row.extend(transfer.then(|| line.charge.transfer.to_string()));
        row.push(hours(line.machine_us));
        row.extend(machines.then(|| line.machine.to_string()));
        row.extend([line.total().to_string(), line.wasted.to_string(), percent(line.wasted_share())]);
        row
    };
    table(&columns, &lines.iter().map(row).collect::<Vec<_>>())
}

fn waste_table(bill: &Bill) -> String {
    let columns = [
        ("wasted", Align::Left),
        ("invocations", Align::Right),
        ("function s", Align::Right),
        ("cost", Align::Right),
        ("of all", Align::Right),
    ];
    let row = |(fate, line): (&Fate, &Line)| {
        let share = share(line, &bill.total);
        let cells = [thousands(line.invocations), seconds(line.function_us), line.wasted.to_string(), percent(share)];
        [fate.name().to_owned()].into_iter().chain(cells).collect()
    };
    table(&columns, &bill.wasted.iter().map(row).collect::<Vec<_>>())
}

/// The part of the functions' cost that a line makes up, or of their time where they cost nothing.
fn share(line: &Line, total: &Line) -> f64 {
    let by_time = || line.wasted_us as f64 / total.function_us.max(1) as f64;
    line.wasted.share_of(total.charge.total()).unwrap_or_else(by_time)
}

fn seconds(us: u64) -> String {
    format!("{:.1}", us as f64 / 1e6)
}

fn hours(us: u64) -> String {
    format!("{:.4}", us as f64 / 3.6e9)
}

fn gb_seconds(line: &Line) -> String {
    format!("{:.3}", gb_s(line))
}

fn gb_s(line: &Line) -> f64 {
    line.charge.mb_ms as f64 / 1_024_000.0
}

/// The prices that were applied, with where they come from.
fn prices(tariffs: &[Tariff]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for tariff in tariffs {
        for (platform, rate) in &tariff.platforms {
            let price = &rate.price;
            let memory = rate.memory_mb.map(|mb| format!(" with {} MB", thousands(mb.into()))).unwrap_or_default();
            lines.push(format!(
                "price of {platform}: {}{memory}, ${} per GB-second and ${} per million requests{}",
                rate.name,
                price.usd_per_gb_second,
                price.usd_per_million_requests,
                origin(&price.date, &price.source)
            ));
        }
        lines.extend(tariff.machine.iter().map(|machine| {
            let price = &machine.price;
            format!(
                "price of peers: {}, ${} per hour{}",
                machine.name,
                price.usd_per_hour,
                origin(&price.date, &price.source)
            )
        }));
        lines.extend(tariff.bucket.iter().map(|bucket| {
            let price = &bucket.price;
            let (puts, gets) = (price.usd_per_thousand_puts, price.usd_per_thousand_gets);
            let origin = origin(&price.date, &price.source);
            format!("price of the bucket: {}, ${puts} per 1,000 PUT and ${gets} per 1,000 GET{origin}", bucket.name)
        }));
        lines.extend(tariff.egress.iter().map(|egress| {
            let price = &egress.price;
            format!(
                "price of egress: {}, ${} per GB{}",
                egress.name,
                price.usd_per_gb,
                origin(&price.date, &price.source)
            )
        }));
    }
    let mut once = Vec::new();
    lines.retain(|line| {
        !once.contains(line) && {
            once.push(line.clone());
            true
        }
    });
    lines
}

fn origin(date: &str, source: &str) -> String {
    if date.is_empty() { format!(" ({source})") } else { format!(" ({date}, {source})") }
}

/// The bill for programs; see docs/cost.md.
pub(crate) fn document(
    run: &RunDirectory,
    reading: &Reading,
    bill: &Bill,
    projection: &Projection,
    by: Option<By>,
) -> Value {
    let mut document = json!({
        "version": VERSION,
        "run_id": run.spec().id(),
        "run_dir": run.path(),
        "complete": reading.unreadable.is_empty(),
        "unreadable": reading.unreadable.iter().map(|it| json!({ "peer": it.peer, "reason": it.reason })).collect::<Vec<_>>(),
        "projected": {
            "functions": projection.functions,
            "machine": projection.machine,
            "prices_replaced": projection.table.is_some(),
        },
        "tariffs": reading.tariffs,
        "total": line_document(&bill.total),
        "wasted": bill.wasted.iter().map(|(fate, line)| (fate.name().to_owned(), json!({
            "invocations": line.invocations,
            "function_s": line.function_us as f64 / 1e6,
            "usd": line.wasted,
            "share": share(line, &bill.total),
        }))).collect::<serde_json::Map<_, _>>(),
    });
    for by in By::ALL.into_iter().filter(|&each| by.is_none_or(|by| by == each)) {
        let line = |(name, line): &(String, Line)| {
            let mut document = line_document(line);
            document[by.name()] = json!(name);
            document
        };
        document[format!("by_{}", by.name())] = by.lines(bill).iter().map(line).collect();
    }
    document
}

fn line_document(line: &Line) -> Value {
    json!({
        "invocations": line.invocations,
        "estimated_invocations": line.charge.estimated,
        "function_s": line.function_us as f64 / 1e6,
        "gb_s": gb_s(line),
        "compute_usd": line.charge.compute,
        "requests_usd": line.charge.requests,
        "transfer_usd": line.charge.transfer,
        "peer_h": line.machine_us as f64 / 3.6e9,
        "peer_usd": line.machine,
        "total_usd": line.total(),
        "wasted_usd": line.wasted,
        "wasted_s": line.wasted_us as f64 / 1e6,
        "wasted_share": line.wasted_share(),
    })
}
