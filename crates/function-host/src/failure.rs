//! Which class of failure an error belongs to: it decides whether the task is tried again.

use std::io;

use peerless_protocol::function::{Failure, FailureKind};
use peerless_training::TrainingError;
use peerless_training::datasets::DatasetError;

/// A failure of that class with `what` as its message.
pub(crate) fn failure(kind: FailureKind, what: impl ToString) -> Failure {
    Failure { kind, message: what.to_string() }
}

/// The failure that an error of the computation is reported as.
pub(crate) fn training_failure(error: &TrainingError) -> Failure {
    let kind = match error {
        TrainingError::UnknownModel { .. }
        | TrainingError::Engine(_)
        | TrainingError::Mismatch { .. }
        | TrainingError::NoSamples
        | TrainingError::NoInitialValues { .. } => FailureKind::Unsupported,
        TrainingError::Length { .. } => FailureKind::Input,
        TrainingError::Numerics { .. } => FailureKind::Numerics,
        TrainingError::Tensor(_) => FailureKind::Environment,
        TrainingError::Dataset(error) => dataset_kind(error),
    };
    failure(kind, error)
}

fn dataset_kind(error: &DatasetError) -> FailureKind {
    match error {
        DatasetError::Unknown { .. } => FailureKind::Unsupported,
        DatasetError::Missing { .. }
        | DatasetError::Damaged { .. }
        | DatasetError::Digest { .. }
        | DatasetError::NoSample { .. }
        | DatasetError::NoSource { .. } => FailureKind::Input,
        DatasetError::Elsewhere { retryable, .. } => {
            if *retryable {
                FailureKind::Environment
            } else {
                FailureKind::Input
            }
        }
        DatasetError::Io { source, .. } => io_kind(source),
    }
}

/// A file that is absent or too short is a wrong input; everything else is the machine's state.
pub(crate) fn io_kind(error: &io::Error) -> FailureKind {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => FailureKind::Input,
        _ => FailureKind::Environment,
    }
}
