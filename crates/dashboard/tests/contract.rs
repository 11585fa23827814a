//! What the server promises its clients, over real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use peerless_dashboard::{Dashboard, DashboardError, DashboardOptions, Limits, Token};
use serde_json::json;
use support::{Place, Served, event, id, rss_kib, three_peers};

const PARTS: [&str; 13] = [
    "headline",
    "problems",
    "run",
    "figures",
    "topology",
    "peers",
    "loss",
    "accuracy",
    "times",
    "functions",
    "bill",
    "lives",
    "stories",
];

#[test]
fn the_page_needs_nothing_but_itself_and_tells_browsers_to_keep_it_to_themselves() {
    let mut place = Place::new();
    three_peers(&mut place);
    let served = Served::new(&place);
    let page = served.get("/");
    assert_eq!(page.status, 200);
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'self';",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
        "x-frame-options: deny",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    // It is complete without its script.
    assert!(page.body.contains("Training") && page.body.contains("dead"), "{}", page.body);
    assert!(page.body.matches("class=\"pc\"").count() >= 4, "{}", page.body);
    assert!(!page.body.contains("style=") && !page.body.contains("{{"), "the policy forbids styles in attributes");
    for reference in ["href=\"", "src=\""] {
        for (at, _) in page.body.match_indices(reference) {
            let target = page.body[at + reference.len()..].split('"').next().unwrap();
            assert!(target.starts_with('/') || target.starts_with('#'), "{target}");
            if target.starts_with('/') {
                let answer = served.get(target);
                assert_eq!(answer.status, 200, "{target}");
                assert!(answer.head.contains("nosniff") && answer.head.contains("no-store"), "{target}");
            }
        }
    }
}

#[test]
fn other_paths_and_methods_are_refused() {
    let place = Place::new();
    let served = Served::new(&place);
    assert_eq!(served.get("/etc/passwd").status, 404);
    assert_eq!(served.get("/../run.json").status, 404);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        for path in ["/", "/snapshot.json", "/metrics", "/events"] {
            let answer = served.ask(method, path, &[]);
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("nosniff"));
        }
    }
    assert_eq!(served.ask("HEAD", "/", &[]).status, 200);
}

#[test]
fn a_name_that_is_not_this_machines_is_refused() {
    let place = Place::new();
    let served = Served::new(&place);
    for host in ["example.com", "rebound.example.com:80", "10.1.2.3", ""] {
        let answer = served.ask("GET", "/snapshot.json", &[&format!("Host: {host}")]);
        assert_eq!(answer.status, 421, "{host}");
        assert!(!answer.body.contains("lenet5"));
    }
    for host in ["localhost", "localhost:1234", "127.0.0.1", "[::1]:99"] {
        assert_eq!(served.ask("GET", "/snapshot.json", &[&format!("Host: {host}")]).status, 200, "{host}");
    }
}

#[test]
fn others_than_this_machines_users_need_a_token() {
    let place = Place::new();
    let options =
        |listen: SocketAddr, token| DashboardOptions { run: place.run(), listen, token, limits: Limits::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let everywhere: SocketAddr = ([0, 0, 0, 0], 0).into();
        let refused = Dashboard::listen(options(everywhere, None));
        assert!(matches!(refused, Err(DashboardError::NeedsToken(_))), "{refused:?}");
        assert!(Dashboard::listen(options(everywhere, Some(Token::new("0123456789abcdef").unwrap()))).is_ok());
    });
}

#[test]
fn a_token_is_shown_as_a_header_or_once_in_a_query() {
    let place = Place::new();
    let token = Token::new("correct+horse/battery=staple").unwrap();
    let served = Served::with(&place, Limits::default(), Some(token));
    let paths = ["/", "/snapshot.json", "/metrics", "/events", "/dashboard.js", "/nowhere"];
    for path in paths {
        let answer = served.get(path);
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.head.contains("www-authenticate: bearer") && !answer.body.contains("lenet5"));
    }
    let bearer = |token: &str| served.ask("GET", "/metrics", &[&format!("Authorization: Bearer {token}")]).status;
    assert_eq!(bearer("correct+horse/battery=staple"), 200);
    assert_eq!(bearer("correct+horse/battery=stable"), 401);
    assert_eq!(served.get("/?token=wrong").status, 401);
    let admitted = served.get("/?token=correct%2Bhorse%2Fbattery%3Dstaple");
    assert_eq!(admitted.status, 200);
    assert!(!admitted.body.contains("horse") && !admitted.head.contains("horse"), "the token is out of sight");
    let cookie = admitted.head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
    assert!(cookie.contains("httponly") && cookie.contains("samesite=strict"), "{cookie}");
    let cookie = format!("Cookie: {}", cookie.split(';').next().unwrap());
    assert_eq!(served.ask("GET", "/snapshot.json", &[&cookie]).status, 200);
    assert_eq!(served.ask("GET", "/snapshot.json", &["Cookie: peerless-dashboard=00"]).status, 401);
}

#[test]
fn the_first_event_has_all_parts_and_later_ones_what_has_changed() {
    let mut place = Place::new();
    let pids = three_peers(&mut place);
    let served = Served::new(&place);
    let mut events = served.events();
    let (name, parts) = events.next().unwrap();
    assert_eq!(name, "parts");
    assert_eq!(parts.as_object().unwrap().len(), PARTS.len(), "{parts}");
    assert!(PARTS.iter().all(|part| parts[part].is_string()));
    place.status("1", pids[0], 61, |_| {});
    // Times go on meanwhile; sooner or later there is the new round.
    let news = loop {
        let (_, parts) = events.next().unwrap();
        assert!(!parts.as_object().unwrap().contains_key("accuracy"), "it has not changed: {parts}");
        if parts["headline"].as_str().is_some_and(|headline| headline.contains("60 % done")) {
            break parts;
        }
    };
    assert!(news["figures"].as_str().unwrap().contains("61"), "{news}");
}

#[test]
fn readers_are_told_when_the_dashboard_ends() {
    let mut place = Place::new();
    let pids = three_peers(&mut place);
    let mut served = Served::new(&place);
    let mut events = served.events();
    events.next().unwrap();
    place.status("1", pids[0], 100, |status| {
        status["phase"] = json!("finished");
        status["finish_reason"] = json!("rounds");
    });
    served.stop();
    let mut last = Vec::new();
    while let Some(event) = events.next() {
        last.push(event);
    }
    let over = |(_, parts): &(String, serde_json::Value)| {
        parts["headline"].as_str().is_some_and(|text| text.contains("is over"))
    };
    assert!(last.iter().any(over), "{last:?}");
    assert_eq!(last.last().unwrap().0, "closing");
}

#[test]
fn who_does_not_read_is_dropped_and_holds_up_nobody() {
    let mut place = Place::new();
    three_peers(&mut place);
    let limits = Limits { connections: 4, patience: Duration::from_secs(2), ..Limits::default() };
    let served = Served::with(&place, limits, None);
    served.get("/");
    let before = rss_kib();
    // All connections are taken by clients that ask for much and read nothing, and that say nothing at all.
    let mut stuck: Vec<_> = (0..4).map(|_| served.connect()).collect();
    for stream in &mut stuck[..2] {
        stream.set_nonblocking(true).unwrap();
        let requests = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", served.address).repeat(2_000);
        for _ in 0..10 {
            match stream.write_all(requests.as_bytes()) {
                Ok(()) => {}
                // Full, or dropped already.
                Err(error) => {
                    let kinds = [ErrorKind::WouldBlock, ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
                    assert!(kinds.contains(&error.kind()), "{error}");
                    break;
                }
            }
        }
    }
    assert_eq!(served.get("/snapshot.json").status, 200, "served once a slot is free");
    for stream in &mut stuck[2..] {
        let mut rest = Vec::new();
        // The end of the stream or a reset: it was dropped.
        let _ = stream.read_to_end(&mut rest);
    }
    let grown = rss_kib().saturating_sub(before);
    // Other tests of this program run at the same time.
    assert!(grown < 64 * 1024, "{grown} KiB more");
}

#[test]
fn there_are_only_so_many_watchers() {
    let place = Place::new();
    let served = Served::with(&place, Limits { watchers: 2, ..Limits::default() }, None);
    let mut watching: Vec<_> = (0..2).map(|_| served.events()).collect();
    watching.iter_mut().for_each(|events| assert!(events.next().is_some()));
    let refused = served.get("/events");
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after"));
    assert_eq!(served.get("/").status, 200, "the page itself is still there");
    drop(watching.pop());
    // The server notices with the next event that it cannot send.
    while served.ask("HEAD", "/events", &[]).status == 503 {
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn what_others_have_named_is_text_and_nothing_else() {
    let mut place = Place::new();
    let hostile = "<img src=x onerror=alert(1)>\"'&\n";
    let pid = place.process();
    place.status(hostile, pid, 3, |status| status["error"] = json!("<script>alert(2)</script>"));
    place.status("1", pid, 3, |_| {});
    let mut ledger = place.ledger("1");
    ledger.begin_session(support::BEGIN, "{}").unwrap();
    let mut batch = support::round(0, 10);
    batch.invocations[0].outcome = "<b>odd</b>\"\n\\".into();
    let cause = json!({ "unit": 1, "peer": id("1"), "cause": "<script>alert(3)</script>" });
    batch.events =
        vec![event(20, 0, "unit-failed", cause), event(30, 0, "backup", json!({ "instead_of": id(hostile) }))];
    ledger.record(&batch).unwrap();
    let served = Served::new(&place);
    let page = served.get("/").body;
    for tag in ["<script>", "<img", "<b>odd"] {
        assert!(!page.contains(tag), "{tag} in {page}");
    }
    assert!(page.contains("&lt;script&gt;alert(3)"), "{page}");
    assert!(
        served.get("/snapshot.json").json()["peers"].as_array().unwrap().iter().any(|peer| peer["name"] == hostile)
    );
    let metrics = served.get("/metrics").body;
    assert!(metrics.contains(r#"peer="<img src=x onerror=alert(1)>\"'&\n""#), "{metrics}");
    assert!(metrics.contains(r#"outcome="<b>odd</b>\"\n\\""#), "{metrics}");
}

#[test]
fn a_run_that_vanishes_or_is_damaged_is_said_to_be_and_shown_as_it_was() {
    let mut place = Place::new();
    three_peers(&mut place);
    let served = Served::new(&place);
    assert_eq!(served.get("/snapshot.json").json()["condition"], "training");
    support::write(&place.peer_directory("1").join("status.json"), b"{\"version\": 1, ");
    support::write(&place.peer_directory("3").join("ledger.sqlite"), &[0x42; 9_000]);
    let fresh = || {
        std::thread::sleep(Duration::from_millis(600));
        served.get("/snapshot.json").json()
    };
    let damaged = fresh();
    assert_eq!(damaged["peers"].as_array().unwrap().len(), 3, "{damaged:#}");
    let problems = damaged["problems"].to_string();
    assert!(problems.contains("peer 1: its status cannot be read") && problems.contains("ledger"), "{damaged:#}");
    fs::remove_dir_all(place.run()).unwrap();
    let gone = fresh();
    assert_eq!(gone["condition"], "unreadable", "{gone:#}");
    assert_eq!(gone["peers"].as_array().unwrap().len(), 3, "what was known is kept");
    let page = served.get("/");
    assert!(page.status == 200 && page.body.contains("Not readable"), "{}", page.body);
    assert_eq!(served.get("/metrics").status, 200);
}

#[test]
fn metrics_are_in_the_format_of_prometheus() {
    let mut place = Place::new();
    three_peers(&mut place);
    let served = Served::new(&place);
    let answer = served.get("/metrics");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let mut types = std::collections::BTreeMap::new();
    for line in answer.body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else if !line.starts_with("# HELP ") {
            let name = line.split('{').next().unwrap();
            assert!(types.contains_key(name) && name.starts_with("peerless_"), "{line}");
            assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
        }
    }
    for sample in ["peerless_rounds_total{run=", "condition=\"dead\"} 1", "peer=\"2\"} 0", "outcome=\"ok\"} 50"] {
        assert!(answer.body.contains(sample), "{sample} is not in {}", answer.body);
    }
}
