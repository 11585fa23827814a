//! OpenTelemetry traces of a run, from what its peers write down anyway.
//!
//! A round of the run is a trace. Each peer has a span `round` in it, below that a span `unit` for each unit that it
//! worked on, and below that a span `invocation` for each call of a function. The peers' rounds are the roots of the trace:
//! a common one would begin and end when nobody knows before all peers, on all machines, are through, and a parent that
//! does not come is worse in Jaeger and Tempo than several roots.
//!
//! It is in no data path: when it dies, or the collector is slow or gone, peers notice nothing. It writes nothing.

mod collector;
mod export;
mod ids;
mod life;
mod made;
mod reader;
mod rounds;
mod spans;

pub use collector::{Collector, CollectorError, Endpoint, EndpointError, ExportError};
pub use export::{Exported, Exporter, FLUSH_LIMIT, Notice, TracesError};
