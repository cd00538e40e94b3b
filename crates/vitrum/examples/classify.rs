//! Classes of image files, of bytes in memory and of many pictures at once.
//!
//! `cargo run --release --example classify [MODEL IMAGE…]`; without arguments the demo model and a drawn picture.

use vitrum::data::demo::DemoSet;
use vitrum::prelude::*;

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let vit = Classifier::load(args.next().unwrap_or_else(|| "demo".into()))?;
    for note in &vit.loaded().notes {
        eprintln!("{note}");
    }
    let mut files: Vec<String> = args.collect();
    if files.is_empty() {
        files.push(std::env::temp_dir().join("vitrum-example.png").display().to_string());
        DemoSet::new(64, 1, 0).image(0).save(&files[0])?;
    }
    for file in &files {
        println!("{file}");
        for answer in vit.predict_file(file, 3)? {
            println!("  {:5.1} %  {}", 100.0 * answer.prob, answer.name());
        }
    }
    // The bytes of a file, as a server gets them, give the same answer.
    let bytes = std::fs::read(&files[0]).expect("the file was read above");
    assert_eq!(vit.predict_bytes(&bytes, 1)?, vit.predict_file(&files[0], 1)?);
    // Many pictures: pack the weights once. The answers stay the same.
    let many: Vec<RgbImage> = (0..32).map(|index| DemoSet::new(64, 32, 7).image(index)).collect();
    let answers = vit.predict(&many, 1)?;
    assert_eq!(vit.pack().predict(&many, 1)?, answers);
    Ok(())
}
