//! Reading recipes, laying one over another, and the list of their keys.

use std::path::Path;

use serde::Deserialize;

use super::error::nearest;
use super::{Recipe, RecipeError};

/// Keys and values that override those of a recipe.
pub type Overlay = toml::Table;

/// Reads a recipe file.
///
/// # Errors
/// [`RecipeError`]: an I/O error, a syntax error, an unknown key or an invalid value.
pub fn read(path: &Path) -> Result<Overlay, RecipeError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| RecipeError::Io { path: path.to_path_buf(), source })?;
    parse(&text, &path.display().to_string())
}

/// Reads the text of a recipe; errors name `origin` as its source.
///
/// # Errors
/// [`RecipeError`]: a syntax error, an unknown key or an invalid value.
pub fn parse(text: &str, origin: &str) -> Result<Overlay, RecipeError> {
    let overlay: Overlay = toml::from_str(text)
        .map_err(|error| RecipeError::Syntax { origin: origin.into(), reason: error.to_string() })?;
    Recipe::default().with(&overlay, origin)?;
    Ok(overlay)
}

impl Recipe {
    /// This recipe with the values of `overlay`; errors name `origin` as their source.
    ///
    /// # Errors
    /// [`RecipeError::UnknownKey`], [`RecipeError::Value`].
    pub fn with(&self, overlay: &Overlay, origin: &str) -> Result<Self, RecipeError> {
        let known = keys();
        for key in overlay.keys() {
            if !known.contains(key) {
                let nearest = nearest(key, &known);
                return Err(RecipeError::UnknownKey { origin: origin.into(), key: key.clone(), nearest });
            }
        }
        let mut recipe = self.clone();
        for (key, value) in overlay {
            let mut table = recipe.to_table();
            table.insert(key.clone(), value.clone());
            recipe = table.try_into().map_err(|error: toml::de::Error| RecipeError::Value {
                origin: origin.into(),
                key: key.clone(),
                reason: error.message().trim().to_string(),
            })?;
        }
        Ok(recipe)
    }

    /// The recipe as a TOML table, without absent options.
    pub fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("a recipe is made of numbers, texts and lists")
    }
}

/// Every key of a recipe.
pub fn keys() -> Vec<String> {
    /// Records the field names that the derived code asks for.
    struct Fields;
    impl<'de> serde::Deserializer<'de> for Fields {
        type Error = Names;
        fn deserialize_any<V: serde::de::Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
            Err(Names(&[]))
        }
        fn deserialize_struct<V: serde::de::Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Names> {
            Err(Names(fields))
        }
        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }
    #[derive(Debug)]
    struct Names(&'static [&'static str]);
    impl std::fmt::Display for Names {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{:?}", self.0)
        }
    }
    impl std::error::Error for Names {}
    impl serde::de::Error for Names {
        fn custom<T: std::fmt::Display>(_: T) -> Self {
            Self(&[])
        }
    }
    match Recipe::deserialize(Fields) {
        Err(Names(fields)) => fields.iter().map(|field| (*field).to_string()).collect(),
        Ok(_) => unreachable!("the deserializer above yields no value"),
    }
}
