//! Resizing equals Pillow's, byte for byte.

use vitrum::data::Interpolation;
use vitrum::data::resize::{Region, ResizeError, SourceBox, resize, resize_box, resize_region};

use super::pattern::pattern;
use super::{digest, golden_lines, number};

fn filter(name: &str) -> Interpolation {
    Interpolation::ALL.into_iter().find(|filter| filter.name() == name).expect("a filter's name")
}

#[test]
fn equals_pillow_on_1500_random_cases() {
    let mut wrong = Vec::new();
    let lines = golden_lines("resize.txt");
    for line in &lines {
        let f: Vec<&str> = line.split(' ').collect();
        let image = pattern(number(f[0]), number(f[1]), number(f[2]), number(f[3]));
        let (width, height) = (number(f[4]), number(f[5]));
        let [left, top, right, bottom] = [7, 8, 9, 10].map(|at| number(f[at]));
        let source = SourceBox { left, top, right, bottom };
        let all = Region { left: 0, top: 0, width, height };
        let out = resize_box(&image, source, width, height, all, filter(f[6])).unwrap();
        if digest(out.data()) != f[11] {
            wrong.push(line);
        }
    }
    assert!(lines.len() >= 1000);
    assert!(
        wrong.is_empty(),
        "{} of {} differ from Pillow, first: {:?}",
        wrong.len(),
        lines.len(),
        wrong.first()
    );
}

#[test]
fn a_region_equals_the_crop_of_the_whole() {
    for (case, filter) in Interpolation::ALL.into_iter().cycle().take(60).enumerate() {
        let seed = case as u64;
        let image = pattern(seed % 3, seed, 17 + case as u32, 63 - case as u32);
        let whole = resize(&image, 41, 37, filter).unwrap();
        let region = Region { left: case as u32 % 20, top: case as u32 % 13, width: 21, height: 24 };
        let part = resize_region(&image, 41, 37, region, filter).unwrap();
        for y in 0..region.height {
            for x in 0..region.width {
                assert_eq!(
                    part.pixel(x, y),
                    whole.pixel(x + region.left, y + region.top),
                    "{filter:?} {x} {y}"
                );
            }
        }
    }
}

#[test]
fn large_images_are_the_same_in_parallel() {
    // Large enough for rayon; compared with the same image in horizontal slices that are not.
    let image = pattern(0, 1, 1500, 700);
    let whole = resize(&image, 333, 700, Interpolation::Lanczos).unwrap();
    for top in (0..700).step_by(50) {
        let region = Region { left: 0, top, width: 333, height: 50 };
        let part = resize_region(&image, 333, 700, region, Interpolation::Lanczos).unwrap();
        assert_eq!(part.data(), &whole.data()[top as usize * 333 * 3..][..50 * 333 * 3]);
    }
}

#[test]
fn impossible_sizes_are_errors() {
    let image = pattern(0, 0, 8, 8);
    let empty = resize(&image, 0, 4, Interpolation::Bicubic);
    assert!(matches!(empty, Err(ResizeError::Empty { width: 0, height: 4, .. })));
    let outside = Region { left: 3, top: 0, width: 2, height: 4 };
    let outside = resize_region(&image, 4, 4, outside, Interpolation::Box);
    assert!(matches!(outside, Err(ResizeError::Region { .. })));
    for (left, right) in [(-1.0, 4.0), (4.0, 4.0), (0.0, 8.5), (f32::NAN, 4.0), (0.0, f32::INFINITY)] {
        let source = SourceBox { left, top: 0.0, right, bottom: 8.0 };
        let all = Region { left: 0, top: 0, width: 4, height: 4 };
        let result = resize_box(&image, source, 4, 4, all, Interpolation::Bilinear);
        assert!(matches!(result, Err(ResizeError::SourceBox { .. })), "{left} {right}");
    }
}

#[test]
fn a_long_thin_image_costs_no_more_than_its_crop() {
    // Whole, the enlarged image would have 2.2 million rows and 1.5 GB.
    let image = pattern(0, 0, 1, 10_000);
    let region = Region { left: 0, top: 1_000_000, width: 224, height: 224 };
    let out = resize_region(&image, 224, 2_240_000, region, Interpolation::Bicubic).unwrap();
    assert_eq!((out.width(), out.height()), (224, 224));
}
