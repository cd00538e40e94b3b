//! Decoding equals Pillow's, JPEG and lossy WebP included.

use std::path::{Path, PathBuf};

use vitrum::data::decode::{self, DecodeProblem};
use vitrum::data::{DecodeOptions, Limits, RgbImage};

use super::{digest, golden, golden_lines, number};

fn is_lossy(name: &str) -> bool {
    name.ends_with(".jpg") || name.starts_with("lossy") && name.ends_with(".webp")
}

/// Largest difference of two pictures.
fn difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!((a.width(), a.height()), (b.width(), b.height()));
    a.data().iter().zip(b.data()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn lossless_formats_equal_pillow() {
    let mut wrong = Vec::new();
    for line in golden_lines("decode.txt") {
        let f: Vec<&str> = line.split(' ').collect();
        if is_lossy(f[0]) {
            continue;
        }
        for (options, at) in [(DecodeOptions::timm(), 5), (DecodeOptions::default(), 6)] {
            match decode::open(golden("decode").join(f[0]), &options) {
                Ok(image) => {
                    let sides = if at == 5 { &f[1..3] } else { &f[3..5] };
                    if (image.width(), image.height()) != (number(sides[0]), number(sides[1])) {
                        wrong.push(format!("{}: {image:?}", f[0]));
                    } else if digest(image.data()) != f[at] {
                        wrong.push(format!("{}: other pixels (exif {})", f[0], options.exif_orientation));
                    }
                }
                Err(error) => wrong.push(error.to_string()),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn lossy_formats_equal_pillow() {
    let mut wrong = Vec::new();
    for line in golden_lines("decode.txt") {
        let name = line.split(' ').next().unwrap();
        if !is_lossy(name) {
            continue;
        }
        let expected =
            decode::open(golden("decode").join(format!("{name}.png")), &DecodeOptions::timm()).unwrap();
        match decode::open(golden("decode").join(name), &DecodeOptions::timm()) {
            Ok(image) => match difference(&image, &expected) {
                0 => {}
                levels => wrong.push(format!("{name}: up to {levels} levels off")),
            },
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A JPEG without the Huffman tables before its first scan.
fn without_tables(jpeg: &[u8]) -> Vec<u8> {
    let (mut kept, mut at) = (jpeg[..2].to_vec(), 2);
    while jpeg[at + 1] != 0xda {
        let end = at + 2 + usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        if jpeg[at + 1] != 0xc4 {
            kept.extend(&jpeg[at..end]);
        }
        at = end;
    }
    kept.extend(&jpeg[at..]);
    kept
}

#[test]
fn the_standard_tables_are_those_of_sequential_frames_alone() {
    let options = DecodeOptions::timm();
    let bytes = std::fs::read(golden("decode/rgb_444.jpg")).unwrap();
    let bare = without_tables(&bytes);
    assert!(bare.len() + 400 < bytes.len());
    assert_eq!(decode::decode(&bare, &options).unwrap(), decode::decode(&bytes, &options).unwrap());
    let progressive = without_tables(&std::fs::read(golden("decode/progressive.jpg")).unwrap());
    let error = decode::decode(&progressive, &options).unwrap_err();
    assert!(error.to_string().contains("a Huffman table is missing"), "{error}");
}

#[test]
fn exif_orientation_is_an_option() {
    for n in 1..=8 {
        let path = golden(&format!("decode/orientation{n}.jpg"));
        let stored = decode::open(&path, &DecodeOptions::timm()).unwrap();
        let upright = decode::open(&path, &DecodeOptions::default()).unwrap();
        assert_eq!((stored.width(), stored.height()), (37, 23));
        let (w, h) = (36, 22);
        // Where the stored top left corner goes.
        let corner = match n {
            1 => (0, 0),
            2 => (w, 0),
            3 => (w, h),
            4 => (0, h),
            5 => (0, 0),
            6 => (h, 0),
            7 => (h, w),
            _ => (0, w),
        };
        assert_eq!(upright.pixel(corner.0, corner.1), stored.pixel(0, 0), "orientation {n}");
        assert_eq!((upright.width(), upright.height()), if n >= 5 { (23, 37) } else { (37, 23) });
    }
}

#[test]
fn the_content_decides_not_the_extension() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("really_a_png.jpg");
    std::fs::copy(golden("decode/rgb.png"), &path).unwrap();
    let image = decode::open(&path, &DecodeOptions::default()).unwrap();
    assert_eq!(image, decode::open(golden("decode/rgb.png"), &DecodeOptions::default()).unwrap());
    let text = folder.path().join("text.png");
    std::fs::write(&text, "not an image").unwrap();
    let error = decode::open(&text, &DecodeOptions::default()).unwrap_err();
    assert!(matches!(error.problem, DecodeProblem::UnknownFormat { .. }));
    assert!(error.to_string().contains("text.png") && error.to_string().contains("not an image"), "{error}");
}

#[test]
fn limits_are_checked_on_the_header() {
    let small = |limits: Limits| DecodeOptions { limits, ..DecodeOptions::default() };
    for line in golden_lines("decode.txt") {
        let name = line.split(' ').next().unwrap();
        if name == "one_pixel.jpg" {
            continue;
        }
        let path = golden("decode").join(name);
        let limit = |options: Limits| decode::open(&path, &small(options)).unwrap_err().problem;
        let problem = limit(Limits { max_side: 35, ..Limits::default() });
        assert!(matches!(problem, DecodeProblem::TooLarge { limit: 35, .. }), "{name}: {problem}");
        let problem = limit(Limits { max_pixels: 500, ..Limits::default() });
        assert!(matches!(problem, DecodeProblem::TooLarge { limit: 500, .. }), "{name}: {problem}");
        let problem = limit(Limits { max_bytes: 50, ..Limits::default() });
        assert!(matches!(problem, DecodeProblem::TooManyBytes { limit: 50 }), "{name}: {problem}");
    }
}

/// `../shared/data` beside the project, or the folder that `VITRUM_TEST_DATA` names.
pub fn real_data(name: &str) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let folder = std::env::var_os("VITRUM_TEST_DATA").map_or(beside, PathBuf::from);
    let path = folder.join(name);
    if !path.exists() {
        println!("skipped: {} is absent", path.display());
        return None;
    }
    Some(path)
}
