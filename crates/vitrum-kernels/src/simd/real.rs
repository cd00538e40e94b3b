//! The number types of the fast paths, with the constants for the exponential and for the tail of GELU.

use std::ops::{Add, Mul, Sub};

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, TensorData};

use super::scalar::ArrayVector;
use super::{Simd, Vector};

/// A number type of the fast paths.
pub trait Real:
    Copy + Send + Sync + PartialOrd + Add<Output = Self> + Sub<Output = Self> + Mul<Output = Self> + 'static
{
    /// The vector of this type at a SIMD level.
    type In<S: Simd>: Vector<Scalar = Self>;
    /// A vector of one number, for the ends of rows.
    type One: Vector<Scalar = Self>;
    /// Coefficients of eʳ on |r| ≤ ½ ln 2, highest power first.
    const EXP: &'static [Self];
    /// 1.5 · 2^(digits of the mantissa). Adding it rounds to an integer, which is then in the lowest bits.
    const ROUND: Self;
    /// log₂ e.
    const LOG2_E: Self;
    /// -ln 2 as the sum of a number with few digits and the rest.
    const NEG_LN_2: [Self; 2];
    /// Logarithm of the smallest normal number; exp of a smaller number counts as 0.
    const EXP_LOWEST: Self;
    /// Coefficients of `Φ(-t) e^(t²/2) (t + c)` in powers of `1 - 2c / (t + c)`, highest first, and c.
    const TAIL: &'static [Self];
    const TAIL_SHIFT: Self;
    /// The coefficients hold up to here; from here on `e^(-t²/2)` counts as 0.
    const TAIL_END: Self;
    const ZERO: Self;
    const ONE: Self;
    /// The lowest finite number.
    const LOWEST: Self;
    /// The smallest positive number.
    const LEAST: Self;

    fn from_f64(x: f64) -> Self;
    fn to_f64(self) -> f64;
    fn recip(self) -> Self;
    fn sqrt(self) -> Self;
    /// The numbers of a contiguous tensor of this type.
    fn slice(tensor: &FlexTensor) -> &[Self];
    /// The whole buffer of a tensor of this type. The layout says which part belongs to the tensor.
    fn storage(tensor: &FlexTensor) -> &[Self];
    /// The whole buffer of a tensor of this type, for writing. A shared buffer is copied first.
    fn buffer(tensor: &mut FlexTensor) -> &mut [Self];
    /// A tensor of these numbers.
    fn tensor(values: Vec<Self>, shape: Shape) -> FlexTensor;
}

macro_rules! real {
    ($real:ident, $field:ident, $digits:literal, $ln_2:expr, $exp:expr, $shift:literal, $end:literal, $tail:expr) => {
        impl Real for $real {
            type In<S: Simd> = S::$field;
            type One = ArrayVector<$real, 1>;
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

            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            fn recip(self) -> Self {
                1.0 / self
            }

            fn sqrt(self) -> Self {
                $real::sqrt(self)
            }

            fn slice(tensor: &FlexTensor) -> &[Self] {
                tensor
                    .as_slice()
                    .unwrap_or_else(|| panic!("not a contiguous tensor of {}", stringify!($real)))
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

// ln 2 = 0x3f317200 (16 digits) + rest. The coefficients are a minimax fit from a linear program with the first two
// fixed at 1 (error 4.4e-9 of eʳ). The tail of the normal distribution is interpolated at Chebyshev's points (error
// 1.9e-8 of it; f64: 1.8e-17).
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
