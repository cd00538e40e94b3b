//! The model that a recipe trains.

use serde_json::{Value, json};

use super::check::field;
use super::{Recipe, RecipeError, nearest};
use crate::models::vit::GlobalPool;
use crate::models::{ConfigError, ModelConfig, VitConfig, catalogue};

impl Recipe {
    /// The catalogue's configuration of `model` with what the recipe says of it laid over. `num_classes` is the
    /// data's number of classes, which the recipe's own goes before.
    ///
    /// # Errors
    /// [`RecipeError::Field`] for a name or field nobody knows, and for a configuration that makes no model.
    pub fn model_config(&self, num_classes: Option<usize>) -> Result<ModelConfig, RecipeError> {
        let named = ModelConfig::named(&self.model);
        let ModelConfig::Vit(base) = named.map_err(|error| field("model", format!("names an {error}")))?;
        let mut config = self.edit(base)?;
        let set = |place: &mut usize, value: Option<usize>| *place = value.unwrap_or(*place);
        set(&mut config.num_classes, self.num_classes.or(num_classes));
        set(&mut config.in_chans, self.in_chans);
        config.img_size = self.img_size.map_or(config.img_size, |size| size.0);
        config.global_pool = self.global_pool()?.unwrap_or(config.global_pool);
        config.validate().map_err(|error| match error {
            ConfigError::Field { field: name, reason } => {
                field("model", format!("cannot be built: {name} {reason}"))
            }
            other => field("model", format!("cannot be built: {other}")),
        })?;
        Ok(ModelConfig::Vit(config))
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

    /// A configuration with `model_kwargs` and the rates of dropping laid over.
    ///
    /// # Errors
    /// [`RecipeError::Field`] for a field nobody knows or a value of the wrong kind.
    pub fn edit(&self, base: VitConfig) -> Result<VitConfig, RecipeError> {
        let mut config = self.with_kwargs(base)?;
        for (place, rate) in [
            (&mut config.drop_rate, self.drop),
            (&mut config.proj_drop_rate, self.proj_drop),
            (&mut config.attn_drop_rate, self.attn_drop),
            (&mut config.pos_drop_rate, self.pos_drop),
            (&mut config.patch_drop_rate, self.patch_drop),
            (&mut config.drop_path_rate, self.drop_path),
        ] {
            if rate > 0.0 {
                *place = rate;
            }
        }
        Ok(config)
    }

    fn with_kwargs(&self, base: VitConfig) -> Result<VitConfig, RecipeError> {
        let wrong = |reason: String| field("model_kwargs", reason);
        let mut fields = match serde_json::to_value(&base) {
            Ok(Value::Object(fields)) => fields,
            _ => return Ok(base),
        };
        for (key, value) in &self.model_kwargs {
            let Some(place) = fields.get_mut(key) else {
                let names: Vec<String> = fields.keys().cloned().collect();
                let meant = nearest(key, &names).map(|name| format!("\nhint: did you mean '{name}'?"));
                return Err(wrong(format!("has no field '{key}'{}", meant.unwrap_or_default())));
            };
            let value = serde_json::to_value(value).map_err(|e| wrong(format!("{key}: {e}")))?;
            *place = match (&*place, value) {
                // One number stands for both sides.
                (Value::Array(_), Value::Number(side)) => json!([side, side]),
                // TOML has no null.
                (_, Value::String(text)) if text == "none" && !matches!(key.as_str(), "pos_embed") => {
                    Value::Null
                }
                (_, value) => value,
            };
            // One at a time, so that the error names the field.
            let so_far = Value::Object(fields.clone());
            serde_json::from_value::<VitConfig>(so_far).map_err(|e| wrong(format!("{key}: {e}")))?;
        }
        serde_json::from_value(Value::Object(fields)).map_err(|e| wrong(e.to_string()))
    }
}
