//! The learning rate as a pure function of the step.
//!
//! Follows Hugging Face's `get_*_schedule` functions (form "linear", "cosine", "constant"), Google's
//! `optimization.py` ("linear_google") and NVIDIA's `PolyWarmUpScheduler` ("poly", power 0.5). Owns no state.

use crate::config::{ScheduleKind, ScheduleSection};

/// Learning rate of the update after `num_updates` completed ones (the first update: 0), as in the references,
/// whose first update therefore has rate 0 when there is a warm-up.
#[must_use]
pub fn learning_rate(schedule: &ScheduleSection, num_updates: u64) -> f64 {
    let (step, warmup, total) =
        (num_updates as f64, schedule.warmup_steps as f64, schedule.total_steps as f64);
    if num_updates < schedule.warmup_steps {
        return schedule.peak_learning_rate * step / warmup;
    }
    let remaining = ((total - step) / (total - warmup).max(1.0)).clamp(0.0, 1.0);
    let share = match schedule.kind {
        ScheduleKind::Constant => 1.0,
        ScheduleKind::Linear => remaining,
        ScheduleKind::LinearGoogle => (1.0 - step / total).max(0.0),
        ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * (1.0 - remaining)).cos()),
        ScheduleKind::Poly => (1.0 - step / total).max(0.0).sqrt(),
    };
    schedule.peak_learning_rate * share
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(kind: ScheduleKind) -> ScheduleSection {
        ScheduleSection { kind, peak_learning_rate: 1e-3, warmup_steps: 10, total_steps: 110 }
    }

    #[track_caller]
    fn check(kind: ScheduleKind, num_updates: u64, expected: f64) {
        let rate = learning_rate(&schedule(kind), num_updates);
        assert!((rate - expected).abs() < 1e-12, "{kind:?} at {num_updates}: {rate}, expected {expected}");
    }

    #[test]
    fn warm_up_is_linear_from_zero() {
        check(ScheduleKind::Linear, 0, 0.0);
        check(ScheduleKind::LinearGoogle, 5, 0.5e-3);
        check(ScheduleKind::Poly, 5, 0.5e-3);
    }

    // Expected values by hand from transformers' get_linear_schedule_with_warmup, Google's optimization.py and NVIDIA's
    // schedulers.py, where progress is counted from the first step, not from the end of the warm-up.
    #[test]
    fn decay_follows_the_references() {
        check(ScheduleKind::Linear, 60, 0.5e-3);
        check(ScheduleKind::Linear, 110, 0.0);
        check(ScheduleKind::LinearGoogle, 55, 0.5e-3);
        check(ScheduleKind::Cosine, 60, 0.5e-3);
        check(ScheduleKind::Poly, 55, std::f64::consts::FRAC_1_SQRT_2 * 1e-3);
        check(ScheduleKind::Poly, 110, 0.0);
        check(ScheduleKind::Constant, 109, 1e-3);
    }

    proptest! {
        #[test]
        fn rate_stays_between_zero_and_the_peak(num_updates in 0_u64..500, kind in 0_usize..5) {
            let kinds = [ScheduleKind::Linear, ScheduleKind::LinearGoogle, ScheduleKind::Constant,
                ScheduleKind::Cosine, ScheduleKind::Poly];
            let rate = learning_rate(&schedule(kinds[kind]), num_updates);
            prop_assert!((0.0..=1e-3).contains(&rate));
        }
    }
}
