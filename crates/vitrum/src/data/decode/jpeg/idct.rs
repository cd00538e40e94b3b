//! libjpeg's accurate inverse cosine transform ("islow"), as its vector code computes it.

/// The factors of Loeffler's transform in 13-bit fixed point.
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;
const BITS: u32 = 13;

/// A block of coefficients to 8 rows of 8 samples, written to `out` at a distance of `stride`.
pub(super) fn block(coefficients: &[i16; 64], steps: &[u16; 64], out: &mut [u8], stride: usize) {
    let value = |at: usize| i32::from(coefficients[at].wrapping_mul(steps[at] as i16));
    if coefficients[1..] == [0; 63] {
        // One level for all.
        let dc = i32::from((value(0) << 2) as i16);
        let level = sample((dc + 16) >> 5);
        out.chunks_mut(stride).take(8).for_each(|row| row[..8].fill(level));
        return;
    }
    let mut columns = [[0; 8]; 8];
    for x in 0..8 {
        let column = std::array::from_fn(|y| value(y * 8 + x));
        let result = pass::<{ BITS - 2 }>(column);
        (0..8).for_each(|y| columns[y][x] = result[y].clamp(-32768, 32767));
    }
    for (row, out) in columns.into_iter().zip(out.chunks_mut(stride)) {
        let result = pass::<{ BITS + 5 }>(row);
        out[..8].iter_mut().zip(result).for_each(|(out, value)| *out = sample(value));
    }
}

fn sample(value: i32) -> u8 {
    (value.clamp(-128, 127) + 128) as u8
}

/// The one-dimensional transform. The vector code adds in 16 bits where this one wraps.
#[inline(always)]
fn pass<const SHIFT: u32>(v: [i32; 8]) -> [i32; 8] {
    let half = 1 << (SHIFT - 1);
    let wrapped = |sum: i32| i32::from(sum as i16);
    if v[1..] == [0; 7] {
        return [((v[0] << BITS) + half) >> SHIFT; 8];
    }
    let z1 = (v[2] + v[6]) * F_0_541;
    let (t2, t3) = (z1 - v[6] * F_1_847, z1 + v[2] * F_0_765);
    let (t0, t1) = (wrapped(v[0] + v[4]) << BITS, wrapped(v[0] - v[4]) << BITS);
    let even = [t0.wrapping_add(t3), t1.wrapping_add(t2), t1.wrapping_sub(t2), t0.wrapping_sub(t3)];
    let (a0, a1, a2, a3) = (v[7], v[5], v[3], v[1]);
    let (z3, z4) = (wrapped(a0 + a2), wrapped(a1 + a3));
    let (z1, z2) = ((a0 + a3) * -F_0_899, (a1 + a2).wrapping_mul(-F_2_562));
    let z5 = (z3 + z4).wrapping_mul(F_1_175);
    let (z3, z4) = (z5.wrapping_sub(z3 * F_1_961), z5.wrapping_sub(z4 * F_0_390));
    let odd = [
        (a3 * F_1_501).wrapping_add(z1).wrapping_add(z4),
        (a2 * F_3_072).wrapping_add(z2).wrapping_add(z3),
        (a1 * F_2_053).wrapping_add(z2).wrapping_add(z4),
        (a0 * F_0_298).wrapping_add(z1).wrapping_add(z3),
    ];
    let shifted = |sum: i32| sum.wrapping_add(half) >> SHIFT;
    std::array::from_fn(|k| match k {
        0..4 => shifted(even[k].wrapping_add(odd[k])),
        _ => shifted(even[7 - k].wrapping_sub(odd[7 - k])),
    })
}
