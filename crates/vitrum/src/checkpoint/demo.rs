//! The model that travels with the library: what `vitrum train demo` leaves, so that there is an answer without any
//! download.

use std::path::PathBuf;

use super::error::LoadError;
use super::write::write_atomically;

/// What the built-in model is called.
pub const NAME: &str = "demo";

const FILES: [(&str, &[u8]); 2] = [
    ("config.json", include_bytes!("../../assets/demo/config.json")),
    ("model.safetensors", include_bytes!("../../assets/demo/model.safetensors")),
];

/// A folder of the system's temporary files with the model in it, written where it is not there already.
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
