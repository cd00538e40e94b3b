//! The models of a server, by name. A reload builds the new model first and then exchanges it; requests that hold the old
//! one are answered by it.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::batcher::BatcherError;
use crate::config::{ModelSpec, ServerConfig};
use crate::error::ApiError;
use crate::served::{ServeModelError, Served};
use crate::threads::with_large_stack;

/// A model that was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// No models.
    #[error("a server needs at least one model")]
    None,
    /// Two models have one name.
    #[error("two models have the name '{0}'")]
    Twice(String),
    /// No model has this name.
    #[error("no model '{0}'")]
    Unknown(String),
    /// Loading failed.
    #[error("{name}: {source}")]
    Model {
        /// The model's name.
        name: String,
        /// Why.
        source: Box<ServeModelError>,
    },
}

/// A name, how its model is loaded, and the model that answers now.
struct Place {
    spec: ModelSpec,
    served: ArcSwap<Served>,
}

/// The models of a server. The first one is the default.
pub struct Models {
    places: Vec<Place>,
    config: ServerConfig,
    /// One reload at a time.
    reloading: Mutex<()>,
}

impl Models {
    /// Loads all models, one after the other.
    ///
    /// # Errors
    /// [`ModelsError`].
    pub fn load(specs: Vec<ModelSpec>, config: &ServerConfig) -> Result<Self, ModelsError> {
        if specs.is_empty() {
            return Err(ModelsError::None);
        }
        let mut places: Vec<Place> = Vec::with_capacity(specs.len());
        for spec in specs {
            if places.iter().any(|place| place.spec.name == spec.name) {
                return Err(ModelsError::Twice(spec.name));
            }
            let served = ArcSwap::new(start(&spec, config)?);
            places.push(Place { spec, served });
        }
        Ok(Self { places, config: config.clone(), reloading: Mutex::new(()) })
    }

    /// The names, the default first.
    pub fn names(&self) -> Vec<String> {
        self.places.iter().map(|place| place.spec.name.clone()).collect()
    }

    /// The models that answer now, the default first.
    pub fn all(&self) -> Vec<Arc<Served>> {
        self.places.iter().map(|place| place.served.load_full()).collect()
    }

    /// The model of this name; without a name, the default.
    ///
    /// # Errors
    /// [`ApiError::UnknownModel`].
    pub fn get(&self, name: Option<&str>) -> Result<Arc<Served>, ApiError> {
        let is_asked = |place: &&Place| name.is_none_or(|name| place.spec.name == name);
        let unknown =
            || ApiError::UnknownModel { name: name.unwrap_or_default().to_string(), known: self.names() };
        self.places.iter().find(is_asked).map(|place| place.served.load_full()).ok_or_else(unknown)
    }

    /// Loads a model anew, or all of them. What waits for the old one is answered by it. If one fails, it and those after
    /// it stay as they are. Takes as long as loading; not for threads of the runtime.
    ///
    /// # Errors
    /// [`ModelsError::Unknown`], [`ModelsError::Model`].
    pub fn reload(&self, name: Option<&str>) -> Result<(), ModelsError> {
        let _one = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let is_asked = |place: &&Place| name.is_none_or(|name| place.spec.name == name);
        let places: Vec<&Place> = self.places.iter().filter(is_asked).collect();
        match name {
            Some(name) if places.is_empty() => return Err(ModelsError::Unknown(name.to_string())),
            _ => {}
        }
        for place in places {
            // The old model closes its queue when the last request that holds it has its answer.
            place.served.store(start(&place.spec, &self.config)?);
            tracing::info!(model = place.spec.name, "loaded anew");
        }
        Ok(())
    }

    /// Computes what waits, and ends the threads of all models. For a thread that may wait.
    pub fn drain(&self) {
        self.all().iter().for_each(|served| served.drain());
    }
}

fn start(spec: &ModelSpec, config: &ServerConfig) -> Result<Arc<Served>, ModelsError> {
    let start = || {
        let loaded = (spec.loader)().map_err(ServeModelError::Load)?;
        Served::start(&spec.name, loaded, config)
    };
    let failed = |source| ModelsError::Model { name: spec.name.clone(), source: Box::new(source) };
    let started =
        with_large_stack(&spec.name, start).map_err(|error| failed(BatcherError::from(error).into()))?;
    started.map(Arc::new).map_err(failed)
}
