//! Leaves a platform alone while it is gone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::{FunctionName, InvokeError};
use crate::platform::{Call, FunctionPlatform, Invocation};

/// Failures of the platform itself, without a success in between, after which it is left alone.
const FAILURES: u32 = 2;

/// Times that the platform turns calls away for being busy, without a success in between, after which
/// this machine helps.
const THROTTLES: u32 = 6;

/// How long the platform is left alone at first; twice as long each further time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Longest time that the platform is left alone.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A circuit breaker (Nygard, Release It!, 2007) between a peer and a platform.
///
/// A platform that has never done anything is not left alone: its name, URL or rights are wrong then, and
/// who set them wants to know.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreaker(Mutex<Breaker>);

impl CircuitBreaker {
    /// Has the platform make the attempt; `None` if it is to be left alone for now.
    pub(crate) async fn call(
        &self,
        platform: &dyn FunctionPlatform,
        call: Call<'_>,
    ) -> Option<Result<Invocation, InvokeError>> {
        if !self.lock().allows(Instant::now()) {
            return None;
        }
        // A caller who goes away says nothing about the platform: then the next one finds out.
        let mut probe = Probe { breaker: &self.0, under_way: true };
        let result = platform.invoke(call).await;
        probe.under_way = false;
        Some(self.judge(platform.name(), result))
    }

    fn judge(&self, platform: &str, result: Result<Invocation, InvokeError>) -> Result<Invocation, InvokeError> {
        match result {
            Err(error) if error.platform_gone() || error.throttled().is_some() => {
                let mut breaker = self.lock();
                if let Some(pause) = breaker.failed(Instant::now(), &error) {
                    tracing::warn!(platform, %error, ?pause, "the platform is gone: going on with functions of this machine");
                }
                Err(if breaker.state == Circuit::Closed { error } else { elsewhere_at_once(platform, error) })
            }
            result => {
                if self.lock().answered() {
                    tracing::info!(platform, "the platform is back");
                }
                result
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error for an attempt whose next one is made by this machine: it can succeed whatever the platform said, and need not
/// wait for as long as the platform asked. A busy platform is still called busy: a unit that it turns away time and
/// again, while it answers others in between, has not failed.
fn elsewhere_at_once(platform: &str, error: InvokeError) -> InvokeError {
    match error {
        InvokeError::Throttled { function, .. } => InvokeError::Throttled { function, retry_after: None },
        error => InvokeError::Unreachable {
            function: FunctionName::Remote(format!("on {platform}")),
            reason: error.to_string(),
        },
    }
}

#[derive(Debug, Default)]
struct Breaker {
    /// Whether the platform has ever answered.
    proven: bool,
    failures: u32,
    throttles: u32,
    /// Times that it was left alone since it last answered.
    openings: u32,
    state: Circuit,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Circuit {
    #[default]
    Closed,
    Open {
        until: Instant,
    },
    /// One call finds out whether the platform is back.
    Probing,
}

impl Breaker {
    /// Whether the next call goes to the platform.
    fn allows(&mut self, now: Instant) -> bool {
        match self.state {
            Circuit::Closed => true,
            Circuit::Open { until } if now >= until => {
                self.state = Circuit::Probing;
                true
            }
            Circuit::Open { .. } | Circuit::Probing => false,
        }
    }

    /// Whether the platform is back after it was left alone.
    fn answered(&mut self) -> bool {
        let back = self.state != Circuit::Closed;
        *self = Self { proven: true, ..Self::default() };
        back
    }

    /// Whether the platform is to be left alone from now on. Calls that were under way when that began say nothing new.
    fn failed(&mut self, now: Instant, error: &InvokeError) -> Option<Duration> {
        if matches!(self.state, Circuit::Open { .. }) {
            return None;
        }
        if error.throttled().is_some() {
            self.throttles += 1;
        } else {
            self.failures += 1;
        }
        // Rights and names do not come back by asking twice.
        let hopeless = !error.retryable();
        let enough = hopeless || self.failures >= FAILURES || self.throttles >= THROTTLES;
        if !self.proven || !(enough || self.state == Circuit::Probing) {
            return None;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.openings.min(16)).min(LONGEST_PAUSE);
        self.openings += 1;
        self.state = Circuit::Open { until: now + pause };
        Some(pause)
    }
}

/// Ends a probe whose caller went away.
struct Probe<'a> {
    breaker: &'a Mutex<Breaker>,
    under_way: bool,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        if self.under_way && breaker.state == Circuit::Probing {
            breaker.state = Circuit::Open { until: Instant::now() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> InvokeError {
        InvokeError::Unreachable { function: FunctionName::Remote("f".into()), reason: "gone".into() }
    }

    fn throttled() -> InvokeError {
        InvokeError::Throttled { function: FunctionName::Remote("f".into()), retry_after: None }
    }

    fn denied() -> InvokeError {
        InvokeError::Denied { function: FunctionName::Remote("f".into()), reason: "no".into() }
    }

    fn proven() -> Breaker {
        let mut breaker = Breaker::default();
        assert!(!breaker.answered());
        breaker
    }

    #[test]
    fn a_platform_that_never_worked_is_not_replaced() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for error in [unreachable(), denied(), unreachable(), unreachable()] {
            assert_eq!(breaker.failed(now, &error), None);
            assert!(breaker.allows(now));
        }
    }

    #[test]
    fn failures_open_the_circuit_for_longer_and_longer_until_a_probe_succeeds() {
        let (mut breaker, now) = (proven(), Instant::now());
        assert_eq!(breaker.failed(now, &unreachable()), None);
        assert_eq!(breaker.failed(now, &unreachable()), Some(FIRST_PAUSE));
        assert!(!breaker.allows(now));
        assert_eq!(breaker.failed(now, &unreachable()), None, "was under way already");
        let later = now + FIRST_PAUSE;
        assert!(breaker.allows(later), "one call probes");
        assert!(!breaker.allows(later), "and only one");
        assert_eq!(breaker.failed(later, &unreachable()), Some(2 * FIRST_PAUSE));
        assert!(!breaker.allows(later + FIRST_PAUSE));
        assert!(breaker.allows(later + 2 * FIRST_PAUSE));
        assert!(breaker.answered());
        assert!(breaker.allows(later) && breaker.allows(later));
        assert_eq!(breaker.failed(later, &unreachable()), None, "counted anew");
    }

    #[test]
    fn who_is_turned_away_by_a_busy_platform_has_not_failed_and_need_not_wait_for_it() {
        let breaker = CircuitBreaker(Mutex::new(proven()));
        let error = |retry_after| InvokeError::Throttled { function: FunctionName::Remote("f".into()), retry_after };
        let busy = error(Some(FIRST_PAUSE));
        for _ in 1..THROTTLES {
            assert_eq!(breaker.judge("remote", Err(busy.clone())).err(), Some(busy.clone()));
        }
        for _ in 0..2 {
            assert_eq!(breaker.judge("remote", Err(busy.clone())).err(), Some(error(None)));
        }
        let refused = breaker.judge("remote", Err(denied())).err();
        assert!(refused.is_some_and(|error| error.retryable()), "by this machine");
    }

    #[test]
    fn one_denial_is_enough_and_it_takes_many_throttles() {
        let now = Instant::now();
        assert_eq!(proven().failed(now, &denied()), Some(FIRST_PAUSE));
        let mut breaker = proven();
        for _ in 1..THROTTLES {
            assert_eq!(breaker.failed(now, &throttled()), None);
        }
        assert_eq!(breaker.failed(now, &throttled()), Some(FIRST_PAUSE));
    }
}
