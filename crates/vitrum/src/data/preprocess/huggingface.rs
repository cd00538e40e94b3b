//! Hugging Face's preprocessing: `preprocessor_config.json`, and the image part of `processor_config.json`.
//!
//! A file may omit its class's defaults in transformers; older files omit more. A value that neither file nor class
//! gives is an error, and so are unsupported steps.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{CropMode, IMAGENET_MEAN, IMAGENET_STD, MAX_INPUT_SIDE, Preprocess, PreprocessError};
use crate::data::resize::Interpolation;

/// Defaults of an image processor class in transformers.
struct Class {
    /// The beginning of its name, before `ImageProcessor`, `ImageProcessorFast` or `FeatureExtractor`.
    name: &'static str,
    /// Whether a single number as size means both sides instead of the shorter one.
    square: bool,
    /// Default of `size`: height and width, or the shorter side.
    size: usize,
    /// Default of `crop_size`, if the class crops.
    crop: Option<usize>,
    /// Default of `resample`, as Pillow's number.
    resample: u64,
    mean: [f32; 3],
    std: [f32; 3],
}

const HALF: [f32; 3] = [0.5; 3];
const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// transformers 5.24, `models/*/image_processing_*.py`.
const CLASSES: [Class; 8] = [
    Class { name: "ViT", square: true, size: 224, crop: None, resample: 2, mean: HALF, std: HALF },
    Class { name: "DeiT", square: true, size: 256, crop: Some(224), resample: 3, mean: HALF, std: HALF },
    Class { name: "Beit", square: true, size: 224, crop: None, resample: 3, mean: HALF, std: HALF },
    Class { name: "Siglip", square: true, size: 224, crop: None, resample: 3, mean: HALF, std: HALF },
    Class {
        name: "Bit",
        square: false,
        size: 224,
        crop: Some(224),
        resample: 3,
        mean: CLIP_MEAN,
        std: CLIP_STD,
    },
    Class {
        name: "CLIP",
        square: false,
        size: 224,
        crop: Some(224),
        resample: 3,
        mean: CLIP_MEAN,
        std: CLIP_STD,
    },
    Class { name: "ConvNext", square: false, size: 384, crop: None, resample: 3, mean: HALF, std: HALF },
    Class {
        name: "DINOv3ViT",
        square: true,
        size: 224,
        crop: None,
        resample: 2,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
    },
];

/// Fields that are read, and fields that do not change the numbers.
const KNOWN: [&str; 28] = [
    "size",
    "crop_size",
    "crop_pct",
    "resample",
    "rescale_factor",
    "image_mean",
    "image_std",
    "do_resize",
    "do_center_crop",
    "do_rescale",
    "do_normalize",
    "default_to_square",
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "do_convert_rgb",
    "do_reduce_labels",
    "reduce_labels",
    "data_format",
    "input_data_format",
    "return_tensors",
    "disable_grouping",
    "device",
    "num_channels",
    "auto_map",
    "_valid_processor_keys",
    "transformers_version",
    "image_seq_length",
];

impl Preprocess {
    /// Reads Hugging Face's `preprocessor_config.json` of a model with `channels` channels.
    ///
    /// A resize to `size` (`ViTImageProcessor`) is `squash` without a crop. `shortest_edge` with a centre crop
    /// (CLIP, DINOv2) or `crop_pct` (ConvNeXT) is `center`. `height` and `width` with a centre crop (DeiT) is
    /// `squash` with one. Missing fields take the defaults of the file's class in transformers; without a class
    /// they are an error. Another `rescale_factor`, and steps that are switched off, change mean and deviation.
    ///
    /// # Errors
    /// [`PreprocessError::HuggingFace`] if the file is invalid, [`PreprocessError::NotKnown`] if it is incomplete
    /// or asks for unsupported steps, and those of [`check`](Self::check).
    pub fn from_huggingface(json: &str, channels: usize) -> Result<Self, PreprocessError> {
        let fields: Map<String, Value> =
            serde_json::from_str(json).map_err(|error| PreprocessError::HuggingFace(error.to_string()))?;
        Self::from_processor(&fields, channels).map(|(preprocess, _)| preprocess)
    }

    /// As [`from_huggingface`](Self::from_huggingface), with notes on the fields for the user.
    ///
    /// # Errors
    /// Those of [`from_huggingface`](Self::from_huggingface).
    pub fn from_processor(
        fields: &Map<String, Value>,
        channels: usize,
    ) -> Result<(Self, Vec<String>), PreprocessError> {
        let fields = Processor { fields, class: class_of(fields) };
        if !matches!(channels, 1 | 3) {
            return not_known(format!("images of {channels} channels are not supported"));
        }
        let notes = fields.unknown_words()?;
        if fields.get("do_resize")? == Some(false) {
            return not_known("`do_resize` is false");
        }
        let (crop_mode, [height, width], crop_pct) = fields.geometry()?;
        let interpolation = fields.interpolation()?;
        let (mean, std) = fields.levels(channels)?;
        let input_size = [channels, height, width];
        let preprocess = Self { input_size, interpolation, crop_pct, crop_mode, mean, std };
        preprocess.check()?;
        Ok((preprocess, notes))
    }
}

fn not_known<T>(why: impl Into<String>) -> Result<T, PreprocessError> {
    Err(PreprocessError::NotKnown(why.into()))
}

/// The class in the file.
fn class_of(fields: &Map<String, Value>) -> Option<&'static Class> {
    let name = class_name(fields)?;
    let stem = ["ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"]
        .iter()
        .find_map(|end| name.strip_suffix(end))?;
    CLASSES.iter().find(|class| class.name == stem)
}

fn class_name(fields: &Map<String, Value>) -> Option<&str> {
    ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| fields.get(*key)?.as_str())
}

/// The fields of a processor, and the class with its defaults.
struct Processor<'a> {
    fields: &'a Map<String, Value>,
    class: Option<&'static Class>,
}

impl Processor<'_> {
    /// A field that is present and not null.
    fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, PreprocessError> {
        let Some(value) = self.fields.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        let wrong = |error| PreprocessError::HuggingFace(format!("`{key}`: {error}"));
        T::deserialize(value).map(Some).map_err(wrong)
    }

    /// A field, or its default in the class.
    fn required<T: DeserializeOwned>(
        &self,
        key: &str,
        default: impl FnOnce(&Class) -> Option<T>,
    ) -> Result<T, PreprocessError> {
        let value = match self.get(key)? {
            Some(value) => Some(value),
            None => self.class.and_then(default),
        };
        value.ok_or_else(|| PreprocessError::NotKnown(format!("`{key}` is missing")))
    }

    /// Notes on unknown fields. One that switches a step on is refused.
    fn unknown_words(&self) -> Result<Vec<String>, PreprocessError> {
        let mut notes = Vec::new();
        if let (Some(name), None) = (class_name(self.fields), self.class) {
            notes.push(format!("`{name}` is not known; its fields are taken as they stand"));
        }
        let plain = |value: &Value| matches!(value, Value::Null | Value::Bool(false));
        for (key, value) in self.fields.iter().filter(|(key, _)| !KNOWN.contains(&key.as_str())) {
            match value {
                value if plain(value) => {}
                Value::Bool(true) => {
                    return not_known(format!("`{key}` is true, a step that is not known here"));
                }
                _ => notes.push(format!("`{key}` is not known, and changes nothing here")),
            }
        }
        notes.truncate(8);
        Ok(notes)
    }

    /// The crop mode, height and width of the input, and the share that the crop keeps.
    fn geometry(&self) -> Result<(CropMode, [usize; 2], f64), PreprocessError> {
        let own = |class: &Class| Some(Value::from(class.size));
        let square = self.get("default_to_square")?.or(self.class.map(|class| class.square)).unwrap_or(true);
        let size = HfSize::read("size", &self.required("size", own)?, square)?;
        let crop = self.crop()?;
        let differ = |[h, w]: [usize; 2], [crop_h, crop_w]: [usize; 2]| {
            not_known(format!("a size of {h} x {w} and a crop of {crop_h} x {crop_w} differ in shape"))
        };
        Ok(match (size, crop, self.crop_pct()?) {
            (HfSize::Sides(sides), None, _) => (CropMode::Squash, sides, 1.0),
            (HfSize::Sides(sides @ [h, w]), Some(crop), _) if crop[0] * w != crop[1] * h => {
                return differ(sides, crop);
            }
            (HfSize::Sides([h, _]), Some(crop), _) => (CropMode::Squash, crop, share(crop[0], h)),
            (HfSize::ShortestEdge(edge), Some(crop), _) if crop[0] != crop[1] => {
                return differ([edge, edge], crop);
            }
            (HfSize::ShortestEdge(edge), Some(crop), _) => (CropMode::Center, crop, share(crop[0], edge)),
            // ConvNextImageProcessor: below 384, resize to size / crop_pct and crop; from 384 on, squash.
            (HfSize::ShortestEdge(edge), None, Some(pct)) if edge < 384 => {
                (CropMode::Center, [edge, edge], pct)
            }
            (HfSize::ShortestEdge(edge), None, Some(_)) => (CropMode::Squash, [edge, edge], 1.0),
            (HfSize::ShortestEdge(_), None, None) => {
                return not_known("`shortest_edge` without a crop leads to no fixed size");
            }
        })
    }

    /// Height and width of the centre crop; `None` if nothing is cropped.
    fn crop(&self) -> Result<Option<[usize; 2]>, PreprocessError> {
        let own = self.class.is_some_and(|class| class.crop.is_some());
        if !self.get("do_center_crop")?.unwrap_or(own) {
            return Ok(None);
        }
        let size = self.required("crop_size", |class| class.crop.map(Value::from))?;
        Ok(Some(HfSize::read("crop_size", &size, true)?.sides()))
    }

    /// ConvNeXT's share; other classes do not have this field.
    fn crop_pct(&self) -> Result<Option<f64>, PreprocessError> {
        match self.class {
            Some(class) if class.name != "ConvNext" => Ok(None),
            Some(_) => Ok(Some(self.get("crop_pct")?.unwrap_or(224.0 / 256.0))),
            None => self.get("crop_pct"),
        }
    }

    /// Pillow's number or name of a filter.
    fn interpolation(&self) -> Result<Interpolation, PreprocessError> {
        let value: Value = self.required("resample", |class| Some(Value::from(class.resample)))?;
        let found = match &value {
            Value::String(name) => Interpolation::of_name(&name.to_lowercase()),
            code => code.as_u64().and_then(Interpolation::of_pillow_code),
        };
        let wrong = || format!("`resample` is {value}, expected the number of a filter of Pillow, 0 to 5");
        found.ok_or_else(|| PreprocessError::HuggingFace(wrong()))
    }

    /// Mean and deviation on the scale 0 to 1, for a level `x` of 0 to 255. The file's `(x·factor - mean) / std`
    /// equals `(x/255 - mean/(255·factor)) / (std/(255·factor))`.
    fn levels(&self, channels: usize) -> Result<(Vec<f32>, Vec<f32>), PreprocessError> {
        let (mean, std) = match self.get("do_normalize")? {
            Some(false) => (vec![0.0; channels], vec![1.0; channels]),
            _ => (
                self.per_channel("image_mean", channels, |class| class.mean)?,
                self.per_channel("image_std", channels, |class| class.std)?,
            ),
        };
        let factor: f64 = match self.get("do_rescale")? {
            Some(false) => 1.0,
            _ => self.get("rescale_factor")?.unwrap_or(1.0 / 255.0),
        };
        if !(factor.is_finite() && factor > 0.0) {
            return Err(PreprocessError::HuggingFace(format!(
                "`rescale_factor` is {factor}, expected a number above 0"
            )));
        }
        let scale = 255.0 * factor;
        if (scale - 1.0).abs() <= 1e-6 {
            return Ok((mean, std)); // 1/255, with as many digits as the file has
        }
        let scaled = |values: Vec<f32>| values.into_iter().map(|v| (f64::from(v) / scale) as f32).collect();
        Ok((scaled(mean), scaled(std)))
    }

    /// A number per channel, or one for all.
    fn per_channel(
        &self,
        key: &str,
        channels: usize,
        default: fn(&Class) -> [f32; 3],
    ) -> Result<Vec<f32>, PreprocessError> {
        let own = |class: &Class| (channels == 3).then(|| Value::from(default(class).to_vec()));
        let value = self.required(key, own)?;
        let wrong = |error| PreprocessError::HuggingFace(format!("`{key}`: {error}"));
        match value {
            Value::Array(values) if values.len() == 1 => {
                Ok(vec![serde_json::from_value(values[0].clone()).map_err(wrong)?; channels])
            }
            value @ Value::Array(_) => serde_json::from_value(value).map_err(wrong),
            value => Ok(vec![serde_json::from_value(value).map_err(wrong)?; channels]),
        }
    }
}

/// A share of about `crop / size` with `floor(crop / share) == size`.
fn share(crop: usize, size: usize) -> f64 {
    let exact = crop as f64 / size as f64;
    if (crop as f64 / exact).floor() as usize == size { exact } else { crop as f64 / (size as f64 + 0.5) }
}

/// `224`, `[224, 224]`, `{"height": 224, "width": 224}` or `{"shortest_edge": 224}`.
enum HfSize {
    Sides([usize; 2]),
    ShortestEdge(usize),
}

impl HfSize {
    /// Parses a size. One number is both sides if `square`, otherwise the shorter one.
    fn read(key: &str, value: &Value, square: bool) -> Result<Self, PreprocessError> {
        let side = |value: &Value| {
            let side = usize::try_from(value.as_u64()?).ok()?;
            (1..=MAX_INPUT_SIDE).contains(&side).then_some(side)
        };
        let sides = |height, width| Some(Self::Sides([side(height)?, side(width)?]));
        let found = match value {
            Value::Array(values) if values.len() == 2 => sides(&values[0], &values[1]),
            Value::Object(fields) => {
                let get = |key: &str| fields.get(key).filter(|value| !value.is_null());
                let limits = ["longest_edge", "max_height", "max_width"];
                if let Some(limit) = limits.into_iter().find(|limit| get(limit).is_some()) {
                    return not_known(format!("`{limit}` in `{key}` makes the size depend on the picture"));
                }
                match (get("height"), get("width"), get("shortest_edge")) {
                    (Some(height), Some(width), None) => sides(height, width),
                    (None, None, Some(edge)) => side(edge).map(Self::ShortestEdge),
                    _ => None,
                }
            }
            value if square => sides(value, value),
            value => side(value).map(Self::ShortestEdge),
        };
        found.ok_or_else(|| {
            let mut found = value.to_string();
            found.truncate(found.floor_char_boundary(80));
            PreprocessError::HuggingFace(format!(
                "`{key}` is {found}, expected height and width, or shortest_edge"
            ))
        })
    }

    fn sides(&self) -> [usize; 2] {
        match *self {
            Self::Sides(sides) => sides,
            Self::ShortestEdge(edge) => [edge, edge],
        }
    }
}
