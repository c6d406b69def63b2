//! Runs a loop compiled for the widest vectors of this processor.
//!
//! Owns the detection; all `unsafe` of this crate is here and below. This file holds no intrinsics: the loops are
//! ordinary Rust that the compiler vectorises once per target. Wider vectors change the speed and never the bits,
//! because the order of every sum is written out in lanes and floating-point operations are not contracted. Where a
//! product and a sum are to be rounded once, the loop says so (`mul_add`), which is exact everywhere.
//! Intrinsics stand in [`tile`], [`transpose`] and [`peak`], pointers in [`window`].

pub(crate) mod peak;
pub(crate) mod tile;
pub(crate) mod transpose;
pub(crate) mod window;

/// Calls `work` compiled for the widest vectors available.
///
/// Pass the closure with `#[inline(always)]`, and mark what it calls so: only inlined code is compiled for
/// the wider target. This function is inlined, too: a call would copy the closure, and such a copy of fields that were just written one
/// by one waits for all writes before it.
#[inline(always)]
pub fn widest<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if has_avx512 {
            // SAFETY: the processor has every feature that `with_avx512` is compiled for.
            #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
            return unsafe { with_avx512(work) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has both features that `with_avx2` is compiled for.
            #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
            return unsafe { with_avx2(work) };
        }
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn with_avx512<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(always)]
    fn chained(values: &[f32]) -> f32 {
        values.iter().zip(&values[1..]).map(|(a, b)| a * b + a).fold(0.0, |sum, x| sum * 0.5 + x)
    }

    /// A fused multiply-add would round once instead of twice and show up here.
    #[test]
    fn every_target_gives_the_same_bits() {
        let values: Vec<f32> = (1..1000).map(|i| (i as f32).sqrt().fract() - 0.3).collect();
        let plain = chained(&values);
        assert_eq!(
            widest(
                #[inline(always)]
                || chained(&values)
            )
            .to_bits(),
            plain.to_bits()
        );
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the features were just detected.
            #[expect(unsafe_code, reason = "calling code compiled for features that were just detected")]
            let narrow = unsafe {
                with_avx2(
                    #[inline(always)]
                    || chained(&values),
                )
            };
            assert_eq!(narrow.to_bits(), plain.to_bits());
        }
    }
}
