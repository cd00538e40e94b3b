//! Parsers of flag values: sizes, devices, pairs, shares, names.

use std::ffi::OsStr;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};

use super::common::DeviceName;

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

/// The device's name, with possible values for help and completions.
#[derive(Clone)]
pub struct DeviceParser;

impl TypedValueParser for DeviceParser {
    type Value = DeviceName;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<DeviceName, clap::Error> {
        let parse = |text: &str| text.parse::<DeviceName>();
        StringValueParser::new().try_map(move |text| parse(&text)).parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(KNOWN.iter().map(|(_, name, help)| PossibleValue::new(*name).help(*help))))
    }
}

/// Devices with their names and what they are.
const KNOWN: [(DeviceName, &str, &str); 6] = [
    (DeviceName::Auto, "auto", "A CUDA GPU if this build and machine have one, otherwise the CPU"),
    (DeviceName::Cpu, "cpu", "The CPU"),
    (DeviceName::Cuda(0), "cuda", "An NVIDIA GPU; cuda:1 is the second (builds with the feature `cuda`)"),
    (DeviceName::Vulkan, "vulkan", "A GPU through Vulkan (builds with the feature `vulkan`)"),
    (DeviceName::Webgpu, "webgpu", "A GPU through WebGPU (builds with the feature `webgpu`)"),
    (
        DeviceName::Cubecpu,
        "cubecpu",
        "The GPU's kernels on the processor, for tests (builds with the feature `cubecpu`)",
    ),
];

impl Display for DeviceName {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match (KNOWN.iter().find(|(device, ..)| device == self), self) {
            (Some((_, name, _)), _) => f.write_str(name),
            (None, Self::Cuda(index)) => write!(f, "cuda:{index}"),
            (None, other) => write!(f, "{other:?}"),
        }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let name = name.to_lowercase();
        let known = KNOWN.iter().find(|(_, known, _)| *known == name).map(|(device, ..)| *device);
        let by_index =
            || name.strip_prefix("cuda:").and_then(|index| index.parse().ok()).map(DeviceName::Cuda);
        known.or_else(by_index).ok_or_else(|| {
            let names: Vec<&str> = KNOWN.iter().map(|(_, name, _)| *name).collect();
            format!("want {}, or cuda:N (the GPU's index)", names.join(", "))
        })
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
