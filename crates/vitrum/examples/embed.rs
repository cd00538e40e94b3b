//! A search for similar pictures: one unit vector per picture, nearest by cosine.
//!
//! `cargo run --release --example embed [MODEL]`

use vitrum::data::demo::DemoSet;
use vitrum::prelude::*;

fn main() -> Result<(), Error> {
    let model = std::env::args().nth(1).unwrap_or_else(|| "demo".into());
    let vit = Embedder::load(model)?.pack();
    let set = DemoSet::new(64, 100, 1);
    let pictures: Vec<RgbImage> = (0..100).map(|index| set.image(index)).collect();
    let index = vit.embed(&pictures)?;
    let query = &index[0];
    let found = nearest(query, &index, 4);
    for (place, cosine) in &found {
        println!("picture {place}, class {}, cosine {cosine:.3}", set.label(*place));
    }
    assert_eq!(found[0].0, 0, "a picture is nearest to itself");
    Ok(())
}
