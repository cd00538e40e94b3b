//! Random pictures of every form (`fixtures/export_pictures.py`): Pillow's pixels, or a refusal that is known.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::PathBuf;

use vitrum::data::decode::{self, DecodeProblem};
use vitrum::data::{DecodeOptions, RgbImage};

use super::{digest, golden};

fn members() -> HashMap<String, Vec<u8>> {
    let path = std::env::var_os("VITRUM_PICTURES").map_or_else(|| golden("pictures.tar.gz"), PathBuf::from);
    let file = std::fs::File::open(path).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let members = archive.entries().unwrap().map(|member| {
        let mut member = member.unwrap();
        let mut bytes = Vec::new();
        member.read_to_end(&mut bytes).unwrap();
        (member.path().unwrap().display().to_string(), bytes)
    });
    members.collect()
}

/// Forms that Pillow reads and this library names instead.
fn is_known_refusal(problem: &DecodeProblem) -> bool {
    match problem {
        DecodeProblem::Unsupported { reason, .. } => reason == "two-dimensional Group 3 compression",
        DecodeProblem::Damaged { reason, .. } => {
            reason == "scans of the progressive picture are missing" || reason == "the file is cut short"
        }
        _ => false,
    }
}

/// Largest difference of levels.
fn difference(a: &RgbImage, b: &RgbImage) -> u8 {
    a.data().iter().zip(b.data()).map(|(a, b)| a.abs_diff(*b)).max().unwrap_or(0)
}

#[test]
fn pictures_of_every_form_have_pillows_pixels() {
    let members = members();
    let options = DecodeOptions::timm();
    let (mut counts, mut wrong) = (BTreeMap::new(), Vec::new());
    let index = String::from_utf8(members["index.txt"].clone()).unwrap();
    for line in index.lines() {
        let f: Vec<&str> = line.split(' ').collect();
        let result = match (decode::decode(&members[f[0]], &options), members.get(&format!("{}.png", f[0]))) {
            (Ok(_), _) if f[1] == "refused" => "read, Pillow refuses",
            (Err(_), _) if f[1] == "refused" => "both refuse",
            (Ok(image), Some(png)) => {
                let expected = decode::decode(png, &options).unwrap();
                let sizes = (image.width(), image.height()) == (expected.width(), expected.height());
                // Lossy WebP: image-webp rounds otherwise than libwebp.
                if sizes && difference(&image, &expected) <= 4 { "equal but for rounding" } else { "wrong" }
            }
            (Ok(image), None) if digest(image.data()) == f[3] => "equal",
            (Ok(_), None) => "wrong",
            (Err(error), _) if is_known_refusal(&error.problem) => "known refusal",
            (Err(error), _) => {
                wrong.push(format!("{}: {error}", f[0]));
                "refused"
            }
        };
        if result == "wrong" {
            wrong.push(format!("{}: other pixels", f[0]));
        }
        *counts.entry(result).or_insert(0) += 1;
    }
    println!("{counts:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    let equal = counts["equal"];
    assert!(equal * 10 > index.lines().count() * 8, "only {equal} pictures were compared");
}
