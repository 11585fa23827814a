//! Every applied cover holds every unit of its round exactly once, all computed from the state that it
//! is applied to, and every payload is there.
//!
//! Why: the next state is right if and only if each unit is in the sum once. A unit too few or too many
//! still gives a model that trains, so nobody would notice without this check. It is made on the
//! effect that the protocol asks for and not on the result, so that a mistake is named before it is
//! mixed with others.

use peerless_protocol::{Digest, RoundPlan, SignedContribution, StateRef, UnitSet};
use peerless_store::Payload;

use crate::model::Totals;

/// Adds a cover up, if it is one.
pub(crate) fn check_cover<'a>(
    plan: &RoundPlan,
    from: StateRef,
    cover: &[SignedContribution],
    held: impl Fn(&Digest) -> Option<&'a Payload>,
    mut totals: Totals,
) -> Result<Totals, String> {
    let mut seen = UnitSet::new();
    for part in cover.iter().map(|signed| &signed.contribution) {
        if part.from != from {
            let (other, own) = (part.from.digest.short(), from.digest.short());
            return Err(format!("a contribution to round {} of state {other} is applied to {own}", part.from.round));
        }
        if let Some(unit) = part.units.iter().find(|unit| seen.contains(*unit)) {
            return Err(format!("unit {unit} of round {} is in the cover twice", from.round));
        }
        seen = seen.union(&part.units);
        let training = totals.training.checked_add(part.training);
        let evaluation = totals.evaluation.checked_add(part.evaluation);
        let (Some(training), Some(evaluation)) = (training, evaluation) else {
            return Err("the totals of the cover overflow".into());
        };
        (totals.training, totals.evaluation) = (training, evaluation);
        if let Some(payload) = part.payload {
            let payload = held(&payload.digest)
                .ok_or_else(|| format!("payload {} of the cover is not in the store", payload.digest.short()))?;
            peerless_aggregation::add(&mut totals.sums, payload.sums()).map_err(|error| error.to_string())?;
        }
    }
    match plan.all().difference(&seen).iter().next() {
        Some(unit) => Err(format!("unit {unit} of round {} is missing from the cover", from.round)),
        None => Ok(totals),
    }
}
