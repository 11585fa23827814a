//! The state machine, in the Amazon States Language.

use peerless_functions::RetryPolicy;
use serde_json::{Value, json};

/// What is written into a state machine.
pub(crate) struct Machine<'a> {
    /// Name or ARN of the Lambda function.
    pub(crate) function: &'a str,
    pub(crate) bucket: &'a str,
    /// Key of the list of tasks.
    pub(crate) tasks: &'a str,
    /// What the keys of the results begin with.
    pub(crate) results: &'a str,
    /// Most functions at a time.
    pub(crate) concurrency: u32,
    /// After which the URLs in the tasks are of no use any more.
    pub(crate) seconds: u64,
    /// What the round is, for people.
    pub(crate) comment: &'a str,
}

/// A distributed map over the units: each of them a call of the function with its task. It succeeds when all units
/// are computed.
pub(crate) fn definition(machine: &Machine<'_>) -> Value {
    json!({
        "Comment": machine.comment,
        "StartAt": "Units",
        "TimeoutSeconds": machine.seconds,
        "States": {
            "Units": {
                "Type": "Map",
                "Comment": "One child execution for each unit, with its task as input",
                "ItemReader": {
                    "Resource": "arn:aws:states:::s3:getObject",
                    "ReaderConfig": { "InputType": "JSON" },
                    "Parameters": { "Bucket": machine.bucket, "Key": machine.tasks },
                },
                "MaxConcurrency": machine.concurrency,
                "ItemProcessor": {
                    "ProcessorConfig": { "Mode": "DISTRIBUTED", "ExecutionType": "STANDARD" },
                    "StartAt": "Unit",
                    "States": unit(machine.function),
                },
                "ResultWriter": {
                    "Resource": "arn:aws:states:::s3:putObject",
                    "Parameters": { "Bucket": machine.bucket, "Prefix": machine.results },
                },
                "ResultPath": "$.results",
                "Catch": [{ "ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "Incomplete" }],
                "Next": "Complete",
            },
            "Complete": { "Type": "Succeed" },
            "Incomplete": {
                "Type": "Fail",
                "Error": "Peerless.RoundIncomplete",
                "Cause": "not all units were computed; the failed child executions say why, and a redrive computes only those",
            },
        },
    })
}

/// One unit: the call, and whether the function says that it succeeded.
fn unit(function: &str) -> Value {
    json!({
        "Unit": {
            "Type": "Task",
            "Resource": "arn:aws:states:::lambda:invoke",
            "Parameters": { "FunctionName": function, "Payload.$": "$" },
            "OutputPath": "$.Payload",
            "Retry": retries(&RetryPolicy::default()),
            "Next": "Report",
        },
        "Report": {
            "Type": "Choice",
            "Choices": [{ "Variable": "$.outcome.Ok", "IsPresent": true, "Next": "Computed" }],
            "Default": "Failed",
        },
        "Computed": { "Type": "Succeed" },
        "Failed": {
            "Type": "Fail",
            "Error": "Peerless.UnitFailed",
            "CausePath": "$.outcome.Err.message",
        },
    })
}

/// As peers retry, as far as the language goes: it has no pause below a second, and jitter from nothing.
fn retries(policy: &RetryPolicy) -> Value {
    let retry = |errors: &[&str], attempts: u32| {
        json!({
            "ErrorEquals": errors, "MaxAttempts": attempts, "IntervalSeconds": 1, "BackoffRate": 2.0,
            "MaxDelaySeconds": policy.max_delay.as_secs().max(2), "JitterStrategy": "FULL",
        })
    };
    let in_vain = [
        "Lambda.ResourceNotFoundException",
        "Lambda.AccessDeniedException",
        "Lambda.InvalidRequestContentException",
        "Lambda.RequestTooLargeException",
        "Peerless.NotATask",
    ];
    json!([
        { "ErrorEquals": in_vain, "MaxAttempts": 0 },
        retry(&["Lambda.TooManyRequestsException"], policy.throttled_attempts.saturating_sub(1)),
        retry(&["States.ALL"], policy.attempts.saturating_sub(1)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Value {
        definition(&Machine {
            function: "peerless-unit",
            bucket: "models",
            tasks: "team-a/step-functions/e9d44f19/round-7/tasks.json",
            results: "team-a/step-functions/e9d44f19/round-7/results",
            concurrency: 100,
            seconds: 43_200,
            comment: "Peerless: round 7 of run e9d44f19, 4 units",
        })
    }

    /// `deploy/check` holds the example against the schema of the language. `PEERLESS_WRITE_EXAMPLES=1` writes it anew.
    #[test]
    fn the_example_is_what_is_exported() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/step-functions/example.json");
        let written = format!("{}\n", serde_json::to_string_pretty(&example()).unwrap());
        if std::env::var_os("PEERLESS_WRITE_EXAMPLES").is_some() {
            std::fs::write(path, &written).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), written);
    }

    #[test]
    fn every_state_leads_to_one_that_is_there() {
        let machine = example();
        let inner = &machine["States"]["Units"]["ItemProcessor"];
        for states in [&machine, inner] {
            let names = states["States"].as_object().unwrap();
            let mut next = vec![states["StartAt"].clone()];
            for state in names.values() {
                next.extend(state.get("Next").cloned());
                next.extend(state.get("Default").cloned());
                let branches = ["Catch", "Choices"].into_iter().filter_map(|field| state[field].as_array()).flatten();
                next.extend(branches.map(|branch| branch["Next"].clone()));
            }
            assert!(next.iter().all(|name| names.contains_key(name.as_str().unwrap())), "{next:?}");
        }
    }

    #[test]
    fn a_unit_is_attempted_as_often_as_by_a_peer() {
        let policy = RetryPolicy::default();
        let retries = retries(&policy);
        let attempts = |index: usize| retries[index]["MaxAttempts"].as_u64().unwrap();
        assert_eq!(attempts(0), 0);
        assert_eq!(attempts(1) + 1, u64::from(policy.throttled_attempts));
        assert_eq!(attempts(2) + 1, u64::from(policy.attempts));
    }
}
