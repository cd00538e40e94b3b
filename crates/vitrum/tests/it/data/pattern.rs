//! The pictures of `fixtures/export_pil.py`, made by the same formulas.

use vitrum::data::RgbImage;

/// 0: noise; 1: only 0 and 255, so that filters overshoot; 2: smooth waves of triangles.
pub fn pattern(kind: u64, seed: u64, width: u32, height: u32) -> RgbImage {
    let byte = |i: u64| match kind {
        0 => scramble(i, seed) as u8,
        1 => (scramble(i, seed) & 1) as u8 * 255,
        _ => {
            let (x, y, c) = (i / 3 % u64::from(width), i / 3 / u64::from(width), i % 3);
            let t = (x * (3 + c) + y * (5 - c) + seed) % 510;
            if t > 255 { (510 - t) as u8 } else { t as u8 }
        }
    };
    let bytes = u64::from(width) * u64::from(height) * 3;
    RgbImage::new(width, height, (0..bytes).map(byte).collect()).unwrap()
}

fn scramble(i: u64, seed: u64) -> u64 {
    let v = (i * 2654435761 + seed * 40503 + 12345) & 0xffff_ffff;
    let v = ((v ^ (v >> 15)) * 2246822519) & 0xffff_ffff;
    v ^ (v >> 13)
}
