//! The snapshot as metrics for Prometheus, in its text format 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::Write;

use crate::snapshot::{Peer, PeerCondition, RunCondition, Snapshot};

/// The metrics of a snapshot.
pub fn text(snapshot: &Snapshot) -> String {
    let run = snapshot.run.as_ref().map(|run| run.id.to_string()).unwrap_or_default();
    let mut metrics = Metrics { text: String::new(), run };
    about_the_run(&mut metrics, snapshot);
    about_peers(&mut metrics, snapshot);
    about_functions(&mut metrics, snapshot);
    about_money(&mut metrics, snapshot);
    metrics.text
}

/// Text in the making.
struct Metrics {
    text: String,
    run: String,
}

impl Metrics {
    /// One metric with its help; samples follow.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let _ = write!(self.text, "{name}{{run=\"{}\"", self.run);
        for (label, value) in labels {
            let _ = write!(self.text, ",{label}=\"{}\"", escape(value));
        }
        let _ = writeln!(self.text, "}} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.metric(name, "gauge", help);
            self.sample(name, &[], value);
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: f64) {
        self.metric(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// One sample for each peer.
    fn of_peers(&mut self, name: &str, kind: &str, help: &str, peers: &[Peer], value: impl Fn(&Peer) -> Option<f64>) {
        let samples: Vec<(&Peer, f64)> = peers.iter().filter_map(|peer| Some((peer, value(peer)?))).collect();
        if !samples.is_empty() {
            self.metric(name, kind, help);
        }
        for (peer, value) in samples {
            self.sample(name, &[("peer", &peer.name)], value);
        }
    }
}

/// The value of a label.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn about_the_run(metrics: &mut Metrics, snapshot: &Snapshot) {
    let progress = &snapshot.progress;
    if let Some(run) = &snapshot.run {
        metrics.metric("peerless_run_info", "gauge", "What the run trains; always 1.");
        let labels = [("model", &*run.model), ("dataset", &*run.dataset), ("topology", run.topology)];
        metrics.sample("peerless_run_info", &labels, 1.0);
    }
    let training = f64::from(u8::from(snapshot.condition == RunCondition::Training));
    let finished = f64::from(u8::from(snapshot.condition == RunCondition::Finished));
    metrics.gauge("peerless_run_training", "1 while peers train.", Some(training));
    metrics.gauge("peerless_run_finished", "1 once there is a final state.", Some(finished));
    let samples = progress.steps.saturating_mul(progress.samples_per_round);
    metrics.counter("peerless_rounds_total", "Optimizer steps of the most advanced peer.", progress.steps as f64);
    metrics.gauge("peerless_rounds_planned", "Optimizer steps that the run may take.", Some(progress.rounds as f64));
    metrics.counter("peerless_samples_total", "Training samples behind the newest state.", samples as f64);
    metrics.gauge("peerless_samples_per_second", "Training samples per second, newest rounds.", progress.samples_per_s);
    metrics.gauge("peerless_training_loss", "Mean loss per training sample, newest round.", progress.training_loss);
    let accuracy = "Fraction of the test set predicted right, newest evaluation.";
    metrics.gauge("peerless_test_accuracy_ratio", accuracy, progress.accuracy);
    let test_loss = snapshot.test_loss.last().map(|(_, loss)| *loss);
    metrics.gauge("peerless_test_loss", "Mean loss per sample of the test set, newest evaluation.", test_loss);
    let redone = snapshot.lost_work.rounds_redone as f64;
    metrics.counter("peerless_rounds_redone_total", "Rounds that were applied again.", redone);
    let stalled = Some(snapshot.lost_work.stalled_s);
    metrics.gauge("peerless_stalled_seconds", "Time in which the run got no further.", stalled);
}

fn about_peers(metrics: &mut Metrics, snapshot: &Snapshot) {
    let peers = &snapshot.peers;
    metrics.metric("peerless_peers", "gauge", "Peers by condition.");
    for condition in PeerCondition::ALL {
        let count = peers.iter().filter(|peer| peer.condition == condition).count();
        let name = condition.name().replace(' ', "-");
        metrics.sample("peerless_peers", &[("condition", &name)], count as f64);
    }
    let up = |peer: &Peer| Some(f64::from(u8::from(peer.condition.is_live())));
    metrics.of_peers("peerless_peer_up", "gauge", "1 while the peer takes part.", peers, up);
    let steps = |peer: &Peer| Some(peer.steps as f64);
    metrics.of_peers("peerless_peer_rounds_total", "counter", "Optimizer steps of the peer's state.", peers, steps);
    let units = |peer: &Peer| Some(peer.units as f64);
    metrics.of_peers("peerless_peer_units_total", "counter", "Units that its functions computed.", peers, units);
    let backups = |peer: &Peer| Some(peer.backup_units as f64);
    let help = "Units that it computed in place of other peers.";
    metrics.of_peers("peerless_peer_backup_units_total", "counter", help, peers, backups);
    let refused = |peer: &Peer| Some(peer.refused as f64);
    let help = "Messages and blobs that it received and did not use.";
    metrics.of_peers("peerless_peer_refused_total", "counter", help, peers, refused);
    let received = |peer: &Peer| Some(peer.data_path_bytes?.0 as f64);
    let help = "Bytes of tensors that functions elsewhere sent, since the process began.";
    metrics.of_peers("peerless_peer_tensor_received_bytes_total", "counter", help, peers, received);
    let sent = |peer: &Peer| Some(peer.data_path_bytes?.1 as f64);
    let help = "Bytes of tensors sent to functions elsewhere, since the process began.";
    metrics.of_peers("peerless_peer_tensor_sent_bytes_total", "counter", help, peers, sent);
}

fn about_functions(metrics: &mut Metrics, snapshot: &Snapshot) {
    let functions = &snapshot.functions;
    metrics.metric("peerless_functions", "gauge", "Function processes by what they do.");
    for (state, count) in [("busy", functions.busy), ("idle", functions.idle)] {
        metrics.sample("peerless_functions", &[("state", state)], count as f64);
    }
    metrics.metric("peerless_function_invocations_total", "counter", "Invocations of functions by outcome.");
    for (outcome, times) in &functions.outcomes {
        metrics.sample("peerless_function_invocations_total", &[("outcome", outcome)], *times as f64);
    }
    let cold = functions.cold_starts as f64;
    metrics.counter("peerless_function_cold_starts_total", "Invocations that a function was started for.", cold);
    let retried = functions.retried as f64;
    metrics.counter("peerless_function_retries_total", "Invocations that were not the first attempt.", retried);
    let seconds = functions.function_s;
    metrics.counter("peerless_function_seconds_total", "Time of functions at work.", seconds);
    let help = "Time of functions at work that was of no use: failed, discarded or repeated.";
    metrics.gauge("peerless_function_wasted_seconds", help, Some(functions.wasted_s));
}

fn about_money(metrics: &mut Metrics, snapshot: &Snapshot) {
    let Some(bill) = &snapshot.bill else { return };
    // Metrics are doubles: the exact figure is in `peerless cost`.
    let dollars = |money: peerless_functions::prices::Money| money.decimal(12).parse::<f64>().unwrap_or(f64::NAN);
    metrics.metric("peerless_cost_dollars", "gauge", "What was spent, in US dollars, by what for.");
    for (what, money) in [("functions", bill.functions_usd), ("peers", bill.peers_usd)] {
        metrics.sample("peerless_cost_dollars", &[("for", what)], dollars(money));
    }
    let wasted = "What was spent on functions that were of no use, in US dollars.";
    metrics.gauge("peerless_cost_wasted_dollars", wasted, Some(dollars(bill.wasted_usd)));
    let budget = "Most that may be spent, in US dollars.";
    metrics.gauge("peerless_budget_dollars", budget, bill.budget_usd.map(dollars));
}
