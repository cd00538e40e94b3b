//! The built-in model, a result of `vitrum train demo`. It answers without any download.

use std::path::PathBuf;

use super::error::LoadError;
use super::write::write_atomically;

/// Name of the built-in model.
pub const NAME: &str = "demo";

const FILES: [(&str, &[u8]); 2] = [
    ("config.json", include_bytes!("../../assets/demo/config.json")),
    ("model.safetensors", include_bytes!("../../assets/demo/model.safetensors")),
];

/// A folder in the system's temporary directory with the model. It is written if absent.
///
/// # Errors
/// A folder that cannot be written.
pub fn folder() -> Result<PathBuf, LoadError> {
    let folder = std::env::temp_dir().join(format!("vitrum-demo-{}", env!("CARGO_PKG_VERSION")));
    std::fs::create_dir_all(&folder).map_err(|error| LoadError::io(&folder, error))?;
    for (name, bytes) in FILES {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|found| found == bytes) {
            continue;
        }
        write_atomically(&path, bytes)?;
    }
    Ok(folder)
}
