//! Any bytes: an image of sane size, preprocessed, or an error.
#![no_main]

use std::sync::Once;

use libfuzzer_sys::fuzz_target;
use vitrum::data::{DecodeOptions, Limits, Preprocess, decode};

/// Panics that `decode` catches are its errors; libFuzzer's own hook would end the run at them. Any other panic still
/// unwinds out of the target, which is a crash.
static ALLOW_CAUGHT_PANICS: Once = Once::new();

fuzz_target!(|bytes: &[u8]| {
    ALLOW_CAUGHT_PANICS.call_once(|| std::panic::set_hook(Box::new(|_| ())));
    let limits = Limits { max_pixels: 1 << 20, max_side: 4096, max_alloc: 64 << 20, ..Limits::default() };
    let options = DecodeOptions { limits, exif_orientation: bytes.len() % 2 == 0 };
    if let Ok(image) = decode::decode(bytes, &options) {
        assert!(u64::from(image.width()) * u64::from(image.height()) <= 1 << 20);
        let preprocess = Preprocess { input_size: [3, 32, 32], ..Preprocess::default() };
        if let Ok(values) = preprocess.apply(&image) {
            assert!(values.iter().all(|value| value.is_finite()));
        }
    }
});
