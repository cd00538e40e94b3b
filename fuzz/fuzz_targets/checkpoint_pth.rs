//! What PyTorch writes: reading and converting.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrum::checkpoint::card::infer_config;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::read;

fuzz_target!(|data: &[u8]| {
    let path = vitrum_fuzz_file("checkpoint.pth", data);
    if let Ok(map) = read(&path)
        && let Ok(converted) = to_timm(map)
    {
        let _ = infer_config(&converted.map, None);
        let _ = converted.card();
    }
});

/// A file of this process that holds `data`.
fn vitrum_fuzz_file(name: &str, data: &[u8]) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("vitrum-fuzz-{}-{name}", std::process::id()));
    std::fs::write(&path, data).expect("the temporary folder is writable");
    path
}
