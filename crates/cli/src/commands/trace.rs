//! `peerless trace`: the traces of a run for an OpenTelemetry collector.

use std::path::PathBuf;

use clap::Args;

use crate::runs;

/// Where collectors are called unless something else is said; the name is that of the specification.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";

const EXAMPLES: &str = "\
Examples:
  peerless trace                                      the newest run, to a collector on this machine
  peerless trace runs/mine --otlp http://tempo:4318
  peerless trace runs/mine --follow                   until the run is over
  peerless train --otlp http://localhost:4318         while it trains

A round is a trace; a peer's part of it a span, with its units and their invocations below. Spans come from what
peers write down: to kill the exporter, or the collector, changes nothing for the run, and exporting again sends the
same spans with the same ids. Sent is OTLP over HTTP (protobuf), which Jaeger, Tempo and OpenTelemetry's collector
take. Keys go into OTEL_EXPORTER_OTLP_HEADERS, such as 'Authorization=Bearer%20KEY'; OTEL_SERVICE_NAME and
OTEL_RESOURCE_ATTRIBUTES say more about where it runs. Several machines: one exporter on each.
It needs a program that was built with --features otel.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TraceArgs {
    /// Run directory [default: the newest below runs/]
    run: Option<PathBuf>,
    /// The collector's base URL, without keys [default: OTEL_EXPORTER_OTLP_ENDPOINT, else http://localhost:4318]
    #[arg(long, value_name = "URL")]
    otlp: Option<String>,
    /// Go on until the run is over, and try again when the collector fails
    #[arg(long)]
    follow: bool,
    /// End when stdin ends
    #[arg(long, hide = true, requires = "follow")]
    end_with_parent: bool,
}

pub(crate) fn run(args: TraceArgs) -> anyhow::Result<()> {
    let of_environment = || std::env::var(ENDPOINT).ok().filter(|url| !url.is_empty());
    let url = args.otlp.or_else(of_environment).unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
    export::check(&url)?;
    let run = runs::open(args.run.as_deref())?;
    export::run(run, &url, args.follow, args.end_with_parent)
}

/// Refuses a URL that spans cannot be sent to, before anything is started.
pub(crate) fn check(url: &str) -> anyhow::Result<()> {
    export::check(url)
}

#[cfg(feature = "otel")]
mod export {
    use anyhow::Context;
    use peerless_peer::run_directory::RunDirectory;
    use peerless_traces::{
        Collector, CollectorError, Endpoint, EndpointError, ExportError, Exporter, Notice, TracesError,
    };

    use crate::ending::{asked_to_end, step_back};
    use crate::failure::{advised, code};
    use crate::output::{label, say, thousands};

    pub(super) fn check(url: &str) -> anyhow::Result<()> {
        endpoint(url).map(|_| ())
    }

    pub(super) fn run(run: RunDirectory, url: &str, follow: bool, end_with_parent: bool) -> anyhow::Result<()> {
        let collector = Collector::new(&endpoint(url)?).map_err(wrong)?;
        step_back();
        let name = collector.name().to_owned();
        let again = format!("peerless trace {}", run.path().display());
        let exporter = Exporter::new(run, collector, tell);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let exported = runtime.context("cannot start the runtime")?.block_on(async {
            if follow {
                let stop = asked_to_end(end_with_parent)?;
                exporter.follow(!end_with_parent, stop).await.map_err(|error| explained(error, &again))
            } else {
                exporter.export().await.map_err(|error| explained(error, &again))
            }
        })?;
        if !end_with_parent {
            say(&format!("{} spans are with {name}", thousands(exported.spans)));
        }
        Ok(())
    }

    fn endpoint(url: &str) -> anyhow::Result<Endpoint> {
        Endpoint::new(url).map_err(|error| {
            let hint = match error {
                EndpointError::Secret => {
                    "put it into the environment: OTEL_EXPORTER_OTLP_HEADERS='Authorization=Basic%20...'"
                }
                EndpointError::Malformed => "such as --otlp http://localhost:4318",
            };
            advised(error, code::USAGE, Some(hint.to_owned()))
        })
    }

    fn wrong(error: CollectorError) -> anyhow::Error {
        advised(error, code::USAGE, None)
    }

    fn explained(error: TracesError, again: &str) -> anyhow::Error {
        let hint = match &error {
            TracesError::Export(error) => hint(error).map(str::to_owned),
            TracesError::Unfinished { .. } => Some(format!("send them again: {again}")),
            _ => None,
        };
        advised(error, code::ERROR, hint)
    }

    fn tell(notice: Notice) {
        match notice {
            Notice::Failing(error) => {
                label("warning", &format!("{error}; it is tried again"));
                if let Some(hint) = hint(&error) {
                    label("hint", hint);
                }
            }
            Notice::Recovered => say("the collector takes spans again"),
            Notice::GivenUp(error) => label("warning", &format!("{error} and will not take some spans")),
            Notice::Rejected(reason) => label("warning", &format!("the collector refuses spans: {reason}")),
            Notice::Unreadable(problem) => label("warning", &problem),
        }
    }

    /// What can be done about it.
    fn hint(error: &ExportError) -> Option<&'static str> {
        match error {
            ExportError::Unreachable { .. } => Some("start it, or check host and port: OTLP over HTTP is usually 4318"),
            ExportError::Status { status: 401 | 403, .. } => Some("check the key in OTEL_EXPORTER_OTLP_HEADERS"),
            ExportError::Status { status: 404 | 405, .. } => {
                Some("check the URL: v1/traces is added to it, and gRPC's port 4317 takes no HTTP")
            }
            ExportError::Status { .. } | ExportError::Other { .. } => None,
        }
    }
}

#[cfg(not(feature = "otel"))]
mod export {
    use peerless_peer::run_directory::RunDirectory;

    use crate::failure::{advised, code};

    pub(super) fn check(_url: &str) -> anyhow::Result<()> {
        let what = anyhow::anyhow!("this program was built without OpenTelemetry (cargo feature `otel`)");
        Err(advised(what, code::ERROR, Some("build it with --features otel".to_owned())))
    }

    pub(super) fn run(_run: RunDirectory, url: &str, _follow: bool, _end_with_parent: bool) -> anyhow::Result<()> {
        check(url)
    }
}
