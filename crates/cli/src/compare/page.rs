//! The report: one page with tables and charts, without scripts and without anything outside of it.

mod charts;

use std::fmt::Write;

use peerless_charts::{STYLE, escape};

use super::agreement::Verdict;
use super::figures::SPREAD_FROM;
use super::table::{Compared, Table};
use crate::output::Align;
use crate::place;

const PAGE_STYLE: &str = "\
:root{color-scheme:light dark}
body{margin:0;background:var(--pc-bg);color:var(--pc-text);font:15px/1.5 system-ui,-apple-system,\"Segoe UI\",\"DejaVu Sans\",sans-serif}
main{max-width:900px;margin:0 auto;padding:16px}
h1{font-size:24px;margin:8px 0}h2{font-size:20px;margin:40px 0 8px;padding-top:12px;border-top:1px solid var(--pc-grid)}
p{margin:8px 0}a{color:var(--pc-1)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 14px;margin:8px 0}dt{color:var(--pc-faint)}dd{margin:0}
.verdict{padding:10px 12px;border:1px solid var(--pc-grid);border-left:5px solid var(--pc-3);overflow-wrap:anywhere}
.verdict.differ{border-left-color:var(--pc-2)}
.scroll{overflow-x:auto;margin:12px 0}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:4px 9px;text-align:left;white-space:nowrap;border-bottom:1px solid var(--pc-grid)}
th{color:var(--pc-faint);font-weight:600;vertical-align:bottom}.n{text-align:right}
figure{margin:26px 0;break-inside:avoid}figcaption{color:var(--pc-faint);font-size:13px;margin-top:4px}
pre{overflow-x:auto;padding:10px;border:1px solid var(--pc-grid);font-size:12px}
summary{cursor:pointer;color:var(--pc-faint)}
@media (max-width:640px){main{padding:17px}dl{grid-template-columns:1fr}dd{margin-bottom:6px}}
@media (min-width:1270px){.scroll{margin:12px -180px}.scroll table{margin:0 auto}}
@media print{.scroll{margin:12px 0}main{max-width:none}.scroll{overflow:visible}table{font-size:8px}th,td{padding:2px 3px}}
";

/// The whole page.
pub(crate) fn html(all: &[Compared], verdict: &Verdict, note: &str) -> String {
    let mut page = String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    page += "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>Peerless: comparison</title>\n";
    let _ =
        write!(page, "<style>\n{STYLE}{PAGE_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>Peerless: comparison</h1>\n");
    page += &facts(all, note);
    let class = if verdict.agree { "verdict" } else { "verdict differ" };
    let _ = writeln!(page, "<p class=\"{class}\">{}</p>", escape(&verdict.text));
    page += &contents(all);
    for compared in all {
        page += &section(compared);
    }
    page += "</main>\n</body>\n</html>\n";
    page
}

/// Where and when.
fn facts(all: &[Compared], note: &str) -> String {
    let runs: usize = all.iter().map(|compared| compared.comparison.runs.len()).sum();
    let outcomes = || all.iter().flat_map(|compared| &compared.results).flat_map(|result| &result.outcomes);
    let minutes = outcomes().map(|outcome| outcome.wall_s).sum::<f64>() / 60.0;
    let mut programs: Vec<String> = outcomes().map(|outcome| outcome.program.short()).collect();
    programs.sort_unstable();
    programs.dedup();
    let mut facts = vec![
        ("machine", place::machine()),
        ("program", format!("peerless {}, digest {}", env!("CARGO_PKG_VERSION"), programs.join(", "))),
        ("written", place::now()),
        ("runs", format!("{runs} in {minutes:.1} min, one after the other, each with real processes on this machine")),
    ];
    if !note.is_empty() {
        facts.insert(0, ("note", note.to_owned()));
    }
    let fact = |(name, text): &(&str, String)| format!("<dt>{name}</dt><dd>{}</dd>", escape(text));
    format!("<dl>{}</dl>\n", facts.iter().map(fact).collect::<String>())
}

fn contents(all: &[Compared]) -> String {
    if all.len() < 2 {
        return String::new();
    }
    let link = |compared: &Compared| {
        let (name, title) = (escape(&compared.comparison.name), escape(&compared.comparison.spec.title));
        format!("<li><a href=\"#{name}\">{title}</a></li>")
    };
    format!("<nav aria-label=\"Comparisons\"><ol>{}</ol></nav>\n", all.iter().map(link).collect::<String>())
}

fn section(compared: &Compared) -> String {
    let comparison = compared.comparison;
    let (name, title) = (escape(&comparison.name), escape(&comparison.spec.title));
    let mut html = format!("<section id=\"{name}\">\n<h2>{title}</h2>\n");
    if !comparison.spec.about.is_empty() {
        let _ = writeln!(html, "<p>{}</p>", escape(&comparison.spec.about));
    }
    let shown = compared.table();
    let fixed = if shown.fixed.is_empty() { String::new() } else { format!(" The same in all rows: {}.", shown.fixed) };
    let spread =
        if comparison.spec.repetitions >= SPREAD_FROM { ", with the least and the most in brackets" } else { "" };
    let times = comparison.spec.repetitions;
    let runs = if times == 1 { "One run a row".to_owned() } else { format!("Medians of {times} runs a row{spread}") };
    let _ = writeln!(html, "<p>{}</p>", escape(&format!("{runs}.{fixed}")));
    html += &table(&shown, &title);
    for failure in &shown.failures {
        let _ = writeln!(html, "<p>Failed: {}</p>", escape(failure));
    }
    for chart in charts::all(compared) {
        let caption = if chart.caption.is_empty() {
            String::new()
        } else {
            format!("<figcaption>{}</figcaption>", escape(&chart.caption))
        };
        let _ = writeln!(html, "<figure>{}{caption}</figure>", chart.svg);
    }
    let text = escape_block(&comparison.text);
    let _ = writeln!(html, "<details><summary>Specification</summary><pre>{text}</pre></details>\n</section>");
    html
}

/// Text whose line breaks stay.
fn escape_block(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

fn table(table: &Table, title: &str) -> String {
    let class = |align: Align| if align == Align::Right { " class=\"n\"" } else { "" };
    let head = |(name, align): &(String, Align)| format!("<th scope=\"col\"{}>{}</th>", class(*align), escape(name));
    let row = |row: &Vec<String>| {
        let cell =
            |(text, (_, align)): (&String, &(String, Align))| format!("<td{}>{}</td>", class(*align), escape(text));
        format!("<tr>{}</tr>\n", row.iter().zip(&table.columns).map(cell).collect::<String>())
    };
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"Table: {title}\" tabindex=\"0\"><table>\n<thead><tr>{}</tr></thead>\n\
         <tbody>\n{}</tbody></table></div>\n",
        table.columns.iter().map(head).collect::<String>(),
        table.rows.iter().map(row).collect::<String>()
    )
}
