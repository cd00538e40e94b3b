//! Parsers of flag values: sizes, pairs, shares, names.

/// Height and width in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub [usize; 2]);

/// `224` or `192x256` (height first).
pub fn parse_size(text: &str) -> Result<Size, String> {
    let number = |text: &str| match text.parse::<usize>() {
        Ok(0) | Err(_) => {
            Err(format!("'{text}' is not a number of pixels (want N or HxW, such as 224 or 192x256)"))
        }
        Ok(n) => Ok(n),
    };
    match text.split_once(['x', 'X', '×']) {
        Some((h, w)) => Ok(Size([number(h)?, number(w)?])),
        None => number(text).map(|n| Size([n, n])),
    }
}

pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(key, value)| (key.trim().to_string(), value.trim().to_string()))
        .ok_or_else(|| format!("'{text}' is not KEY=VALUE"))
}

pub fn parse_pool(text: &str) -> Result<vitrum::models::vit::GlobalPool, String> {
    serde_json::from_value(serde_json::Value::String(text.into()))
        .map_err(|_| "want token, avg, max, avgmax or map".to_string())
}

pub fn parse_precision(text: &str) -> Result<vitrum::models::Precision, String> {
    match text {
        "f32" => Ok(vitrum::models::Precision::F32),
        "bf16" => Ok(vitrum::models::Precision::Bf16),
        "int8" => Ok(vitrum::models::Precision::Int8),
        "f16" => Err("models do not run in f16, only in bf16; want f32, bf16 or int8".into()),
        _ => Err("want f32, bf16 or int8".into()),
    }
}

pub fn parse_pos_resize(text: &str) -> Result<vitrum::models::vit::PosResize, String> {
    serde_json::from_value(serde_json::Value::String(text.into())).map_err(|_| {
        "want bicubic_antialias, bicubic, bicubic_dino, bilinear, bilinear_aligned or nearest".to_string()
    })
}

pub fn parse_max_bad(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err(format!("'{text}' is neither a number of images nor a share below 1")),
    }
}

pub fn parse_tolerance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value >= 0.0 && value.is_finite() => Ok(value),
        _ => Err(format!("'{text}' is not a number of at least 0")),
    }
}

pub fn parse_percent(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err(format!("'{text}' is not a percentage, 0 to 100")),
    }
}
