//! Reads values of configuration files. Every error names the key.

use serde_json::{Map, Value};

use crate::models::vit::Activation;

/// Values of a JSON object.
pub struct Fields<'a>(pub &'a Map<String, Value>);

impl Fields<'_> {
    /// The value of a key that is present and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|v| !v.is_null())
    }

    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>, String> {
        self.get(key).map(|v| as_size(v).ok_or_else(|| expected(key, "a whole number", v))).transpose()
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let finite = |v: &Value| v.as_f64().filter(|n| n.is_finite());
        self.get(key).map(|v| finite(v).ok_or_else(|| expected(key, "a number", v))).transpose()
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        self.get(key).map(|v| v.as_bool().ok_or_else(|| expected(key, "true or false", v))).transpose()
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, String> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| expected(key, "a text", v))).transpose()
    }

    /// One number for both sides, or height and width.
    pub(crate) fn pair(&self, key: &str) -> Result<Option<[usize; 2]>, String> {
        let pair = |v: &Value| match v {
            Value::Array(sides) => match sides.as_slice() {
                [side] => as_size(side).map(|n| [n, n]),
                [height, width] => Some([as_size(height)?, as_size(width)?]),
                _ => None,
            },
            v => as_size(v).map(|n| [n, n]),
        };
        self.get(key).map(|v| pair(v).ok_or_else(|| expected(key, "one or two whole numbers", v))).transpose()
    }

    /// A list of whole numbers.
    pub(crate) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, String> {
        let sizes = |v: &Value| v.as_array()?.iter().map(as_size).collect::<Option<Vec<_>>>();
        self.get(key).map(|v| sizes(v).ok_or_else(|| expected(key, "a list of whole numbers", v))).transpose()
    }

    /// Numbers in a list, or one number.
    pub(crate) fn numbers(&self, key: &str) -> Result<Option<Vec<f32>>, String> {
        let numbers = |v: &Value| match v {
            Value::Array(items) => items.iter().map(|v| v.as_f64().map(|n| n as f32)).collect(),
            v => v.as_f64().map(|n| vec![n as f32]),
        };
        self.get(key).map(|v| numbers(v).ok_or_else(|| expected(key, "a list of numbers", v))).transpose()
    }
}

fn as_size(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok()
}

/// The error text for a `key` with an unexpected value.
pub(crate) fn expected(key: &str, what: &str, found: &Value) -> String {
    let found: String = found.to_string().chars().take(80).collect();
    format!("`{key}` should be {what}, found {found}")
}

/// The ratio `F / D`, adjusted if needed so that `floor(D * ratio)` is exactly `F`.
pub(crate) fn mlp_ratio(hidden: usize, width: usize) -> f64 {
    let ratio = hidden as f64 / width.max(1) as f64;
    match (width as f64 * ratio) as usize == hidden {
        true => ratio,
        false => (hidden as f64 + 0.5) / width.max(1) as f64,
    }
}

/// The activation with this name in timm or Hugging Face.
pub(crate) fn activation(key: &str, name: &str) -> Result<Activation, String> {
    Ok(match name {
        "gelu" | "GELU" => Activation::Gelu,
        "gelu_tanh" | "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
        "quick_gelu" | "quickgelu" => Activation::QuickGelu,
        "relu" | "ReLU" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        other => return Err(format!("`{key}`: unknown activation `{other}`")),
    })
}
