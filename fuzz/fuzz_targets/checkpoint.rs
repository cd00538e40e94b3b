//! Writes bytes to a file and reads it as a checkpoint; included by the targets of the single formats.

use vitrum::checkpoint::card::infer_config;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::read;

/// Reads the bytes as a file of that name, converts the tensors and infers a configuration.
pub fn read_as(name: &str, data: &[u8]) {
    let path = std::env::temp_dir().join(format!("vitrum-fuzz-{}-{name}", std::process::id()));
    std::fs::write(&path, data).expect("the temporary folder is writable");
    if let Ok(map) = read(&path)
        && let Ok(converted) = to_timm(map)
    {
        let _ = infer_config(&converted.map, None);
        let _ = converted.card();
    }
}
