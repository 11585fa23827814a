//! The dashboard of a run that trains: it shows what happens, and nothing that happens to it reaches the run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Running, Workplace, skip, undisturbed, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const FLAGS: [&str; 2] = ["--rounds", "60"];

/// Long enough to be looked at while it trains, on a quick machine as well.
const LONG: [&str; 2] = ["--rounds", "160"];

/// The address that a command has said after `before`.
fn address(text: &str, before: &str) -> Option<String> {
    let rest = text.split(before).nth(1)?.strip_prefix("http://")?;
    Some(rest.split_once('/')?.0.to_owned())
}

/// Waits until a training run has said where its dashboard is.
fn dashboard_of(training: &Running) -> String {
    wait_until("the dashboard is announced", || address(&training.stderr(), "dashboard at ").is_some());
    address(&training.stderr(), "dashboard at ").unwrap()
}

fn request(address: &str, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

fn get(address: &str, path: &str) -> String {
    let mut text = String::new();
    request(address, path).read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_owned()
}

fn snapshot(address: &str) -> Value {
    serde_json::from_str(&get(address, "/snapshot.json")).unwrap()
}

/// The process of the dashboard that was started here.
fn dashboard_process(place: &Workplace) -> Option<Pid> {
    let is_dashboard = |pid: &Pid| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        line.split(|&byte| byte == 0).nth(1) == Some(b"dashboard")
    };
    place.processes().into_iter().find(is_dashboard)
}

fn start(place: &Workplace, more: &[&str]) -> Running {
    let flags = [&["train", "--json", "--peers", "3", "--run-dir", "run", "--dashboard"], &LONG[..], more].concat();
    place.start(place.command(&flags))
}

#[test]
fn a_run_is_watched_while_a_peer_dies_and_comes_back() {
    let place = Workplace::for_training();
    let training = start(&place, &["--fault", "kill:2@15", "--fault", "restart:2@30", "--peer-price", "t2.large"]);
    let address = dashboard_of(&training);
    let mut events = request(&address, "/events");
    // Read all the while: who does not read is dropped.
    let events = std::thread::spawn(move || {
        let mut text = String::new();
        events.read_to_string(&mut text).unwrap();
        text
    });
    let mut story = String::new();
    wait_until("the story of the death is told", || {
        let snapshot = snapshot(&address);
        let stories = snapshot["stories"].as_array().unwrap().iter();
        let lost = stories.clone().find(|story| story["title"] == "Peer 2 was lost");
        lost.inspect(|lost| story = lost["text"].as_str().unwrap().to_owned()).is_some()
    });
    assert!(story.contains("noticed"), "{story}");
    let page = get(&address, "/");
    assert!(page.contains("Training") && page.contains("Peer 2 was lost"), "{page}");
    let metrics = get(&address, "/metrics");
    assert!(metrics.contains("peerless_rounds_total") && metrics.contains("peerless_cost_dollars"), "{metrics}");
    common::same_state(training, &LONG);
    // The stream ends with the training, after the last word.
    let text = events.join().unwrap();
    assert!(text.matches("event: parts").count() > 3, "{text}");
    assert!(text.contains("The run is over") && text.contains("event: closing"), "{text}");
    wait_until("the dashboard has ended", || dashboard_process(&place).is_none());
}

#[test]
fn a_dashboard_that_is_killed_and_readers_that_do_not_read_change_nothing() {
    let place = Workplace::for_training();
    let training = start(&place, &[]);
    let address = dashboard_of(&training);
    let stuck: Vec<TcpStream> = (0..30).map(|_| request(&address, "/events")).collect();
    place.wait_for_steps("run", 3, 20);
    kill_process(dashboard_process(&place).unwrap(), Signal::KILL).unwrap();
    let summary = training.wait().json();
    assert_eq!(summary["state_digest"], undisturbed(&LONG), "{summary:#}");
    assert!(summary["peers"].as_array().unwrap().iter().all(|peer| peer["exit"] == "finished"), "{summary:#}");
    drop(stuck);
}

#[test]
fn a_finished_run_is_shown_until_the_dashboard_is_told_to_end() {
    let place = Workplace::for_training();
    place.train(&[&["--peers", "2", "--run-dir", "run"], &FLAGS[..]].concat());
    let dashboard = place.start(place.command(&["dashboard", "run"]));
    wait_until("it listens", || dashboard.stdout().ends_with("/\n"));
    let address = dashboard.stdout().trim().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let snapshot = snapshot(&address);
    assert_eq!(
        (&snapshot["condition"], &snapshot["progress"]["steps"]),
        (&"finished".into(), &60.into()),
        "{snapshot:#}"
    );
    assert_eq!(snapshot["progress"]["state_digest"], undisturbed(&FLAGS));
    let taken = place.run(&["dashboard", "run", "--listen", &address]);
    taken.failed(5, &["cannot listen at", "port 0"]);
    dashboard.signal(Signal::TERM);
    assert_eq!(dashboard.wait().code, Some(0));
}

#[test]
fn an_address_for_others_needs_a_token() {
    let place = Workplace::new();
    for command in [&["train", "--dashboard=0.0.0.0:0"][..], &["train", "--peers", "1", "--dashboard=[::]:0"]] {
        place.run(command).failed(2, &["needs a token", "PEERLESS_DASHBOARD_TOKEN"]);
    }
    let mut command = place.command(&["train", "--dashboard=0.0.0.0:0"]);
    command.env("PEERLESS_DASHBOARD_TOKEN", "short");
    place.start(command).wait().failed(2, &["16 to 256"]);
    assert_eq!(place.files(), Vec::<String>::new(), "nothing was begun");
    place.run(&["dashboard"]).failed(1, &["there is no run"]);
}

mod browser {
    //! In a real browser, driven by the WebDriver protocol (<https://www.w3.org/TR/webdriver2/>).

    use std::process::{Child, Command, Stdio};

    use serde_json::json;

    use super::*;

    /// A headless browser with one window.
    struct Browser {
        driver: Child,
        address: String,
        session: String,
        _profile: tempfile::TempDir,
    }

    impl Browser {
        /// `None` where there is none.
        fn start(width: u32, dark: bool) -> Option<Self> {
            let mut driver = Command::new("chromedriver")
                .arg("--port=0")
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            let port = port(driver.stdout.take().unwrap());
            let profile = tempfile::tempdir().unwrap();
            let mut arguments = vec![
                "--headless".to_owned(),
                "--no-sandbox".to_owned(),
                "--disable-gpu".to_owned(),
                "--disable-quic".to_owned(),
                "--no-first-run".to_owned(),
                "--disable-background-networking".to_owned(),
                "--disable-component-update".to_owned(),
                "--disable-sync".to_owned(),
                format!("--user-data-dir={}", profile.path().display()),
            ];
            arguments.extend(dark.then(|| "--force-dark-mode".to_owned()));
            let mobile = json!({ "deviceMetrics": { "width": width, "height": 900, "pixelRatio": 1.0 } });
            let options = json!({ "args": arguments, "mobileEmulation": mobile });
            let capabilities = json!({ "capabilities": { "alwaysMatch": {
                "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" },
            } } });
            let mut browser =
                Self { driver, address: format!("127.0.0.1:{port}"), session: String::new(), _profile: profile };
            let session = browser.call("POST", "/session", &capabilities);
            browser.session = session["sessionId"].as_str().unwrap_or_else(|| panic!("{session}")).to_owned();
            Some(browser)
        }

        fn call(&self, method: &str, path: &str, body: &Value) -> Value {
            let body = body.to_string();
            let mut stream = TcpStream::connect(&self.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
            let (address, length) = (&self.address, body.len());
            write!(
                stream,
                "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
                 Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
            .unwrap();
            let answer = answer(stream);
            serde_json::from_str::<Value>(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"))["value"].take()
        }

        fn go(&self, url: &str) {
            self.call("POST", &format!("/session/{}/url", self.session), &json!({ "url": url }));
        }

        fn run(&self, script: &str) -> Value {
            let body = json!({ "script": script, "args": [] });
            self.call("POST", &format!("/session/{}/execute/sync", self.session), &body)
        }

        /// What the page has complained about.
        fn errors(&self) -> Vec<String> {
            let log = self.call("POST", &format!("/session/{}/se/log", self.session), &json!({ "type": "browser" }));
            let entries = log.as_array().cloned().unwrap_or_else(|| panic!("{log}"));
            entries.iter().map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
        }
    }

    impl Drop for Browser {
        fn drop(&mut self) {
            // A driver that does not answer must not hide what the test has failed at.
            if !std::thread::panicking() {
                let _ = self.call("DELETE", &format!("/session/{}", self.session), &json!({}));
            }
            let _ = self.driver.kill();
            let _ = self.driver.wait();
        }
    }

    /// The body of an answer. The driver keeps its connections open, whatever it is asked.
    fn answer(stream: TcpStream) -> String {
        use std::io::{BufRead, BufReader};
        let mut reader = BufReader::new(stream);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        String::from_utf8(body).unwrap()
    }

    /// The port that the driver says it listens at. What it says later is read to nowhere.
    fn port(stdout: impl Read + Send + 'static) -> String {
        use std::io::{BufRead, BufReader};
        let mut lines = BufReader::new(stdout).lines();
        let port = loop {
            let line = lines.next().expect("the driver ended").unwrap();
            if let Some((_, rest)) = line.split_once("successfully on port ") {
                break rest.trim_end_matches('.').to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        port
    }

    #[test]
    fn the_page_works_on_a_laptop_and_on_a_phone() {
        let place = Workplace::for_training();
        let probe = Command::new("chromedriver").arg("--version").output();
        if probe.is_err() || Command::new("chromium").arg("--version").output().is_err() {
            return skip("there is no chromium and chromedriver here (apt-get install chromium chromium-driver)");
        }
        let fault = ["--fault", "kill:2@20"];
        place.train(&[&["--peers", "3", "--run-dir", "run"], &FLAGS[..], &fault].concat());
        let dashboard = place.start(place.command(&["dashboard", "run"]));
        wait_until("it listens", || dashboard.stdout().ends_with("/\n"));
        let url = dashboard.stdout().trim().to_owned();
        for (width, dark) in [(1280, false), (390, true)] {
            let browser = Browser::start(width, dark).unwrap();
            browser.go(&url);
            // The script has connected, and the charts are drawn for this window.
            let drawn =
                "const svg = document.querySelector('#lives svg'); const room = document.getElementById('lives');
                return svg && Math.abs(svg.getBoundingClientRect().width - room.clientWidth) <= 2";
            wait_until("the charts fit", || browser.run(drawn) == true);
            let text = browser.run("return document.body.innerText");
            let text = text.as_str().unwrap();
            for words in ["The run is over", "Peer 2 was lost", "dead", "finished", "Test accuracy"] {
                assert!(text.contains(words), "{words}: {text}");
            }
            let page = browser.run("return [document.documentElement.scrollWidth, innerWidth]");
            assert_eq!((&page[0], &page[1]), (&width.into(), &width.into()), "nothing is wider than the window");
            let hidden = browser.run("return document.getElementById('connection').hidden");
            assert_eq!(hidden, true, "it is connected");
            assert_eq!(browser.errors(), Vec::<String>::new());
            let peers = browser.run("return document.querySelectorAll('#peers tbody tr').length");
            assert!(peers.as_u64() >= Some(3), "{peers}");
        }
        // A page whose server is gone says so.
        let browser = Browser::start(390, false).unwrap();
        browser.go(&url);
        wait_until("it is connected", || browser.run("return source !== null && source.readyState === 1") == true);
        dashboard.signal(Signal::KILL);
        let said = "return document.getElementById('connection').innerText";
        wait_until("it says so", || browser.run(said).as_str().is_some_and(|text| text.contains("Connection lost")));
    }
}
