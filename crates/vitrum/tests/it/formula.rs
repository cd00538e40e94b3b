//! Weights and images as a fixed formula of (key name, index): the twin of `fixtures/formula.py`.
//!
//! Golden files hold outputs alone; the weights that led to them are computed here, keyed by the
//! source library's names. Integer operations and + - * / sqrt on f64 only, rounded to f32 last,
//! so both languages agree to the bit.

/// FNV-1a, 64 bits.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

/// Endless values in [-1, 1): splitmix64 (Steele, Lea, Flood 2014) seeded by the key, top 53 bits.
fn uniform(key: &str) -> impl Iterator<Item = f64> {
    let mut state = fnv1a(key);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 11) as f64 * 2f64.powi(-53) * 2.0 - 1.0
    })
}

/// `numel` values in [-1, 1) of a key.
pub fn noise(key: &str, numel: usize) -> Vec<f64> {
    uniform(key).take(numel).collect()
}

/// A weight tensor in C order.
///
/// Two and more dimensions: standard deviation `numel^(-1/4)`. One dimension: `1 + u/2` for scales and
/// variances (key ending in `weight`, `gamma`, `scale`, `running_var`, `tau`), else `u/2`. Scalars: `u`.
pub fn weight(key: &str, shape: &[usize]) -> Vec<f32> {
    let numel = shape.iter().product::<usize>();
    let root = (numel as f64).sqrt().sqrt();
    let positive = ["weight", "gamma", "scale", "running_var", "tau"].iter().any(|end| key.ends_with(end));
    let scaled = |u: f64| match shape.len() {
        0 => u,
        1 if positive => 1.0 + 0.5 * u,
        1 => 0.5 * u,
        _ => u * 3f64.sqrt() / root,
    };
    uniform(key).take(numel).map(|u| scaled(u) as f32).collect()
}

/// A batch `[B, C, H, W]` in [-1, 1) times `scale`; the last image is almost constant, `0.3 + u/1000`.
pub fn images(shape: [usize; 4], scale: f64) -> Vec<f32> {
    let numel = shape.iter().product::<usize>();
    let last = numel - numel / shape[0];
    let value = |(i, u): (usize, f64)| if i < last { u } else { 0.3 + 1e-3 * u };
    uniform("input").take(numel).enumerate().map(|v| (value(v) * scale) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::{images, weight};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        weights: Vec<Weights>,
        images: Vec<Images>,
    }

    #[derive(Deserialize)]
    struct Weights {
        key: String,
        shape: Vec<usize>,
        bits: Vec<String>,
    }

    #[derive(Deserialize)]
    struct Images {
        shape: [usize; 4],
        scale: f64,
        bits: Vec<String>,
    }

    fn golden() -> Golden {
        serde_json::from_str(include_str!("../../../../fixtures/golden/formula.json")).unwrap()
    }

    fn bits(values: &[f32]) -> Vec<String> {
        values.iter().map(|v| format!("{:08x}", v.to_bits())).collect()
    }

    #[test]
    fn formula_weights_equal_python_to_the_bit() {
        let golden = golden();
        assert!(golden.weights.len() >= 12);
        for tensor in golden.weights {
            assert_eq!(bits(&weight(&tensor.key, &tensor.shape)), tensor.bits, "{:?}", tensor.key);
        }
    }

    #[test]
    fn formula_images_equal_python_to_the_bit() {
        let golden = golden();
        assert!(golden.images.len() >= 2);
        for batch in golden.images {
            assert_eq!(bits(&images(batch.shape, batch.scale)), batch.bits, "scale {}", batch.scale);
        }
    }
}
