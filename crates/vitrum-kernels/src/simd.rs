//! Vector registers behind one trait, and the choice among them at run time.
//!
//! A computation is a [`Job`], written once over [`Simd`]; [`run`] hands it to a function compiled with the widest
//! instructions this processor has. Inside a job, everything that should become vector instructions must be
//! `#[inline(always)]`: only then is it compiled with those instructions.
//!
//! Levels: AVX-512F and AVX2 with FMA on x86-64, NEON on aarch64, and plain Rust in blocks of four, which the compiler
//! vectorises as far as the target's baseline allows (SSE2 on x86-64, NEON on aarch64). The environment variable
//! `VITRUM_SIMD` (`avx512f`, `avx2+fma`, `neon` or `scalar`) lowers the choice, to reproduce another machine's last
//! digits or to test.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::ops::{Add, Mul, Sub};
use std::sync::OnceLock;

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, TensorData};

use crate::bf16;

/// A number type the fast paths compute in.
pub trait Real:
    Copy + Send + Sync + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + 'static
{
    /// The vector of this type at a SIMD level.
    type In<S: Simd>: Vector<Scalar = Self>;
    /// A vector of one, for the ends of rows.
    type One: Vector<Scalar = Self>;
    /// Coefficients of eʳ on |r| ≤ ½ ln 2, highest power first.
    const EXP: &'static [Self];
    /// 1.5 · 2^(digits of the mantissa): adding it rounds to an integer, which then sits in the lowest bits.
    const ROUND: Self;
    /// log₂ e.
    const LOG2_E: Self;
    /// -ln 2 as a sum of a number of few digits and the rest.
    const NEG_LN_2: [Self; 2];
    /// Logarithm of the smallest normal number; exp of less is taken as 0.
    const EXP_LOWEST: Self;
    /// Coefficients of `Φ(-t) e^(t²/2) (t + c)` in powers of `1 - 2c / (t + c)`, highest first, and c.
    const TAIL: &'static [Self];
    const TAIL_SHIFT: Self;
    /// Up to where they hold; `e^(-t²/2)` is taken as 0 from there on.
    const TAIL_END: Self;
    const ZERO: Self;
    const ONE: Self;
    /// The lowest finite number.
    const LOWEST: Self;
    /// The least number above zero.
    const LEAST: Self;

    fn from_f64(x: f64) -> Self;
    fn recip(self) -> Self;
    fn sqrt(self) -> Self;
    /// The numbers of a tensor of this type that lies in one piece.
    fn slice(tensor: &FlexTensor) -> &[Self];
    /// The whole buffer of a tensor of this type, of which its layout tells what belongs to it.
    fn storage(tensor: &FlexTensor) -> &[Self];
    /// The whole buffer of a tensor of this type, to write to; copies it first if others read it too.
    fn buffer(tensor: &mut FlexTensor) -> &mut [Self];
    /// A tensor of these numbers.
    fn tensor(values: Vec<Self>, shape: Shape) -> FlexTensor;
}

macro_rules! real {
    ($real:ident, $field:ident, $digits:literal, $ln_2:expr, $exp:expr, $shift:literal, $end:literal, $tail:expr) => {
        impl Real for $real {
            type In<S: Simd> = S::$field;
            type One = PlainVector<$real, 1>;
            const EXP: &'static [Self] = &$exp;
            const TAIL: &'static [Self] = &$tail;
            const TAIL_SHIFT: Self = $shift;
            const TAIL_END: Self = $end;
            const ROUND: Self = 1.5 * (1u64 << $digits) as Self;
            const LOG2_E: Self = std::$real::consts::LOG2_E;
            const NEG_LN_2: [Self; 2] = $ln_2;
            const EXP_LOWEST: Self = ($real::MIN_EXP - 1) as Self * std::$real::consts::LN_2;
            const ZERO: Self = 0.0;
            const ONE: Self = 1.0;
            const LOWEST: Self = $real::MIN;
            const LEAST: Self = $real::from_bits(1);

            fn from_f64(x: f64) -> Self {
                x as Self
            }

            fn recip(self) -> Self {
                1.0 / self
            }

            fn sqrt(self) -> Self {
                $real::sqrt(self)
            }

            fn slice(tensor: &FlexTensor) -> &[Self] {
                tensor.as_slice().unwrap_or_else(|| panic!("not one piece of {}", stringify!($real)))
            }

            fn storage(tensor: &FlexTensor) -> &[Self] {
                tensor.storage()
            }

            fn buffer(tensor: &mut FlexTensor) -> &mut [Self] {
                tensor.storage_mut()
            }

            fn tensor(values: Vec<Self>, shape: Shape) -> FlexTensor {
                FlexTensor::from_data(TensorData::new(values, shape))
            }
        }
    };
}

// ln 2 = 0x3f317200 (16 digits) + rest; the coefficients are a minimax fit with the first two held at 1 (error
// 4.4e-9 of eʳ), made with a linear program.
// The tail of the normal distribution is interpolated at Chebyshev's points (error 1.9e-8 of it; f64: 1.8e-17).
real!(
    f32,
    F32,
    23,
    [-0.693_145_75, -1.428_606_8e-6],
    [1.381_446_7e-3, 8.368_78e-3, 4.166_839_4e-2, 1.666_652e-1, 4.999_999_3e-1, 1.0, 1.0],
    2.5,
    14.5,
    [
        -1.581_188_3e-4,
        -3.132_749_4e-4,
        6.835_118_4e-4,
        2.525_526e-3,
        -1.599_688_2e-3,
        -1.638_666_7e-2,
        9.235_538e-3,
        1.319_870_2e-1,
        -4.336_919_8e-1,
        7.066_566_3e-1
    ]
);
// ln 2 in 32 digits + rest; the Taylor series up to r¹³ (error 4e-18).
real!(
    f64,
    F64,
    52,
    [-0.693_147_180_369_123_8, -1.908_214_929_270_587_7e-10],
    [
        1.0 / 6_227_020_800.0,
        1.0 / 479_001_600.0,
        1.0 / 39_916_800.0,
        1.0 / 3_628_800.0,
        1.0 / 362_880.0,
        1.0 / 40_320.0,
        1.0 / 5_040.0,
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ],
    4.5,
    39.0,
    [
        4.791_631_784_602_68e-10,
        -8.392_604_745_541_59e-10,
        -9.719_541_714_313_239e-9,
        -2.244_768_644_694_785_6e-9,
        6.911_707_060_715_889e-8,
        6.000_617_529_729_922e-8,
        -3.788_782_740_440_246e-7,
        -4.984_654_854_755_787e-7,
        2.143_067_195_816_388_5e-6,
        3.189_195_747_295_116e-6,
        -1.423_610_404_734_763_2e-5,
        -1.593_273_069_455_013e-5,
        1.120_427_656_460_187_9e-4,
        6.381_074_135_105_245e-6,
        -9.177_465_117_992_581e-4,
        1.748_830_577_948_199_5e-3,
        4.223_613_380_869_944e-3,
        -3.387_132_617_787_387_6e-2,
        1.113_825_965_701_955_6e-1,
        -2.531_417_999_509_452e-1,
        4.464_525_170_556_785e-1,
        -6.402_577_602_526_173e-1,
        7.632_305_289_702_032e-1
    ]
);

/// A register of `LANES` numbers.
///
/// Values come from `splat` and `load` alone, which ask for the level's instructions; so whoever holds one may use
/// them, and the arithmetic is safe.
pub trait Vector: Copy {
    type Scalar: Real;
    const LANES: usize;

    /// # Safety
    /// The processor must have this level's instructions.
    unsafe fn splat(x: Self::Scalar) -> Self;
    /// # Safety
    /// As `splat`; `from` must point to `LANES` readable numbers.
    unsafe fn load(from: *const Self::Scalar) -> Self;
    /// # Safety
    /// `to` must point to room for `LANES` numbers.
    unsafe fn store(self, to: *mut Self::Scalar);

    /// The first `count` lanes from memory, zeros behind.
    ///
    /// # Safety
    /// As `splat`; `from` must point to `count` readable numbers, at most `LANES`.
    #[inline(always)]
    unsafe fn load_part(from: *const Self::Scalar, count: usize) -> Self {
        let mut lanes = [Self::Scalar::ZERO; 16];
        // SAFETY: the caller's; no level has more than 16 lanes.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            Self::load(lanes.as_ptr())
        }
    }
    /// # Safety
    /// `to` must point to room for `count` numbers, at most `LANES`.
    #[inline(always)]
    unsafe fn store_part(self, to: *mut Self::Scalar, count: usize) {
        let mut lanes = [Self::Scalar::ZERO; 16];
        // SAFETY: as for `load_part`.
        unsafe {
            self.store(lanes.as_mut_ptr());
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
    /// The lanes of both in turns, `a₀ b₀ a₁ b₁ …`, in two registers.
    fn interleave(self, other: Self) -> (Self, Self);
    /// Transposes: writes `LANES` rows at `to_step`, in each a number from each of `rows` rows at `step`, zeros behind.
    ///
    /// # Safety
    /// As `splat`; `rows`, at most `LANES`, must be readable for `LANES` numbers, and `to` have room for all rows.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // Constant indices keep the rows in registers.
    unsafe fn turn(
        from: *const Self::Scalar,
        step: usize,
        rows: usize,
        to: *mut Self::Scalar,
        to_step: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut lines = [Self::splat(Self::Scalar::ZERO); 16];
            for i in 0..Self::LANES {
                if i < rows {
                    lines[i] = Self::load(from.add(i * step));
                }
            }
            // Each round moves the highest digit of a number's place in the square to the lowest.
            let mut round = 1;
            while round < Self::LANES {
                let before = lines;
                for i in 0..Self::LANES / 2 {
                    (lines[2 * i], lines[2 * i + 1]) = before[i].interleave(before[i + Self::LANES / 2]);
                }
                round *= 2;
            }
            for i in 0..Self::LANES {
                lines[i].store(to.add(i * to_step));
            }
        }
    }

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    /// Quotient, correctly rounded.
    fn div(self, other: Self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// `self · factor + term`, rounded once where the processor can.
    fn mul_add(self, factor: Self, term: Self) -> Self;
    /// The larger; `other` if either is NaN.
    fn max(self, other: Self) -> Self;
    /// Multiplies by 2ⁿ, n being the low bits of `rounded`.
    fn scale_by(self, rounded: Self) -> Self;
    /// `self`, but 0 in the lanes where `x` is below `limit`.
    fn zero_below(self, x: Self, limit: Self) -> Self;

    /// eˣ for x ≤ 0 or NaN, within an ulp and a half; 0 where that is below the normal numbers.
    #[inline(always)]
    fn exp(self) -> Self {
        // SAFETY: `self` exists, so the instructions do.
        unsafe {
            let round = Self::splat(Self::Scalar::ROUND);
            let rounded = self.mul_add(Self::splat(Self::Scalar::LOG2_E), round);
            let n = rounded.sub(round);
            let r = n.mul_add(Self::splat(Self::Scalar::NEG_LN_2[0]), self);
            let r = n.mul_add(Self::splat(Self::Scalar::NEG_LN_2[1]), r);
            let mut power = Self::splat(Self::Scalar::EXP[0]);
            for &coefficient in &Self::Scalar::EXP[1..] {
                power = power.mul_add(r, Self::splat(coefficient));
            }
            power.scale_by(rounded).zero_below(self, Self::splat(Self::Scalar::EXP_LOWEST))
        }
    }

    /// Sum of the lanes: one half and the other, lane by lane, until one is left.
    #[inline(always)]
    fn sum(self) -> Self::Scalar {
        let mut lanes = [Self::Scalar::ZERO; 16];
        // SAFETY: no level has more than 16 lanes.
        unsafe { self.store(lanes.as_mut_ptr()) };
        let mut width = Self::LANES;
        while width > 1 {
            width /= 2;
            for i in 0..width {
                lanes[i] = lanes[i] + lanes[i + width];
            }
        }
        lanes[0]
    }
}

/// Numbers of four chains, added in pairs.
#[inline(always)]
pub(crate) fn sum_chains<V: Vector>([a, b, c, d]: [V; 4]) -> V {
    a.add(b).add(c.add(d))
}

/// A SIMD level.
pub trait Simd: 'static {
    type F32: Vector<Scalar = f32>;
    type F64: Vector<Scalar = f64>;
    /// Whether there are 32 vector registers rather than 16.
    const MANY_REGISTERS: bool;

    /// Runs a job compiled for this level.
    ///
    /// # Safety
    /// The processor must have this level's instructions.
    unsafe fn vectorize<J: Job>(job: J) -> J::Output;

    /// The first and the second number of each pair in bf16 (see [`bf16`](crate::bf16)).
    ///
    /// # Safety
    /// As `vectorize`.
    unsafe fn halves(pairs: Self::F32) -> [Self::F32; 2];

    /// `sum + a₁ b₁ + a₂ b₂` of pairs in bf16.
    ///
    /// # Safety
    /// As `vectorize`.
    #[inline(always)]
    unsafe fn dot_pairs(a: Self::F32, b: Self::F32, sum: Self::F32) -> Self::F32 {
        // SAFETY: the caller's.
        let ([a1, a2], [b1, b2]) = unsafe { (Self::halves(a), Self::halves(b)) };
        a2.mul_add(b2, a1.mul_add(b1, sum))
    }

    /// Rounds 32 numbers to 16 pairs in bf16. The two places may overlap: all is read first.
    ///
    /// # Safety
    /// As `vectorize`; the numbers must be readable and the pairs have room.
    #[inline(always)]
    unsafe fn round_pairs(from: *const f32, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe {
            to.cast::<[f32; 16]>().write_unaligned(bf16::pairs_of(from.cast::<[f32; 32]>().read_unaligned()))
        };
    }

    /// The numbers of each lane as a pair in bf16.
    ///
    /// # Safety
    /// As `vectorize`.
    #[inline(always)]
    unsafe fn pair(first: Self::F32, second: Self::F32) -> Self::F32 {
        bf16::lanes_of_pairs(first, second)
    }

    /// `start` and the weighted sum of four bytes at each third place from `from` on, byte by byte.
    ///
    /// # Safety
    /// As `vectorize`; three bytes for each weight and one more must be readable.
    #[inline(always)]
    unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
        let mut sums = [start; 4];
        for (place, &weight) in weights.iter().enumerate() {
            // SAFETY: the caller's.
            let bytes = unsafe { from.add(3 * place).cast::<[u8; 4]>().read() };
            for (sum, byte) in sums.iter_mut().zip(bytes) {
                *sum += i32::from(byte) * weight;
            }
        }
        sums
    }
}

/// Something to compute at any SIMD level.
pub trait Job {
    type Output;

    /// Must be `#[inline(always)]`.
    ///
    /// # Safety
    /// The processor must have the instructions of `S`.
    unsafe fn run<S: Simd>(self) -> Self::Output;
}

/// Runs a job at the best level.
pub(crate) fn run<J: Job>(job: J) -> J::Output {
    match level() {
        // SAFETY: `level` has seen the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { x86::Avx512::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { x86::Avx2::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { aarch64::Neon::vectorize(job) },
        // SAFETY: needs no special instructions.
        Level::Plain => unsafe { Plain::vectorize(job) },
    }
}

/// The instructions the fast paths use on this machine: `avx512f`, `avx2+fma`, `neon` or `scalar` (plain Rust,
/// vectorised by the compiler only). The environment variable `VITRUM_SIMD`, read once, can lower it.
pub fn simd_level() -> &'static str {
    level().name()
}

#[derive(Clone, Copy, PartialEq)]
enum Level {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Plain,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512f",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2+fma",
            #[cfg(target_arch = "aarch64")]
            Level::Neon => "neon",
            Level::Plain => "scalar",
        }
    }

    /// What the processor has, best first.
    fn available() -> Vec<Level> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                levels.push(Level::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                levels.push(Level::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        if is_aarch64_feature_detected!("neon") {
            levels.push(Level::Neon);
        }
        levels.push(Level::Plain);
        levels
    }
}

/// The level in use: the best, or the one `VITRUM_SIMD` names if it is available.
fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| choose(&Level::available(), Level::name, "VITRUM_SIMD"))
}

/// The first of the levels, or the one that the environment variable names if it is among them.
pub(crate) fn choose<L: Copy>(available: &[L], name: fn(L) -> &'static str, variable: &str) -> L {
    let wanted = std::env::var(variable).ok();
    let named = available.iter().find(|&&level| Some(name(level)) == wanted.as_deref());
    *named.unwrap_or(&available[0])
}

/// The level of plain Rust.
pub struct Plain;

impl Simd for Plain {
    type F32 = PlainVector<f32, 4>;
    type F64 = PlainVector<f64, 4>;
    const MANY_REGISTERS: bool = cfg!(target_arch = "aarch64");

    #[inline(always)]
    unsafe fn vectorize<J: Job>(job: J) -> J::Output {
        // SAFETY: no special instructions are used.
        unsafe { job.run::<Self>() }
    }

    #[inline(always)]
    unsafe fn halves(PlainVector(pairs): Self::F32) -> [Self::F32; 2] {
        let (mut first, mut second) = ([0.0; 4], [0.0; 4]);
        for (i, pair) in pairs.into_iter().enumerate() {
            [first[i], second[i]] = bf16::halves(pair);
        }
        [PlainVector(first), PlainVector(second)]
    }
}

/// Numbers side by side.
#[derive(Clone, Copy)]
pub struct PlainVector<T, const N: usize>([T; N]);

macro_rules! plain_vector {
    ($real:ident, $bits:ident, $digits:literal) => {
        impl<const N: usize> PlainVector<$real, N> {
            #[inline(always)]
            fn zip(self, other: Self, f: impl Fn($real, $real) -> $real) -> Self {
                Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
            }
        }

        impl<const N: usize> Vector for PlainVector<$real, N> {
            type Scalar = $real;
            const LANES: usize = N;

            #[inline(always)]
            unsafe fn splat(x: $real) -> Self {
                Self([x; N])
            }
            #[inline(always)]
            unsafe fn load(from: *const $real) -> Self {
                // SAFETY: the caller's; arrays of numbers may be read unaligned.
                Self(unsafe { from.cast::<[$real; N]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $real) {
                // SAFETY: the caller's.
                unsafe { to.cast::<[$real; N]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            fn interleave(self, other: Self) -> (Self, Self) {
                let lane = |i: usize| if i % 2 == 0 { self.0[i / 2] } else { other.0[i / 2] };
                (Self(std::array::from_fn(lane)), Self(std::array::from_fn(|i| lane(N + i))))
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                self.zip(other, |a, b| a + b)
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                self.zip(other, |a, b| a - b)
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                self.zip(other, |a, b| a * b)
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                self.zip(other, |a, b| a / b)
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                Self(self.0.map($real::sqrt))
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, term: Self) -> Self {
                // Without the instruction, `mul_add` would be a slow library call.
                if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
                    Self(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], term.0[i])))
                } else {
                    self.mul(factor).add(term)
                }
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                self.zip(other, |a, b| if a > b { a } else { b })
            }
            #[inline(always)]
            fn scale_by(self, rounded: Self) -> Self {
                self.zip(rounded, |x, n| $real::from_bits(x.to_bits().wrapping_add(n.to_bits() << $digits)))
            }
            #[inline(always)]
            fn zero_below(self, x: Self, limit: Self) -> Self {
                Self(std::array::from_fn(|i| if x.0[i] < limit.0[i] { 0.0 } else { self.0[i] }))
            }
        }
    };
}

plain_vector!(f32, u32, 23);
plain_vector!(f64, u64, 52);

/// A register of a processor as a [`Vector`], by the names of its instructions.
macro_rules! register_vector {
    (
        $name:ident, $real:ident, $register:ident, $lanes:literal, $splat:ident, $load:ident, $store:ident,
        $add:ident, $sub:ident, $mul:ident, $div:ident, $sqrt:ident, $fmadd:ident, $max:ident,
        |$x:ident, $n:ident| $scale_by:expr, |$value:ident, $at:ident, $limit:ident| $zero_below:expr,
        |$even:ident, $odd:ident| $interleave:expr
    ) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($register);

        impl Vector for $name {
            type Scalar = $real;
            const LANES: usize = $lanes;

            #[inline(always)]
            unsafe fn splat(x: $real) -> Self {
                // SAFETY: the caller has the instructions.
                Self(unsafe { $splat(x) })
            }
            #[inline(always)]
            unsafe fn load(from: *const $real) -> Self {
                // SAFETY: the caller has the instructions and the numbers.
                Self(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $real) {
                // SAFETY: the caller has the room; a value exists, so the instructions do.
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            fn interleave(self, other: Self) -> (Self, Self) {
                let ($even, $odd) = (self.0, other.0);
                // SAFETY: as for `add`.
                let (low, high) = unsafe { $interleave };
                (Self(low), Self(high))
            }
            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: a value exists, so the instructions do (likewise below).
                Self(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $sub(self.0, other.0) })
            }
            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            fn div(self, other: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $div(self.0, other.0) })
            }
            #[inline(always)]
            fn sqrt(self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $sqrt(self.0) })
            }
            #[inline(always)]
            fn mul_add(self, factor: Self, term: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $fmadd(self.0, factor.0, term.0) })
            }
            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: as for `add`.
                Self(unsafe { $max(self.0, other.0) })
            }
            #[inline(always)]
            fn scale_by(self, rounded: Self) -> Self {
                let ($x, $n) = (self.0, rounded.0);
                // SAFETY: as for `add`.
                Self(unsafe { $scale_by })
            }
            #[inline(always)]
            fn zero_below(self, x: Self, limit: Self) -> Self {
                let ($value, $at, $limit) = (self.0, x.0, limit.0);
                // SAFETY: as for `add`. "Not less than" keeps NaN.
                Self(unsafe { $zero_below })
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use super::{Job, Simd, Vector};
    use std::arch::x86_64::*;
    use std::mem::transmute;

    pub(crate) struct Avx512;
    /// The same with dot products of pairs in bf16.
    pub(crate) struct Avx512Bf16;
    pub(crate) struct Avx2;

    impl Simd for Avx512 {
        type F32 = F32x16;
        type F64 = F64x8;
        const MANY_REGISTERS: bool = true;

        #[target_feature(enable = "avx512f")]
        unsafe fn vectorize<J: Job>(job: J) -> J::Output {
            // SAFETY: the caller has the instructions.
            unsafe { job.run::<Self>() }
        }

        #[inline(always)]
        unsafe fn halves(pairs: F32x16) -> [F32x16; 2] {
            // SAFETY: the caller's.
            unsafe {
                let bits = _mm512_castps_si512(pairs.0);
                let first = _mm512_slli_epi32::<16>(bits);
                let second = _mm512_and_si512(bits, _mm512_set1_epi32(0xffff_0000_u32.cast_signed()));
                [F32x16(_mm512_castsi512_ps(first)), F32x16(_mm512_castsi512_ps(second))]
            }
        }

        #[inline(always)]
        unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
            // SAFETY: the caller's; SSE 4.1 is part of this level.
            unsafe { weigh_pixels(from, weights, start) }
        }
    }

    impl Simd for Avx2 {
        type F32 = F32x8;
        type F64 = F64x4;
        const MANY_REGISTERS: bool = false;

        #[target_feature(enable = "avx2,fma")]
        unsafe fn vectorize<J: Job>(job: J) -> J::Output {
            // SAFETY: the caller has the instructions.
            unsafe { job.run::<Self>() }
        }

        #[inline(always)]
        unsafe fn halves(pairs: F32x8) -> [F32x8; 2] {
            // SAFETY: the caller's.
            unsafe {
                let bits = _mm256_castps_si256(pairs.0);
                let first = _mm256_slli_epi32::<16>(bits);
                let second = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff_0000_u32.cast_signed()));
                [F32x8(_mm256_castsi256_ps(first)), F32x8(_mm256_castsi256_ps(second))]
            }
        }

        #[inline(always)]
        unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
            // SAFETY: the caller's; SSE 4.1 is part of this level.
            unsafe { weigh_pixels(from, weights, start) }
        }
    }

    impl Simd for Avx512Bf16 {
        type F32 = F32x16;
        type F64 = F64x8;
        const MANY_REGISTERS: bool = true;

        #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
        unsafe fn vectorize<J: Job>(job: J) -> J::Output {
            // SAFETY: the caller has the instructions.
            unsafe { job.run::<Self>() }
        }

        #[inline(always)]
        unsafe fn halves(pairs: F32x16) -> [F32x16; 2] {
            // SAFETY: the caller's.
            unsafe { Avx512::halves(pairs) }
        }

        #[inline(always)]
        unsafe fn dot_pairs(a: F32x16, b: F32x16, sum: F32x16) -> F32x16 {
            // SAFETY: the caller has the instructions; both types are 512 bits, whatever they stand for.
            unsafe {
                let (a, b) = (transmute::<__m512, __m512bh>(a.0), transmute::<__m512, __m512bh>(b.0));
                F32x16(_mm512_dpbf16_ps(sum.0, a, b))
            }
        }

        #[inline(always)]
        unsafe fn round_pairs(from: *const f32, to: *mut f32) {
            // SAFETY: as above.
            unsafe {
                let (low, high) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
                let pairs = transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
                _mm512_storeu_ps(to, pairs);
            }
        }

        #[inline(always)]
        unsafe fn pair(first: F32x16, second: F32x16) -> F32x16 {
            // SAFETY: as above.
            unsafe {
                // Lane i of the first is number i, that of the second number 16 + i.
                let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
                let from = _mm512_or_si512(
                    lane,
                    _mm512_slli_epi32::<16>(_mm512_add_epi32(lane, _mm512_set1_epi32(16))),
                );
                let both = transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(second.0, first.0));
                F32x16(_mm512_castsi512_ps(_mm512_permutexvar_epi16(from, both)))
            }
        }
    }

    /// See [`Simd::weigh_pixels`]. The compiler, left alone, puts eight pixels side by side, and there are seldom as many.
    ///
    /// # Safety
    /// As there, with SSE 4.1.
    #[inline(always)]
    unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
        // SAFETY: the caller's.
        unsafe {
            let mut sums = _mm_set1_epi32(start);
            for (place, &weight) in weights.iter().enumerate() {
                let bytes = from.add(3 * place).cast::<i32>().read_unaligned();
                let bytes = _mm_cvtepu8_epi32(_mm_cvtsi32_si128(bytes));
                sums = _mm_add_epi32(sums, _mm_mullo_epi32(bytes, _mm_set1_epi32(weight)));
            }
            let mut lanes = [0; 4];
            _mm_storeu_si128(lanes.as_mut_ptr().cast(), sums);
            lanes
        }
    }

    register_vector!(
        F32x16,
        f32,
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_sqrt_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        |x, n| _mm512_castsi512_ps(_mm512_add_epi32(
            _mm512_castps_si512(x),
            _mm512_slli_epi32::<23>(_mm512_castps_si512(n))
        )),
        |value, at, limit| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(at, limit), value),
        |a, b| (
            _mm512_permutex2var_ps(
                a,
                _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
                b
            ),
            _mm512_permutex2var_ps(
                a,
                _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                b
            )
        )
    );
    register_vector!(
        F64x8,
        f64,
        __m512d,
        8,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_add_pd,
        _mm512_sub_pd,
        _mm512_mul_pd,
        _mm512_div_pd,
        _mm512_sqrt_pd,
        _mm512_fmadd_pd,
        _mm512_max_pd,
        |x, n| _mm512_castsi512_pd(_mm512_add_epi64(
            _mm512_castpd_si512(x),
            _mm512_slli_epi64::<52>(_mm512_castpd_si512(n))
        )),
        |value, at, limit| _mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_NLT_UQ>(at, limit), value),
        |a, b| (
            _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b),
            _mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b)
        )
    );
    register_vector!(
        F32x8,
        f32,
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        _mm256_sqrt_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        |x, n| _mm256_castsi256_ps(_mm256_add_epi32(
            _mm256_castps_si256(x),
            _mm256_slli_epi32::<23>(_mm256_castps_si256(n))
        )),
        |value, at, limit| _mm256_and_ps(value, _mm256_cmp_ps::<_CMP_NLT_UQ>(at, limit)),
        |a, b| {
            let (low, high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            (_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
        }
    );
    register_vector!(
        F64x4,
        f64,
        __m256d,
        4,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_add_pd,
        _mm256_sub_pd,
        _mm256_mul_pd,
        _mm256_div_pd,
        _mm256_sqrt_pd,
        _mm256_fmadd_pd,
        _mm256_max_pd,
        |x, n| _mm256_castsi256_pd(_mm256_add_epi64(
            _mm256_castpd_si256(x),
            _mm256_slli_epi64::<52>(_mm256_castpd_si256(n))
        )),
        |value, at, limit| _mm256_and_pd(value, _mm256_cmp_pd::<_CMP_NLT_UQ>(at, limit)),
        |a, b| {
            let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
            (_mm256_permute2f128_pd::<0x20>(low, high), _mm256_permute2f128_pd::<0x31>(low, high))
        }
    );
}

#[cfg(target_arch = "aarch64")]
pub(crate) mod aarch64 {
    use super::{Job, Simd, Vector};
    use std::arch::aarch64::*;

    pub(crate) struct Neon;

    impl Simd for Neon {
        type F32 = F32x4;
        type F64 = F64x2;
        const MANY_REGISTERS: bool = true;

        #[target_feature(enable = "neon")]
        unsafe fn vectorize<J: Job>(job: J) -> J::Output {
            // SAFETY: the caller has the instructions.
            unsafe { job.run::<Self>() }
        }

        #[inline(always)]
        unsafe fn halves(pairs: F32x4) -> [F32x4; 2] {
            // SAFETY: the caller's.
            unsafe {
                let bits = vreinterpretq_u32_f32(pairs.0);
                let first = vshlq_n_u32::<16>(bits);
                let second = vandq_u32(bits, vdupq_n_u32(0xffff_0000));
                [F32x4(vreinterpretq_f32_u32(first)), F32x4(vreinterpretq_f32_u32(second))]
            }
        }

        /// The compiler, left alone, puts eight pixels side by side, and there are seldom as many.
        #[inline(always)]
        unsafe fn weigh_pixels(from: *const u8, weights: &[i32], start: i32) -> [i32; 4] {
            // Where a byte of each lane comes from; there is none of number 16, which gives 0.
            const WIDEN: [u8; 16] = [0, 16, 16, 16, 1, 16, 16, 16, 2, 16, 16, 16, 3, 16, 16, 16];
            // SAFETY: the caller's.
            unsafe {
                let widen = vld1q_u8(WIDEN.as_ptr());
                let mut sums = vdupq_n_s32(start);
                for (place, &weight) in weights.iter().enumerate() {
                    let bytes = from.add(3 * place).cast::<u32>().read_unaligned();
                    let bytes = vqtbl1q_u8(vreinterpretq_u8_u32(vdupq_n_u32(bytes)), widen);
                    sums = vmlaq_n_s32(sums, vreinterpretq_s32_u8(bytes), weight);
                }
                let mut lanes = [0; 4];
                vst1q_s32(lanes.as_mut_ptr(), sums);
                lanes
            }
        }
    }

    // The instructions' operands in the trait's order. `vmaxq` would keep NaN of either.

    #[inline]
    #[target_feature(enable = "neon")]
    fn mul_add_f32(x: float32x4_t, factor: float32x4_t, term: float32x4_t) -> float32x4_t {
        vfmaq_f32(term, x, factor)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn mul_add_f64(x: float64x2_t, factor: float64x2_t, term: float64x2_t) -> float64x2_t {
        vfmaq_f64(term, x, factor)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn max_f32(x: float32x4_t, other: float32x4_t) -> float32x4_t {
        vbslq_f32(vcgtq_f32(x, other), x, other)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn max_f64(x: float64x2_t, other: float64x2_t) -> float64x2_t {
        vbslq_f64(vcgtq_f64(x, other), x, other)
    }

    register_vector!(
        F32x4,
        f32,
        float32x4_t,
        4,
        vdupq_n_f32,
        vld1q_f32,
        vst1q_f32,
        vaddq_f32,
        vsubq_f32,
        vmulq_f32,
        vdivq_f32,
        vsqrtq_f32,
        mul_add_f32,
        max_f32,
        |x, n| vreinterpretq_f32_s32(vaddq_s32(
            vreinterpretq_s32_f32(x),
            vshlq_n_s32::<23>(vreinterpretq_s32_f32(n))
        )),
        |value, at, limit| vreinterpretq_f32_u32(vbicq_u32(
            vreinterpretq_u32_f32(value),
            vcltq_f32(at, limit)
        )),
        |a, b| (vzip1q_f32(a, b), vzip2q_f32(a, b))
    );
    register_vector!(
        F64x2,
        f64,
        float64x2_t,
        2,
        vdupq_n_f64,
        vld1q_f64,
        vst1q_f64,
        vaddq_f64,
        vsubq_f64,
        vmulq_f64,
        vdivq_f64,
        vsqrtq_f64,
        mul_add_f64,
        max_f64,
        |x, n| vreinterpretq_f64_s64(vaddq_s64(
            vreinterpretq_s64_f64(x),
            vshlq_n_s64::<52>(vreinterpretq_s64_f64(n))
        )),
        |value, at, limit| vreinterpretq_f64_u64(vbicq_u64(
            vreinterpretq_u64_f64(value),
            vcltq_f64(at, limit)
        )),
        |a, b| (vzip1q_f64(a, b), vzip2q_f64(a, b))
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of every kind; a lane meets each with each.
    fn kinds<T: Real>() -> Vec<T> {
        let infinity = T::ZERO.recip();
        let least = T::LEAST;
        let finite = [0.0, -0.0, 1.0, -1.0, 3.0, -2.5, 1e-9, 1e30].map(T::from_f64);
        let rest = [T::LOWEST, least, T::ZERO - least, infinity, T::ZERO - infinity, T::ZERO * infinity];
        finite.into_iter().chain(rest).collect()
    }

    /// What is the same number to the sign of zero, or not a number either.
    fn same<T: Real>(x: T, y: T) -> bool {
        let is_nan = |x: T| x.partial_cmp(&x).is_none();
        is_nan(x) && is_nan(y) || x == y && x.recip() == y.recip()
    }

    /// The operations that go lane by lane.
    #[inline(always)]
    fn operations<V: Vector>(a: V, b: V, small: V, count: V) -> [V; 9] {
        [
            a.add(b),
            a.sub(b),
            a.mul(b),
            a.div(b),
            a.sqrt(),
            a.max(b),
            a.zero_below(b, small),
            small.scale_by(count),
            small.scale_by(count).mul_add(small, small.add(small)),
        ]
    }

    /// The lanes of all results for numbers `a`, `b`, small whole numbers, and these as exponents.
    struct Operations<T>([[T; 16]; 4]);

    impl<T: Real> Operations<T> {
        /// # Safety
        /// The processor must have the instructions of `V`.
        #[inline(always)]
        unsafe fn from<V: Vector<Scalar = T>>(&self, lane: usize) -> Vec<[T; 16]> {
            // SAFETY: `lane` is at most 16 less the lanes; results have room for any register.
            unsafe {
                let [a, b, small, count] = self.0.each_ref().map(|x| V::load(x.as_ptr().add(lane)));
                let store = |x: V| {
                    let mut lanes = [T::ZERO; 16];
                    x.store(lanes.as_mut_ptr());
                    lanes
                };
                operations(a, b, small, count).map(store).to_vec()
            }
        }
    }

    impl<T: Real> Job for &Operations<T> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            // SAFETY: the caller's; one number needs none.
            unsafe {
                let found = self.from::<T::In<S>>(0);
                for lane in 0..T::In::<S>::LANES {
                    let alone = self.from::<T::One>(lane);
                    for (operation, (found, alone)) in found.iter().zip(&alone).enumerate() {
                        assert!(same(found[lane], alone[0]), "operation {operation} in lane {lane}");
                    }
                }
            }
        }
    }

    fn lanes_are_numbers_alone<T: Real>() {
        let kinds = kinds::<T>();
        for shift in 0..kinds.len() {
            for start in 0..kinds.len() {
                let a = std::array::from_fn(|i| kinds[(start + i) % kinds.len()]);
                let b = std::array::from_fn(|i| kinds[(start + i + shift) % kinds.len()]);
                let small = std::array::from_fn(|i| T::from_f64(i as f64 - 7.0));
                run(&Operations([a, b, small, small.map(|x| T::ROUND + x)]));
            }
        }
    }

    #[test]
    fn a_lane_gives_what_its_number_gives_alone() {
        lanes_are_numbers_alone::<f32>();
        lanes_are_numbers_alone::<f64>();
    }

    /// What moves numbers between lanes.
    struct Moves<T>(std::marker::PhantomData<T>);

    impl<T: Real> Job for Moves<T> {
        type Output = ();

        #[inline(always)]
        unsafe fn run<S: Simd>(self) {
            let lanes = T::In::<S>::LANES;
            let number = |i: usize| T::from_f64(i as f64 + 1.0);
            let from: [T; 256] = std::array::from_fn(number);
            let mut to = [T::ZERO; 256];
            // SAFETY: the caller's; no register has more than 16 lanes.
            unsafe {
                let (a, b) = (T::In::<S>::load(from.as_ptr()), T::In::<S>::load(from[16..].as_ptr()));
                assert!(a.sum() == T::from_f64((lanes * (lanes + 1) / 2) as f64));
                let (low, high) = a.interleave(b);
                low.store(to.as_mut_ptr());
                high.store(to[lanes..].as_mut_ptr());
                for i in 0..lanes {
                    assert!(to[2 * i] == from[i] && to[2 * i + 1] == from[16 + i]);
                }
                for rows in 0..=lanes {
                    T::In::<S>::turn(from.as_ptr(), 16, rows, to.as_mut_ptr(), 16);
                    for i in 0..lanes * lanes {
                        let (row, column) = (i / lanes, i % lanes);
                        let expected = if column < rows { from[column * 16 + row] } else { T::ZERO };
                        assert!(to[row * 16 + column] == expected, "{rows} rows");
                    }
                }
            }
        }
    }

    #[test]
    fn numbers_move_between_lanes_as_promised() {
        run(Moves::<f32>(std::marker::PhantomData));
        run(Moves::<f64>(std::marker::PhantomData));
    }
}
