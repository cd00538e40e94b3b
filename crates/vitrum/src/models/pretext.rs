//! Methods of pretraining without labels: what each makes of a model.

use super::mae::MaeConfig;
use super::vit::{GlobalPool, PosEmbed, VitConfig, WeightInit};
use super::{Config, ConfigError, ModelConfig};

/// A method: its name, and the model that pretrains another by it.
type Method = (&'static str, fn(VitConfig) -> ModelConfig);

/// Every method.
const METHODS: [Method; 1] = [("mae", |vit| {
    let sincos =
        VitConfig { pos_embed: PosEmbed::SinCos2dMae, weight_init: WeightInit::Mae, ..without_head(vit) };
    MaeConfig { vit: sincos, ..MaeConfig::default() }.into()
})];

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
    VitConfig {
        num_classes: 0,
        representation_size: None,
        global_pool: GlobalPool::Token,
        fc_norm: None,
        ..vit
    }
}
