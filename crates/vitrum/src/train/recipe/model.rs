//! The model that a recipe trains.

use serde_json::json;

use super::check::field;
use super::{Recipe, RecipeError};
use crate::layers::pool::GlobalPool;
use crate::models::pretext::pretrained_by;
use crate::models::{Config, ConfigError, ModelConfig, catalogue};
use crate::train::Task;

impl Recipe {
    /// The catalogue's configuration of `model` with what the recipe says of it laid over. `num_classes` is the
    /// data's number of classes, which the recipe's own goes before.
    ///
    /// # Errors
    /// [`RecipeError::Field`] for an unknown name or field, and for a configuration that makes no model.
    pub fn model_config(&self, num_classes: Option<usize>) -> Result<ModelConfig, RecipeError> {
        let named = ModelConfig::named(&self.model);
        let base = named.map_err(|error| field("model", format!("names an {error}")))?;
        let built = |error: ConfigError| match error {
            ConfigError::Field { field: name, reason } => {
                field("model", format!("cannot be built: {name} {reason}"))
            }
            other => field("model", format!("cannot be built: {other}")),
        };
        let config = self
            .edit(base)?
            .with_some("num_classes", self.num_classes.or(num_classes))
            .and_then(|config| config.with_some("in_chans", self.in_chans))
            .and_then(|config| config.with_some("img_size", self.img_size.map(|size| size.0)))
            .map_err(built)?;
        let config = match self.global_pool()? {
            Some(pool) => config.with_argument("global_pool", json!(pool)).map_err(built)?,
            None => config,
        };
        config.validate().map_err(built)?;
        Ok(config)
    }

    /// Whether `model` is a name of the catalogue; else it is a place of weights to begin from.
    pub fn is_named(&self) -> bool {
        catalogue::entry(&self.model).is_ok()
    }

    /// The pooling asked for.
    ///
    /// # Errors
    /// [`RecipeError::Field`] for a name nobody knows.
    pub fn global_pool(&self) -> Result<Option<GlobalPool>, RecipeError> {
        let Some(pool) = &self.gp else { return Ok(None) };
        serde_json::from_value(json!(pool))
            .map(Some)
            .map_err(|_| field("gp", format!("'{pool}' is not known: want token, avg, max, avgmax, map")))
    }

    /// The named model for pretraining, if the weights are those of an encoder: its method and its decoder hold.
    fn named_for_pretraining(&self, base: &ModelConfig) -> Option<&'static ModelConfig> {
        let pretrains = self.task().is_ok_and(|task| task == Task::Pretrain);
        if !pretrains || base.method().is_some() {
            return None;
        }
        let named = &catalogue::entry(&self.model).ok()?.config;
        named.method().filter(|method| self.method.as_deref().is_none_or(|asked| asked == *method))?;
        Some(named)
    }

    /// A configuration with `model_kwargs` and the rates of dropping laid over.
    ///
    /// # Errors
    /// [`RecipeError::Field`] for a field the family does not have or a value of the wrong kind.
    pub fn edit(&self, base: ModelConfig) -> Result<ModelConfig, RecipeError> {
        let wrong = |name: &'static str, error: ConfigError| match error {
            ConfigError::UnknownField { field: key, family, nearest } => {
                // A rate's field is not the user's word, so a similar one is not what the user meant.
                let nearest = nearest.filter(|_| name == "model_kwargs");
                let meant = nearest.map(|name| format!("\nhint: did you mean '{name}'?"));
                let meant = meant.unwrap_or_default();
                field(name, format!("asks for '{key}', which a {family} does not have{meant}"))
            }
            other => field(name, other.to_string()),
        };
        let named = self.named_for_pretraining(&base);
        let method = self.method.as_deref().or(named.and_then(Config::method));
        let mut config = match method {
            Some(method) => {
                let positions = base.field("pos_embed").filter(|_| self.pretrained.is_some());
                let config =
                    pretrained_by(method, base).map_err(|error| field("method", error.to_string()))?;
                // Positions that were learned stay so.
                config.with_some("pos_embed", positions).map_err(|error| wrong("method", error))?
            }
            None => base,
        };
        for (name, value) in [
            ("mask_ratio", self.mask_ratio.map(|value| json!(value))),
            ("norm_pix_loss", self.norm_pix_loss.map(|value| json!(value))),
            ("decoder_embed_dim", self.decoder_embed_dim.map(|value| json!(value))),
            ("decoder_depth", self.decoder_depth.map(|value| json!(value))),
            ("decoder_num_heads", self.decoder_num_heads.map(|value| json!(value))),
        ] {
            if let Some(value) = value.or_else(|| named?.field(name)) {
                config = config.with(name, value).map_err(|error| wrong(name, error))?;
            }
        }
        for (key, value) in &self.model_kwargs {
            let value =
                serde_json::to_value(value).map_err(|e| field("model_kwargs", format!("{key}: {e}")))?;
            config = config.with_argument(key, value).map_err(|error| wrong("model_kwargs", error))?;
        }
        for (name, key, rate) in [
            ("drop", "drop_rate", self.drop),
            ("proj_drop", "proj_drop_rate", self.proj_drop),
            ("attn_drop", "attn_drop_rate", self.attn_drop),
            ("pos_drop", "pos_drop_rate", self.pos_drop),
            ("patch_drop", "patch_drop_rate", self.patch_drop),
            ("drop_path", "drop_path_rate", self.drop_path),
        ] {
            if rate > 0.0 {
                config = config.with(key, json!(rate)).map_err(|error| wrong(name, error))?;
            }
        }
        Ok(config)
    }
}
