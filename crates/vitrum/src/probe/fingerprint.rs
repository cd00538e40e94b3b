//! What features depend on, as one number: weights, preprocessing, images, pooling.

use sha2::{Digest, Sha256};

use super::error::ProbeError;
use super::features::FeatureOptions;
use crate::checkpoint::apply::collect;
use crate::data::dataset::{DatasetError, DatasetProblem, ImageSource, Target};
use crate::data::train_set::{Subset, TrainValSets};
use crate::tasks::Embedder;

/// Counts up when the same inputs would give other features or another file.
const FORMAT: u32 = 1;

/// SHA-256, in hex, of everything that the features depend on: every weight, the configuration, the preprocessing,
/// options of decoding, the pooling, and the content, name and class of every image. Another version of this library
/// has other fingerprints.
///
/// # Errors
/// Images that cannot be read at all.
pub fn fingerprint(
    embedder: &Embedder,
    sets: &TrainValSets,
    options: &FeatureOptions,
) -> Result<String, ProbeError> {
    let mut hash = Fingerprint(Sha256::new());
    hash.text(&format!("{FORMAT} {}", env!("CARGO_PKG_VERSION")));
    let model = embedder.model();
    hash.text(&format!("{:?} {} {}", model.config(), model.quantized_layers(), model.bf16_layers()));
    for (key, tensor) in &collect(model).tensors {
        hash.text(key);
        hash.text(&format!("{:?} {:?}", tensor.dtype(), tensor.shape()));
        hash.bytes(tensor.bytes());
    }
    hash.text(&format!("{:?}", embedder.preprocess()));
    hash.text(&format!("{:?} {:?}", options.decode, options.max_bad));
    hash.text(options.pool.name());
    sets.classes.iter().for_each(|class| hash.text(class));
    hash.images(&sets.train)?;
    hash.images(&sets.val)?;
    Ok(hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A hash of parts of any length: each enters with its length.
struct Fingerprint(Sha256);

impl Fingerprint {
    fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn images(&mut self, subset: &Subset) -> Result<(), DatasetError> {
        self.0.update((subset.len() as u64).to_le_bytes());
        let mut source = subset.source()?;
        while let Some(sample) = source.next_sample()? {
            self.text(&sample.name);
            self.0.update(
                sample
                    .target
                    .as_ref()
                    .and_then(Target::class)
                    .map_or(u64::MAX, |class| class as u64)
                    .to_le_bytes(),
            );
            self.image(sample.image, &sample.name)?;
        }
        Ok(())
    }

    /// An image as it is stored. A file that cannot be read enters as such: loading it says so.
    fn image(&mut self, image: ImageSource, name: &str) -> Result<(), DatasetError> {
        match image {
            ImageSource::Path(path) => match std::fs::read(&path) {
                Ok(bytes) => self.bytes(&bytes),
                Err(error) => self.text(&format!("unreadable: {:?}", error.kind())),
            },
            ImageSource::Encoded(bytes) => self.bytes(&bytes),
            ImageSource::Pixels(image) => {
                self.text(&format!("{}x{}", image.width(), image.height()));
                self.bytes(image.data());
            }
            ImageSource::Held(held) => {
                let raw = held.raw().map_err(|fault| DatasetProblem::Damaged(fault.to_string()).at(name))?;
                match raw {
                    // `raw` never gives another holder.
                    ImageSource::Held(_) => {}
                    raw => self.image(raw, name)?,
                }
            }
        }
        Ok(())
    }
}
