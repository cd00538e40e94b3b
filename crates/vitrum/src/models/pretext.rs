//! Methods of pretraining without labels: what each makes of a model.

use super::mae::MaeConfig;
use super::mim::MimConfig;
use super::vit::{GlobalPool, PosEmbed, VitConfig, WeightInit};
use super::{Config, ConfigError, ModelConfig};

/// A method: its name, and the model that pretrains another by it.
type Method = (&'static str, fn(VitConfig) -> ModelConfig);

/// Every method.
const METHODS: [Method; 3] = [
    ("mae", |vit| {
        let vit =
            VitConfig { pos_embed: PosEmbed::SinCos2dMae, weight_init: WeightInit::Mae, ..without_head(vit) };
        MaeConfig { vit, ..MaeConfig::default() }.into()
    }),
    ("mpp", |vit| MimConfig::mpp(without_head(vit)).into()),
    ("simmim", |vit| {
        let config = MimConfig::simmim(without_head(vit));
        let [p, _] = config.vit.patch_size;
        // Squares of 32 pixels of 192; smaller images have smaller squares, of at least a patch.
        let side = (config.vit.img_size[0] / 6 / p * p).clamp(p, 32.max(p));
        MimConfig { mask_patch_size: Some(side), ..config }.into()
    }),
];

/// The names of the methods.
pub fn methods() -> impl Iterator<Item = &'static str> {
    METHODS.iter().map(|(name, _)| *name)
}

/// The model that pretrains `model` by this method. A model of the method is returned as it is.
///
/// # Errors
/// [`ConfigError::Field`]: an unknown method, or a model that the method cannot pretrain.
pub fn pretrained_by(method: &str, model: ModelConfig) -> Result<ModelConfig, ConfigError> {
    let refuse = |reason: String| Err(ConfigError::Field { field: "method", reason });
    let Some((_, make)) = METHODS.iter().find(|(name, _)| *name == method) else {
        let known: Vec<&str> = methods().collect();
        return refuse(format!("`{method}` is not known: want {}", known.join(", ")));
    };
    if model.method() == Some(method) {
        return Ok(model);
    }
    let family = model.family();
    match VitConfig::try_from(model) {
        Ok(vit) => Ok(make(vit)),
        Err(_) => refuse(format!("`{method}` pretrains a vit, not a {family}")),
    }
}

/// The encoder: the norm follows its blocks, and it has no head.
fn without_head(vit: VitConfig) -> VitConfig {
    let (global_pool, fc_norm) = match vit.class_token {
        true => (GlobalPool::Token, None),
        false => (GlobalPool::Avg, Some(false)),
    };
    VitConfig { num_classes: 0, representation_size: None, global_pool, fc_norm, ..vit }
}
