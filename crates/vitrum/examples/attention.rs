//! Where a block looks: the attention of the class token over a picture, as an image file.
//!
//! `cargo run --release --example attention [MODEL IMAGE BLOCK]`

use vitrum::data::decode::open;
use vitrum::data::demo::DemoSet;
use vitrum::prelude::*;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let vit = Classifier::load(args.first().map_or("demo", String::as_str))?;
    let image = match args.get(1) {
        Some(path) => open(path, &DecodeOptions::default())?,
        None => DemoSet::new(64, 1, 0).image(0),
    };
    let block = args.get(2).and_then(|block| block.parse().ok()).unwrap_or(0);
    let map = vit.attention(&image, block)?;
    let [rows, columns] = map.grid;
    for row in map.weights.chunks_exact(columns) {
        println!("{}", row.iter().map(|weight| format!("{weight:.3} ")).collect::<String>());
    }
    let file = std::env::temp_dir().join("vitrum-attention.png");
    map.overlay().save(&file)?;
    println!("{rows} x {columns} patches; {}", file.display());
    Ok(())
}
