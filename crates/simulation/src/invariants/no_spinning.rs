//! A peer that was woken at its deadline does not ask to be woken at the same time again and again.
//!
//! Why: outside, a deadline that stays in the past is a core at 100 % and a log of gigabytes, while
//! every other check holds.

/// Ticks in a row at one point of time. One may lead to the next a few times: a silent peer is
/// suspected, what it owed is overdue, the state is fetched.
pub(crate) const MAX_TICKS_AT_ONCE: u32 = 64;
