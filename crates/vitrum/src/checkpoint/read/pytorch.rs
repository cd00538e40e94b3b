//! Files of `torch.save`: `.pth`, `.pt`, `.bin`, `.ckpt`. Only tensors are read; nothing is executed.

use std::path::Path;
use std::sync::Arc;

use pytorch_reader::PytorchReader;

use super::entry::{Entry, Listing, Source};
use super::npz::check_archive;
use super::torch_values::{FORMAT, dtype};
use super::{Limits, guarded, open};
use crate::checkpoint::LoadError;

/// The contents of a PyTorch checkpoint, including optimiser state.
pub(super) fn list(path: &Path, limits: &Limits) -> Result<Listing, LoadError> {
    let (_, length) = open(path)?;
    if is_zip(path)? {
        check_archive(path, limits)?;
    }
    guarded(path, FORMAT, || {
        let reader = PytorchReader::new(path).map_err(|e| LoadError::format(path, FORMAT, e))?;
        let mut listing = Listing::new(limits.unpacked(length));
        let place = Arc::new(path.to_path_buf());
        for (name, tensor) in reader.into_tensors() {
            let (file, shape) = (place.clone(), tensor.shape().to_vec());
            let entry = Entry { file, dtype: dtype(tensor.dtype()), shape, source: Source::Pytorch(tensor) };
            listing.entries.insert(name, entry);
        }
        Ok(listing)
    })
}

fn is_zip(path: &Path) -> Result<bool, LoadError> {
    use std::io::Read;
    let mut head = Vec::new();
    open(path)?.0.take(4).read_to_end(&mut head).map_err(|e| LoadError::io(path, e))?;
    Ok(head.starts_with(b"PK"))
}
