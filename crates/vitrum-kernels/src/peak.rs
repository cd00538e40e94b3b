//! The peak speed of the processor, to compare measured speeds with.

use std::hint::black_box;
use std::time::Instant;

use rayon::prelude::*;

use crate::simd::{self, Kernel, Real, Simd, Vector};

/// Independent sums: more than the latency times the units of any processor, as far as registers allow.
const CHAINS: usize = if cfg!(target_arch = "aarch64") { 24 } else { 12 };

/// Speed of multiply-adds from registers in 10⁹ operations per second (two per multiply-add), `f32`, with all threads
/// of the current pool at the SIMD level in use. The best of `rounds` rounds of about 20 ms.
pub fn peak_gflops(rounds: usize) -> f64 {
    let threads = rayon::current_num_threads();
    let steps = 4_000_000;
    let mut best: f64 = 0.0;
    for _ in 0..rounds.max(1) {
        let began = Instant::now();
        let lanes =
            (0..threads).into_par_iter().map(|_| simd::run(MultiplyAdds { steps })).max().unwrap_or(0);
        let operations = 2 * steps * CHAINS * lanes * threads;
        best = best.max(operations as f64 / began.elapsed().as_secs_f64() / 1e9);
    }
    best
}

/// Only multiplies and adds. Returns the number of lanes of a vector.
struct MultiplyAdds {
    steps: usize,
}

impl Kernel for MultiplyAdds {
    type Output = usize;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> usize {
        type V<S> = <f32 as Real>::In<S>;
        // SAFETY: the caller has this level's instructions; `store` writes within `lanes`.
        unsafe {
            let factor = V::<S>::splat(black_box(0.999));
            let term = V::<S>::splat(black_box(0.001));
            let mut sums = [V::<S>::splat(black_box(1.0)); CHAINS];
            for _ in 0..self.steps {
                for sum in &mut sums {
                    *sum = sum.mul_add(factor, term);
                }
            }
            let mut lanes = [0.0_f32; 16];
            for sum in sums {
                sum.store(lanes.as_mut_ptr());
                black_box(&lanes);
            }
        }
        V::<S>::LANES
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_peak_is_a_positive_number() {
        let peak = super::peak_gflops(1);
        assert!(peak.is_finite() && peak > 0.1, "{peak}");
    }
}
