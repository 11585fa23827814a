//! Functions: stateless programs that compute one unit each, and the platforms that run them.
//!
//! A [`FunctionPlatform`] takes a task and gives a report or a typed [`InvokeError`]; it starts
//! functions on demand and stops them when they idle. [`ProcessPool`] runs them as processes of this
//! machine. [`Retrying`] wraps a platform and is the only place where a task is attempted again;
//! [`Hedging`] makes a second attempt beside one that takes unusually long. Each attempt that reached
//! its end, whatever the end, is one [`InvocationRecord`] for a [`Meter`]. [`Burst`] makes one platform of this
//! machine and another one, [`Fallback`] goes on with this machine while the other one is gone.

mod breaker;
mod burst;
mod durations;
mod error;
mod fallback;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hedging;
mod metering;
mod platform;
pub mod prices;
mod process;
mod queue;
mod redact;
mod remote;
mod report;
mod retry;

pub use burst::Burst;
pub use error::{Death, FunctionName, InvokeError, ProtocolViolation, TaskFailed};
pub use fallback::Fallback;
pub use hedging::Hedging;
pub use metering::{AttemptId, Billing, InvocationRecord, Meter, Metering, Outcome, WorkLabel};
pub use platform::{BoxFuture, Call, Counters, FunctionPlatform, FunctionSnapshot, Invocation, PlatformSnapshot};
pub use process::{ALLOCATOR_SETTINGS, ConfigError, Isolation, IsolationLevel, ProcessConfig, ProcessPool};
pub use remote::{HttpConfig, HttpConfigError, HttpPlatform};
#[cfg(feature = "lambda")]
pub use remote::{LambdaConfig, LambdaConfigError, LambdaPlatform};
pub use report::MAX_REPORT_BYTES;
pub use retry::{RetryPolicy, Retrying};
