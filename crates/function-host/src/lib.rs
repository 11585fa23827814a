//! The function: stateless code that computes one unit per invocation, and its front doors.
//!
//! [`Host`] does the work of a task and keeps what makes the next one quick: the model, the opened
//! dataset and the order of the epoch. None of that is state. Whatever is kept is derived from
//! the task alone, so any function can be killed at any moment and any other one gives the same bits.
//!
//! [`run_stdio`] is the front door for the local pool: tasks come in on stdin and reports go out on
//! stdout, one JSON document a line. Nothing else is written to stdout; logs go through `tracing`.
//! [`run_http`] is the one for HTTP: a task is the body of a POST. With the feature `lambda` there is one for
//! AWS Lambda. [`Door`] chooses by the environment. [`serve_tasks`] is a whole function program, also for models of
//! another crate.

mod cache;
mod dataset;
mod door;
mod failure;
mod host;
mod http;
#[cfg(feature = "lambda")]
mod lambda;
mod place;
#[cfg(feature = "redis")]
mod redis;
mod remote;
mod stdio;
mod tensor_file;

pub use door::{Door, DoorError, ENGINE_VARIABLE, engine_from_environment, serve_tasks};
pub use host::{Host, Options};
pub use http::{HttpOptions, run_http};
#[cfg(feature = "lambda")]
pub use lambda::run_lambda;
pub use stdio::{MAX_LINE_BYTES, ServeError, run_stdio, serve};
