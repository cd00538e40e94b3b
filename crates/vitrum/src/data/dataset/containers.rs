//! Dataset formats that are recognised but not read, each with a hint for conversion.

use std::path::Path;

use super::DatasetProblem;

const UNPACK: &str = "unpack it and name the folder, or pack it as .tar";
const EXPORT: &str = "export it as CSV with a column `file` and a column `label`";
const IMAGES: &str = "write the images as files in class folders, or as a .tar";

/// Recognises a file by its first bytes and its name; `None` if unknown.
pub(super) fn file(path: &Path, head: &[u8]) -> Option<DatasetProblem> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let (what, hint) = match (head, extension.as_str()) {
        (_, "xlsx" | "xls" | "ods") => ("a spreadsheet", EXPORT),
        (_, "npz" | "npy") => ("NumPy arrays", IMAGES),
        ([b'P', b'K', 3 | 5, ..], _) => ("a zip archive", UNPACK),
        ([b'R', b'a', b'r', b'!', ..], _) => ("a RAR archive", UNPACK),
        ([b'7', b'z', 0xbc, 0xaf, ..], _) => ("a 7z archive", UNPACK),
        ([0x28, 0xb5, 0x2f, 0xfd, ..], _) => ("a file compressed with Zstandard", UNPACK),
        ([0xfd, b'7', b'z', b'X', b'Z', ..], _) => ("a file compressed with xz", UNPACK),
        ([b'B', b'Z', b'h', ..], _) => ("a file compressed with bzip2", UNPACK),
        ([b'P', b'A', b'R', b'1', ..], _) => ("a Parquet file", IMAGES),
        ([b'A', b'R', b'R', b'O', b'W', b'1', ..], _) | (_, "arrow") => ("an Arrow file", IMAGES),
        ([0x89, b'H', b'D', b'F', ..], _) | (_, "h5" | "hdf5") => ("an HDF5 file", IMAGES),
        ([b'M', b'A', b'T', b'L', b'A', b'B', ..], _) | (_, "mat") => ("a MATLAB file", IMAGES),
        ([b'S', b'Q', b'L', b'i', b't', b'e', ..], _) => ("an SQLite database", EXPORT),
        (_, "tfrecord" | "tfrecords") => ("a TFRecord file of TensorFlow", IMAGES),
        (_, "rec") => ("a RecordIO file of MXNet", IMAGES),
        (_, "mdb" | "lmdb") => ("an LMDB database", IMAGES),
        (_, "json" | "jsonl") => ("a JSON file", EXPORT),
        (_, "yaml" | "yml") => ("a YAML file", "name the folder of images that it lists"),
        ([0x80, 2..=5, ..], _) | (_, "pkl" | "pickle") => ("a Python pickle, which could run code", IMAGES),
        _ => return None,
    };
    Some(DatasetProblem::Foreign { what, hint })
}

/// Recognises a folder by the names in it.
pub(super) fn folder(path: &Path) -> Option<DatasetProblem> {
    let has = |name: &str| path.join(name).is_file();
    let cifar = "CIFAR's Python version, whose files are pickles";
    let binary = "the binary version is read: cifar-10-binary.tar.gz, cifar-100-binary.tar.gz";
    let (what, hint) = match () {
        () if has("batches.meta") && has("data_batch_1") => (cifar, binary),
        () if has("meta") && has("train") && has("test") => (cifar, binary),
        () if has("data.mdb") => ("an LMDB database", IMAGES),
        () if has("dataset_info.json") && has("state.json") => {
            ("a dataset that Hugging Face's library saved", IMAGES)
        }
        () => return None,
    };
    Some(DatasetProblem::Foreign { what, hint })
}
