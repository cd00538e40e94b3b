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

/// Rows of a block, or its columns.
type Square = [[i16; 8]; 8];

/// A block of coefficients to 8 rows of 8 samples, written to `out` at a distance of `stride`.
pub(super) fn block(coefficients: &[i16; 64], steps: &[u16; 64], out: &mut [u8], stride: usize) {
    if coefficients[1..] == [0; 63] {
        // One level for all.
        let dc = i32::from(coefficients[0].wrapping_mul(steps[0] as i16) << 2);
        let level = sample(((dc + 16) >> 5) as i16);
        (0..8).for_each(|y| out[y * stride..][..8].fill(level));
        return;
    }
    let mut values = [[0; 8]; 8];
    for (values, (coefficients, steps)) in
        values.iter_mut().zip(coefficients.as_chunks::<8>().0.iter().zip(steps.as_chunks::<8>().0))
    {
        for x in 0..8 {
            values[x] = coefficients[x].wrapping_mul(steps[x] as i16);
        }
    }
    let columns = pass::<{ BITS - 2 }>(&values);
    let rows = pass::<{ BITS + 5 }>(&columns);
    for (y, row) in rows.iter().enumerate() {
        let out = out[y * stride..].first_chunk_mut::<8>().expect("a row of 8 samples");
        for x in 0..8 {
            out[x] = sample(row[x]);
        }
    }
}

fn sample(value: i16) -> u8 {
    (value.clamp(-128, 127) as i8 as u8) ^ 0x80
}

/// The one-dimensional transform of eight columns at once; its results are rows. Like the vector code it adds in 16
/// bits where it says so, and its results are clamped to 16 bits. Apart from its caller, for the compiler makes better
/// vector code of it so.
#[inline(never)]
fn pass<const SHIFT: u32>(v: &Square) -> Square {
    let mut out = [[0; 8]; 8];
    for x in 0..8 {
        let at = |k: usize| i32::from(v[k][x]);
        let sum = |a: usize, b: usize| i32::from(v[a][x].wrapping_add(v[b][x]));
        let difference = i32::from(v[0][x].wrapping_sub(v[4][x]));
        // Factors are added beforehand, so that each product is one of 16 bits by 16.
        let t2 = (at(2) * F_0_541).wrapping_add(at(6) * (F_0_541 - F_1_847));
        let t3 = (at(2) * (F_0_541 + F_0_765)).wrapping_add(at(6) * F_0_541);
        let (t0, t1) = (sum(0, 4) << BITS, difference << BITS);
        let even = [t0.wrapping_add(t3), t1.wrapping_add(t2), t1.wrapping_sub(t2), t0.wrapping_sub(t3)];
        let (s3, s4) = (sum(7, 3), sum(5, 1));
        let z3 = (s3 * (F_1_175 - F_1_961)).wrapping_add(s4 * F_1_175);
        let z4 = (s3 * F_1_175).wrapping_add(s4 * (F_1_175 - F_0_390));
        let odd = [
            (at(1) * (F_1_501 - F_0_899)).wrapping_add(at(7) * -F_0_899).wrapping_add(z4),
            (at(3) * (F_3_072 - F_2_562)).wrapping_add(at(5) * -F_2_562).wrapping_add(z3),
            (at(5) * (F_2_053 - F_2_562)).wrapping_add(at(3) * -F_2_562).wrapping_add(z4),
            (at(7) * (F_0_298 - F_0_899)).wrapping_add(at(1) * -F_0_899).wrapping_add(z3),
        ];
        let rounded = |sum: i32| (sum.wrapping_add(1 << (SHIFT - 1)) >> SHIFT).clamp(-32768, 32767) as i16;
        for k in 0..4 {
            out[x][k] = rounded(even[k].wrapping_add(odd[k]));
            out[x][7 - k] = rounded(even[k].wrapping_sub(odd[k]));
        }
    }
    out
}
