//! Rounding to bf16, and pairs of bf16 numbers in the bits of an `f32` (see [`bf16`](crate::bf16)).

use super::Vector;

/// Numbers that are rounded at a time.
pub(crate) const PIECE: usize = 32;

/// The nearest bf16 number, ties to even, as the bits of an `f32`. NaN stays NaN.
#[inline(always)]
pub(crate) fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    // Adds half of the last kept digit, minus one unless that digit is odd. A carry into the exponent is correct.
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let quiet = bits | 0x0040_0000;
    (if x.is_nan() { quiet } else { nearest }) & 0xffff_0000
}

/// Two numbers as a pair.
#[inline(always)]
pub(crate) fn pair_of(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(first) >> 16 | rounded(second))
}

/// Rounds 32 numbers to 16 pairs.
#[inline(always)]
pub(crate) fn pairs_of(numbers: [f32; PIECE]) -> [f32; PIECE / 2] {
    let mut pairs = [0.0; PIECE / 2];
    for (i, pair) in pairs.iter_mut().enumerate() {
        *pair = pair_of(numbers[2 * i], numbers[2 * i + 1]);
    }
    pairs
}

/// The two numbers of a pair.
#[inline(always)]
pub(crate) fn halves(pair: f32) -> [f32; 2] {
    let bits = pair.to_bits();
    [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
}

/// Pairs of the lanes of `first` and `second`, one lane after the other.
#[inline(always)]
pub(crate) fn lanes_of_pairs<V: Vector<Scalar = f32>>(first: V, second: V) -> V {
    let (mut pairs, mut others) = ([0.0; 16], [0.0; 16]);
    // SAFETY: no level has more than 16 lanes; a value exists, so the instructions do.
    unsafe {
        first.store(pairs.as_mut_ptr());
        second.store(others.as_mut_ptr());
        for (pair, &other) in pairs.iter_mut().zip(&others).take(V::LANES) {
            *pair = pair_of(*pair, other);
        }
        V::load(pairs.as_ptr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest number in bf16, by comparing both neighbours in f64.
    fn nearest(x: f32) -> f32 {
        let low = f32::from_bits(x.to_bits() & 0xffff_0000);
        let high = f32::from_bits((x.to_bits() & 0xffff_0000).wrapping_add(0x1_0000));
        let (x, to_low) = (f64::from(x), (f64::from(x) - f64::from(low)).abs());
        // For rounding, the next power of two follows the largest number.
        let beyond = if high.is_infinite() { 2f64.powi(128).copysign(x) } else { f64::from(high) };
        let to_high = (beyond - x).abs();
        let even = low.to_bits() >> 16 & 1 == 0;
        if to_low < to_high || to_low == to_high && even { low } else { high }
    }

    #[test]
    fn rounding_gives_the_nearest_number_and_keeps_nan() {
        let mut numbers: Vec<f32> = Vec::new();
        for upper in (0..0x7f80_u32).step_by(7) {
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let bits = upper << 16 | lower;
                numbers.extend([bits, bits | 1 << 31].map(f32::from_bits));
            }
        }
        for &x in &numbers {
            assert_eq!(rounded(x), nearest(x).to_bits(), "{x:e}");
        }
        for x in [f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(f32::from_bits(rounded(x)), x);
        }
        assert_eq!(f32::from_bits(rounded(f32::MAX)), f32::INFINITY);
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xff80_0001, 0x7fc0_0000] {
            assert!(f32::from_bits(rounded(f32::from_bits(bits))).is_nan(), "{bits:x}");
        }
    }
}
