//! Element-wise work on the rows of finished tiles.
//!
//! Owns that the compiler knows how long they are. Nearly all stretches are as wide as a tile, and loops over a known
//! length become whole vectors without a rest; those can be read again before they have reached the cache.

/// Replaces every value by `work(value, other)`.
///
/// # Shapes
///
/// - values, others: any; what is longer is cut off
#[inline(always)]
pub fn combine(values: &mut [f32], others: &[f32], work: impl Fn(f32, f32) -> f32) {
    match (values.as_mut_array::<32>(), others.first_chunk::<32>()) {
        (Some(values), Some(others)) => *values = combined(*values, *others, work),
        _ => match (values.as_mut_array::<16>(), others.first_chunk::<16>()) {
            (Some(values), Some(others)) => *values = combined(*values, *others, work),
            _ => {
                for (value, other) in values.iter_mut().zip(others) {
                    *value = work(*value, *other);
                }
            }
        },
    }
}

/// By value, so that the compiler knows that nothing overlaps; and a loop, because it turns those into vectors however long
/// `work` is.
#[inline(always)]
fn combined<const N: usize>(
    mut values: [f32; N],
    others: [f32; N],
    work: impl Fn(f32, f32) -> f32,
) -> [f32; N] {
    for i in 0..N {
        values[i] = work(values[i], others[i]);
    }
    values
}

/// Replaces every value by the first of `work(value, other)`, and writes the second one into `out`.
///
/// # Shapes
///
/// - values, others, out: any; what is longer is cut off
#[inline(always)]
pub(crate) fn split(
    values: &mut [f32],
    others: &[f32],
    out: &mut [f32],
    work: impl Fn(f32, f32) -> (f32, f32),
) {
    match (values.as_mut_array::<32>(), others.first_chunk::<32>(), out.as_mut_array::<32>()) {
        (Some(values), Some(others), Some(out)) => (*values, *out) = halves(*values, *others, work),
        _ => match (values.as_mut_array::<16>(), others.first_chunk::<16>(), out.as_mut_array::<16>()) {
            (Some(values), Some(others), Some(out)) => (*values, *out) = halves(*values, *others, work),
            _ => {
                for ((value, other), out) in values.iter_mut().zip(others).zip(out) {
                    (*value, *out) = work(*value, *other);
                }
            }
        },
    }
}

/// As [`combined`].
#[inline(always)]
fn halves<const N: usize>(
    mut values: [f32; N],
    others: [f32; N],
    work: impl Fn(f32, f32) -> (f32, f32),
) -> ([f32; N], [f32; N]) {
    let mut out = [0.0; N];
    for i in 0..N {
        (values[i], out[i]) = work(values[i], others[i]);
    }
    (values, out)
}

/// Replaces every value by `work(value)`.
///
/// # Shapes
///
/// - values: any
#[inline(always)]
pub fn change(values: &mut [f32], work: impl Fn(f32) -> f32) {
    if let Some(values) = values.as_mut_array::<32>() {
        *values = combined(*values, [0.0; 32], |value, _| work(value));
    } else if let Some(values) = values.as_mut_array::<16>() {
        *values = combined(*values, [0.0; 16], |value, _| work(value));
    } else {
        for value in values {
            *value = work(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_done_alike() {
        for len in [0, 1, 5, 16, 17, 32, 33, 100] {
            let values: Vec<f32> = (0..len).map(|i| i as f32 - 7.0).collect();
            let others: Vec<f32> = (0..len + 3).map(|i| 0.5 * i as f32).collect();
            let (mut combined, mut changed, mut first) = (values.clone(), values.clone(), values.clone());
            let mut second = vec![0.0; len];
            combine(&mut combined, &others, |value, other| value * other + 1.0);
            change(&mut changed, |value| 3.0 * value);
            split(&mut first, &others, &mut second, |value, other| (value + other, value - other));
            for (i, value) in values.iter().enumerate() {
                assert_eq!(combined[i], value * others[i] + 1.0, "{i} of {len}");
                assert_eq!(changed[i], 3.0 * value, "{i} of {len}");
                assert_eq!([first[i], second[i]], [value + others[i], value - others[i]], "{i} of {len}");
            }
        }
    }
}
