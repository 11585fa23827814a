//! A page with charts of every kind, to look at: `cargo run -p peerless-charts --example gallery > gallery.html`.

use peerless_charts::{
    Axis, LineChart, Mark, Part, Row, STYLE, Scale, Series, Span, SpanKind, StackedBars, Timeline, responsive,
};

fn axis(label: &str) -> Axis {
    Axis { label: label.into(), ..Axis::default() }
}

fn mark(at: f64, label: &str) -> Mark {
    Mark { at, label: label.into() }
}

fn lines(width: u32) -> String {
    let curve =
        |speed: f64| (0..200).map(|step| f64::from(step) / 4.0).map(move |t| (t, 99.0 - 89.0 * (-t / speed).exp()));
    let series = ["p2p", "parameter server", "all-reduce without fault tolerance", "one peer", "scatter-reduce"]
        .iter()
        .zip([4.0, 6.0, 9.0, 12.0, 16.0])
        .map(|(name, speed)| Series { name: (*name).into(), points: curve(speed).collect() })
        .collect();
    let marks = vec![
        mark(10.0, "kill:1@30"),
        mark(11.0, "kill-function:2@33"),
        mark(12.0, "kill:server@36"),
        mark(49.0, "restart:1@150"),
    ];
    let title = "Accuracy over time, with a title that is long enough to need a second line on a phone".into();
    LineChart { title, x: axis("time (s)"), y: axis("accuracy (%)"), series, marks, width }.svg()
}

fn scaling(width: u32) -> String {
    let line = |name: &str, factor: f64| Series {
        name: name.into(),
        points: [1.0, 2.0, 4.0, 8.0, 16.0].map(|peers: f64| (peers, factor * peers.powf(0.4))).into(),
    };
    let x = Axis { scale: Scale::Log10, ..axis("peers") };
    let y = Axis { from_zero: true, ..axis("samples per second") };
    let series = vec![line("p2p", 2100.0), line("parameter server", 1700.0)];
    LineChart { title: "Scaling".into(), x, y, series, marks: Vec::new(), width }.svg()
}

fn bars(width: u32) -> String {
    let part = |name: &str, values: [f64; 4]| Part { name: name.into(), values: values.into() };
    let names = [
        "p2p, no faults\nmedian of 10, 0.1–0.3",
        "p2p, a worker dies at round 30 and is started again at round 60",
        "parameter server, server dies\nmedian of 10, 5.1–7.3",
        "p2p, stragglers",
    ];
    StackedBars {
        title: "Cost split".into(),
        value: axis("dollars"),
        categories: names.map(str::to_owned).into(),
        parts: vec![
            part("functions", [0.01, 0.012, 0.02, 0.0]),
            part("peers", [0.02, 0.02, 0.04, 0.01]),
            part("wasted", [0.0, 0.001, 0.003, 0.0]),
            part("requests", [0.003, 0.003, 0.003, 0.003]),
            part("egress", [0.003, 0.003, 0.003, 0.003]),
            part("start", [0.003, 0.003, 0.003, 0.003]),
        ],
        width,
    }
    .svg()
}

fn timeline(width: u32) -> String {
    let span = |from: f64, to: f64, kind, label: &str| Span { from, to, kind, label: label.into() };
    let row = |name: &str, spans: Vec<Span>| Row { name: name.into(), spans };
    Timeline {
        title: "Recovery".into(),
        x: axis("time (s)"),
        rows: vec![
            row("peer 1", vec![span(0.0, 8.0, SpanKind::Alive, ""), span(8.0, 10.0, SpanKind::Finished, "")]),
            row(
                "peer 2",
                vec![span(0.0, 3.0, SpanKind::Alive, ""), span(3.0, 10.0, SpanKind::Dead, "killed at round 30")],
            ),
            row(
                "server",
                vec![
                    span(0.0, 4.0, SpanKind::Alive, ""),
                    span(4.0, 6.0, SpanKind::Dead, "boots"),
                    span(6.0, 7.0, SpanKind::CatchingUp, ""),
                    span(7.0, 10.0, SpanKind::Alive, ""),
                ],
            ),
            row("peer 3", vec![span(0.0, 10.0, SpanKind::Alive, ""), span(5.0, 7.0, SpanKind::Stopped, "SIGSTOP")]),
        ],
        marks: vec![mark(3.0, "kill:2@30"), mark(4.0, "kill:server@40")],
        width,
    }
    .svg()
}

fn main() {
    let empty = |width| LineChart { title: "Nothing".into(), width, ..LineChart::default() }.svg();
    let charts: [fn(u32) -> String; 4] = [lines, scaling, bars, timeline];
    let charts: String = charts.iter().map(responsive).collect();
    println!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>Charts</title>\
         <style>{STYLE}body{{background:var(--pc-bg);margin:17px}}.pc{{margin-bottom:30px}}</style>{charts}{}",
        responsive(empty)
    );
}
