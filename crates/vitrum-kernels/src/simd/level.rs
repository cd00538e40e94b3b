//! Which instructions are in use: one ladder of levels for floats, pairs in bf16 and integers.

#[cfg(target_arch = "aarch64")]
use std::arch::is_aarch64_feature_detected;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::Neon;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512, Avx512Bf16};
use super::{Kernel, Scalar, Simd};

/// The instruction sets that this crate has code for, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Avx512Bf16,
    Avx512Vnni,
    Avx512,
    AvxVnni,
    Avx2,
    Dotprod,
    Neon,
    /// Plain Rust, vectorised by the compiler only.
    Scalar,
}

/// What a level multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `f32` and `f64`.
    Floats,
    /// Pairs in bf16.
    Pairs,
    /// Eight-bit integers.
    Integers,
}

impl Level {
    const ALL: [Level; 8] = [
        Level::Avx512Bf16,
        Level::Avx512Vnni,
        Level::Avx512,
        Level::AvxVnni,
        Level::Avx2,
        Level::Dotprod,
        Level::Neon,
        Level::Scalar,
    ];

    /// The name for numbers of this kind; `None` if this level has no code of its own for them.
    fn name(self, kind: Kind) -> Option<&'static str> {
        match (kind, self) {
            (Kind::Pairs, Level::Avx512Bf16) => Some("avx512_bf16"),
            (Kind::Integers, Level::Avx512Vnni) => Some("avx512_vnni"),
            (Kind::Integers, Level::AvxVnni) => Some("avx_vnni"),
            (Kind::Integers, Level::Avx2) => Some("avx2"),
            (Kind::Integers, Level::Dotprod) => Some("dotprod"),
            (Kind::Floats | Kind::Pairs, Level::Avx512) => Some("avx512f"),
            (Kind::Floats | Kind::Pairs, Level::Avx2) => Some("avx2+fma"),
            (Kind::Floats | Kind::Pairs, Level::Neon) => Some("neon"),
            (_, Level::Scalar) => Some("scalar"),
            _ => None,
        }
    }

    /// Whether the processor has the instructions.
    fn is_detected(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => {
                is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw")
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Vnni => is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Level::AvxVnni => Level::Avx2.is_detected() && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "aarch64")]
            Level::Dotprod => is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => is_aarch64_feature_detected!("neon"),
            Level::Scalar => true,
            _ => false,
        }
    }

    /// The level of floats that this level builds on.
    fn floats(self) -> Level {
        match self {
            Level::Avx512Bf16 | Level::Avx512Vnni | Level::Avx512 => Level::Avx512,
            Level::AvxVnni | Level::Avx2 => Level::Avx2,
            Level::Dotprod | Level::Neon => Level::Neon,
            Level::Scalar => Level::Scalar,
        }
    }
}

impl Kind {
    /// The environment variable that lowers the level.
    fn variable(self) -> &'static str {
        match self {
            Kind::Floats => "VITRUM_SIMD",
            Kind::Pairs => "VITRUM_BF16",
            Kind::Integers => "VITRUM_INT8",
        }
    }

    /// The best available level, or the available one that the environment variable names.
    fn choose(self, is_allowed: impl Fn(Level) -> bool) -> Level {
        let is_available =
            |level: &Level| level.name(self).is_some() && level.is_detected() && is_allowed(*level);
        let available: Vec<Level> = Level::ALL.into_iter().filter(is_available).collect();
        let wanted = std::env::var(self.variable()).ok();
        let named = wanted.and_then(|wanted| {
            available.iter().copied().find(|level| level.name(self) == Some(wanted.as_str()))
        });
        named.or(available.first().copied()).unwrap_or(Level::Scalar)
    }
}

/// The levels in use.
struct Levels {
    floats: Level,
    pairs: Level,
    integers: Level,
}

fn levels() -> &'static Levels {
    static LEVELS: OnceLock<Levels> = OnceLock::new();
    LEVELS.get_or_init(|| {
        let floats = Kind::Floats.choose(|_| true);
        Levels {
            floats,
            // A packed matrix of pairs is as wide as one of floats, so both need the same registers.
            pairs: Kind::Pairs.choose(|level| level.floats() == floats),
            integers: Kind::Integers.choose(|level| level.floats() >= floats),
        }
    })
}

/// Runs a job at the best level for `f32` and `f64`.
pub(crate) fn run<J: Kernel>(job: J) -> J::Output {
    match levels().floats {
        // SAFETY: the processor has the instructions of the level in use (likewise below).
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { Avx512::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { Avx2::vectorize(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon => unsafe { Neon::vectorize(job) },
        // SAFETY: needs no special instructions.
        _ => unsafe { Scalar::vectorize(job) },
    }
}

/// Runs a job at the best level for pairs in bf16.
pub(crate) fn run_pairs<J: Kernel>(job: J) -> J::Output {
    match levels().pairs {
        // SAFETY: the processor has the instructions of the level in use.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512Bf16 => unsafe { Avx512Bf16::vectorize(job) },
        _ => run(job),
    }
}

/// The level of the integer products.
pub(crate) fn integer_level() -> Level {
    levels().integers
}

/// The instructions of the fast paths on this machine: `avx512f`, `avx2+fma`, `neon` or `scalar` (plain Rust,
/// vectorised by the compiler only). The environment variable `VITRUM_SIMD`, read once, can lower it.
pub fn simd_level() -> &'static str {
    name(Kind::Floats, levels().floats)
}

/// The instructions of products in bf16 on this machine: `avx512_bf16`, or [`simd_level`] where pairs are unpacked and
/// multiplied in `f32`. It never exceeds [`simd_level`]. The environment variable `VITRUM_BF16`, read once, can lower
/// it to [`simd_level`].
pub fn bf16_level() -> &'static str {
    name(Kind::Pairs, levels().pairs)
}

/// The instructions of the integer products on this machine: `avx512_vnni`, `avx_vnni`, `avx2`, `dotprod` or `scalar`.
/// It never exceeds [`simd_level`]; the environment variable `VITRUM_INT8`, read once, can lower it further. The
/// integers are the same at every level.
pub fn int8_level() -> &'static str {
    name(Kind::Integers, levels().integers)
}

fn name(kind: Kind, level: Level) -> &'static str {
    level.name(kind).unwrap_or("scalar")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_in_order_and_build_on_detected_ones() {
        assert!(Level::ALL.is_sorted());
        assert!(Level::ALL.map(Level::floats).is_sorted());
        let Levels { floats, pairs, integers } = levels();
        assert_eq!(pairs.floats(), *floats);
        assert!(integers.floats() >= *floats);
        for level in [*floats, *pairs, *integers] {
            assert!(level.is_detected() && level.floats().is_detected(), "{level:?}");
        }
    }
}
