//! Every applied cover holds every unit of its round exactly once, all computed from the state that it
//! is applied to, and every payload is there.
//!
//! Why: the next state is right if and only if each unit is in the sum once. A unit too few or too many
//! still gives a model that trains, so nobody would notice without this check. It is made on the
//! effect that the protocol asks for and not on the result, so that a mistake is named before it is
//! mixed with others.

use peerless_protocol::{Digest, PayloadShape, RoundPlan, SignedContribution, StateRef, UnitSet};

use crate::model::Totals;

/// Adds a cover of the whole vector or of one shard up, if it is one. `held` gives the sums of a payload
/// that is in the store, as many as there are in `totals`.
pub(crate) fn check_cover<'a>(
    plan: &RoundPlan,
    from: StateRef,
    cover: &[SignedContribution],
    held: impl Fn(&Digest) -> Option<&'a [i64]>,
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
            peerless_aggregation::add(&mut totals.sums, payload).map_err(|error| error.to_string())?;
        }
    }
    match plan.all().difference(&seen).iter().next() {
        Some(unit) => Err(format!("unit {unit} of round {} is missing from the cover", from.round)),
        None => Ok(totals),
    }
}

/// Puts a round together from the totals of its shards, if there is one for each.
pub(crate) fn check_shards<'a>(
    plan: &RoundPlan,
    from: StateRef,
    cover: &[SignedContribution],
    held: impl Fn(&Digest) -> Option<&'a [i64]>,
    shape: &PayloadShape,
) -> Result<Totals, String> {
    let mut whole = Totals::zero(0);
    for shard in 0..plan.shards(shape) {
        let of_shard: Vec<SignedContribution> =
            cover.iter().filter(|signed| signed.contribution.shard == Some(shard)).cloned().collect();
        let range = shape.range(shard);
        let zero = Totals::zero((range.end - range.start) as usize);
        let totals =
            check_cover(plan, from, &of_shard, &held, zero).map_err(|what| format!("in shard {shard}: {what}"))?;
        whole.sums.extend(totals.sums);
        // Each shard has the tallies of the whole round.
        (whole.training, whole.evaluation) = (totals.training, totals.evaluation);
    }
    if plan.gradient_units == 0 {
        whole.sums = vec![0; shape.elements as usize];
    }
    Ok(whole)
}
