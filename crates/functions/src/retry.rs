//! The one owner of retries.

use std::sync::Arc;
use std::time::Duration;

use peerless_protocol::function::Task;
use peerless_protocol::split_mix;
use tokio::time::Instant;

use crate::error::TaskFailed;
use crate::metering::{Meter, WorkLabel};
use crate::platform::{Call, FunctionPlatform, Invocation};

/// How often and when a task is attempted again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Most attempts at a task that may fail, the first included; 0 counts as 1. Attempts that the platform
    /// turned away for being busy are not among them: those say nothing about the task.
    pub attempts: u32,
    /// Most attempts that the platform may turn away for being busy. With the default pauses 16 of them
    /// take about a minute.
    pub throttled_attempts: u32,
    /// Pause before the third attempt; doubles with each further one. The second attempt follows at
    /// once: a killed function says nothing about the next one, and a unit is waited for.
    pub base_delay: Duration,
    /// Longest pause.
    pub max_delay: Duration,
    /// Seeds the jitter, so that peers that failed together do not retry together, and a run can be
    /// repeated. Peers should differ in it.
    pub seed: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 3,
            throttled_attempts: 16,
            base_delay: Duration::from_millis(50),
            max_delay: Duration::from_secs(5),
            seed: 0,
        }
    }
}

impl RetryPolicy {
    /// Pause after failed attempt `attempt` (counted from 1) of invocation `invocation`: none after
    /// the first, then half to all of min(`base_delay` * 2^(attempt - 2), `max_delay`). ("Equal
    /// jitter", Brooker, Exponential Backoff And Jitter, AWS Architecture Blog 2015; full jitter
    /// could pause for next to nothing when the environment needs time.)
    pub fn pause(&self, invocation: u64, attempt: u32) -> Duration {
        let Some(doublings) = attempt.checked_sub(2) else {
            return Duration::ZERO;
        };
        let factor = 2_u32.checked_pow(doublings).unwrap_or(u32::MAX);
        let ceiling = self.base_delay.saturating_mul(factor).min(self.max_delay);
        let random = split_mix(self.seed ^ split_mix(invocation ^ split_mix(u64::from(attempt))));
        let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
        ceiling.mul_f64(0.5 + 0.5 * fraction)
    }
}

/// A platform with retries and a meter.
pub struct Retrying<P> {
    platform: P,
    policy: RetryPolicy,
    meter: Arc<dyn Meter>,
}

impl<P: FunctionPlatform> Retrying<P> {
    /// Retries on `platform`; every attempt's record goes to `meter`.
    pub fn new(platform: P, policy: RetryPolicy, meter: Arc<dyn Meter>) -> Self {
        Self { platform, policy, meter }
    }

    /// The platform, for its state and its end.
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Has the task done. Dropping the future ends the retries; a function at work finishes and its
    /// report is discarded.
    ///
    /// # Errors
    /// [`TaskFailed`] with the last error, when that one is not retryable, all attempts are used up
    /// or the deadline would pass before the next attempt.
    pub async fn invoke(&self, task: &Task, deadline: Option<Instant>) -> Result<Invocation, TaskFailed> {
        let (mut attempt, mut failures, mut throttles) = (1, 0, 0);
        loop {
            let call = Call { task, attempt, hedge: false, deadline, meter: &self.meter };
            let error = match self.platform.invoke(call).await {
                Ok(invocation) => return Ok(invocation),
                Err(error) => error,
            };
            let work = WorkLabel::from(&task.work);
            let throttled = error.throttled();
            *(if throttled.is_some() { &mut throttles } else { &mut failures }) += 1;
            let pause = self.policy.pause(task.invocation, attempt);
            let wanted = throttled.unwrap_or_default().min(self.policy.max_delay);
            let next = Instant::now() + pause.max(wanted);
            let too_late = deadline.is_some_and(|deadline| next >= deadline);
            let enough = failures >= self.policy.attempts || throttles >= self.policy.throttled_attempts;
            if !error.retryable() || enough || too_late {
                return Err(TaskFailed { work, attempts: attempt, error });
            }
            tracing::warn!(platform = self.platform.name(), %work, attempt, %error, "an invocation failed and is retried");
            tokio::time::sleep_until(next).await;
            attempt += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_retry_is_immediate_and_later_ones_back_off_within_bounds() {
        let policy = RetryPolicy {
            base_delay: Duration::from_millis(100),
            max_delay: Duration::from_millis(350),
            ..RetryPolicy::default()
        };
        for invocation in 0..200 {
            assert_eq!(policy.pause(invocation, 1), Duration::ZERO);
            for (attempt, ceiling) in [(2, 100), (3, 200), (4, 350), (5, 350), (u32::MAX, 350)] {
                let pause = policy.pause(invocation, attempt).as_millis();
                assert!((ceiling / 2..=ceiling).contains(&pause), "{pause} ms after attempt {attempt}");
            }
        }
    }

    #[test]
    fn jitter_is_a_function_of_the_seed() {
        let policy = |seed| RetryPolicy { seed, ..RetryPolicy::default() };
        assert_eq!(policy(1).pause(5, 2), policy(1).pause(5, 2));
        assert_ne!(policy(1).pause(5, 2), policy(2).pause(5, 2));
        assert_ne!(policy(1).pause(5, 2), policy(1).pause(6, 2));
    }
}
