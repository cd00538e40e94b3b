//! Random pictures of every form (`fixtures/export_pictures.py`): Pillow's pixels, or a refusal that is known.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::PathBuf;

use vitrum::data::DecodeOptions;
use vitrum::data::decode::{self, DecodeProblem};

use super::{digest, golden};

/// What becomes of the 2,000 pictures of the repository. The numbers change with that archive alone: a form that is
/// refused from now on, or read, fails the test.
const EXPECTED: [(&str, usize); 9] = [
    ("bmp: equal", 208),
    ("gif: equal", 185),
    ("jpeg: both refuse", 60),
    ("jpeg: equal", 548),
    ("jpeg: refused: scans of the progressive picture are missing", 5),
    ("png: both refuse", 16),
    ("png: equal", 164),
    ("tiff: equal", 607),
    ("webp: equal", 207),
];

fn members(path: PathBuf) -> HashMap<String, Vec<u8>> {
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

/// The form that Pillow reads and this library names instead: libjpeg guesses at what the missing scans would hold.
fn is_known_refusal(problem: &DecodeProblem) -> bool {
    matches!(problem, DecodeProblem::Damaged { reason, .. } if reason == "scans of the progressive picture are missing")
}

/// What becomes of a picture of which Pillow says `told`: width, height and digest of the pixels, or `refused`.
fn outcome(bytes: &[u8], told: &str) -> Result<&'static str, String> {
    let is_refused = told == "refused";
    match decode::decode(bytes, &DecodeOptions::timm()) {
        Ok(_) if is_refused => Ok("read, Pillow refuses"),
        Err(_) if is_refused => Ok("both refuse"),
        Ok(image) => {
            let found = format!("{} {} {}", image.width(), image.height(), digest(image.data()));
            if found == told { Ok("equal") } else { Err(format!("{found}, expected {told}")) }
        }
        Err(error) if is_known_refusal(&error.problem) => {
            Ok("refused: scans of the progressive picture are missing")
        }
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn pictures_of_every_form_have_pillows_pixels() {
    let given = std::env::var_os("VITRUM_PICTURES").map(PathBuf::from);
    let is_own = given.is_none();
    let members = members(given.unwrap_or_else(|| golden("pictures.tar.gz")));
    let (mut counts, mut wrong) = (BTreeMap::<String, usize>::new(), Vec::new());
    let index = String::from_utf8(members["index.txt"].clone()).unwrap();
    for line in index.lines() {
        let (name, told) = line.split_once(' ').unwrap();
        let (_, form) = name.rsplit_once('.').unwrap();
        match outcome(&members[name], told) {
            Ok(outcome) => *counts.entry(format!("{form}: {outcome}")).or_default() += 1,
            Err(problem) => wrong.push(format!("{name}: {problem}")),
        }
    }
    println!("{counts:#?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
    if is_own {
        assert_eq!(counts, EXPECTED.map(|(outcome, count)| (outcome.to_string(), count)).into());
    } else {
        check_shares(&counts);
    }
}

/// Of any other pictures few may be refused, or read, by one side alone.
fn check_shares(counts: &BTreeMap<String, usize>) {
    let all: usize = counts.values().sum();
    for (outcome, percent) in [(": refused: ", 1), ("read, Pillow refuses", 1), ("both refuse", 8)] {
        let found: usize = counts.iter().filter(|(key, _)| key.contains(outcome)).map(|(_, n)| n).sum();
        assert!(found * 100 <= all * percent, "{found} of {all} pictures: {outcome}");
    }
}
