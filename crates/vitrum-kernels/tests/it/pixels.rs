//! Weighted sums of pixels against naive sums.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vitrum_kernels::pixels::{PRECISION, Taps, weigh_columns, weigh_rows};

fn rounded(sum: i64) -> u8 {
    ((sum + (1 << (PRECISION - 1))) >> PRECISION).clamp(0, 255) as u8
}

/// Weights that sum to about 1, some of them negative.
fn weights(count: usize, rng: &mut ChaCha8Rng) -> Vec<i32> {
    let one = 1 << PRECISION;
    (0..count).map(|_| rng.random_range(-one / 8..one / 2) / count as i32 * 4).collect()
}

#[test]
fn pixels_fast_equals_naive_sums() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for count in 1..40 {
        let weights = weights(count, &mut rng);
        for width in [count, count + 1, count + 70] {
            let source: Vec<u8> = (0..3 * width).map(|_| rng.random_range(0..=255)).collect();
            let taps: Vec<Taps> =
                (0..=width - count).map(|first| Taps { first, weights: 0..count }).collect();
            let mut out = vec![0; 3 * taps.len()];
            weigh_columns(&source, &taps, &weights, &mut out);
            for (at, &byte) in out.iter().enumerate() {
                let pixels = source[at..].iter().step_by(3).zip(&weights);
                assert_eq!(byte, rounded(pixels.map(|(&p, &w)| i64::from(p) * i64::from(w)).sum()));
            }
        }
        let columns = rng.random_range(1..200);
        let source: Vec<u8> = (0..count * columns).map(|_| rng.random_range(0..=255)).collect();
        let mut out = vec![0; columns];
        weigh_rows(&source, &weights, &mut out);
        for (at, &byte) in out.iter().enumerate() {
            let pixels = source[at..].iter().step_by(columns).zip(&weights);
            assert_eq!(byte, rounded(pixels.map(|(&p, &w)| i64::from(p) * i64::from(w)).sum()));
        }
    }
}
