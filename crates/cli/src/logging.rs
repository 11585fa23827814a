//! Logs go to stderr: what peers and functions do, filtered by `RUST_LOG`.

use tracing_subscriber::EnvFilter;

use crate::output::stderr_has_colour;

/// Starts logging, with this filter unless `RUST_LOG` has one.
pub(crate) fn start(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only one subscriber is possible, and commands start only one.
    let _ = subscriber.with_ansi(stderr_has_colour()).with_target(false).try_init();
}
