//! What was forged is never used: it is refused or ignored, and has no effect besides a record.
//!
//! Why: a contribution decides what the model becomes. Signature, author, state and content are each
//! checked on their own, and an attack that passes three of the checks must be stopped by the fourth.
//! That a forged contribution is not in a cover would be too late to check: whether it gets there depends
//! on luck.

use peerless_protocol::Effect;

/// Checks what a peer does right after a forged message.
pub(crate) fn check_effects(effects: &[Effect]) -> Result<(), String> {
    let used = effects.iter().find(|effect| !matches!(effect, Effect::Record(_)));
    used.map_or(Ok(()), |effect| Err(format!("a forged message led to {effect:?}")))
}
