//! The kind of a file, from its first bytes; files of other programs are named.

use std::io::Read;
use std::path::Path;

#[cfg(feature = "npz")]
use super::npz::entry_names;
use super::open;
use crate::checkpoint::LoadError;

/// Extensions of files of weights, in order of preference.
pub(super) const WEIGHTS: [&str; 9] =
    [".safetensors", ".npz", ".pth.tar", ".pth", ".pt", ".bin", ".ckpt", ".th", ".npy"];

/// Supported formats.
#[cfg_attr(not(feature = "npz"), allow(dead_code))] // Formats that only a zip archive shows.
pub(super) enum Content {
    /// A safetensors file.
    Safetensors,
    /// An index of shards.
    Index,
    /// One NumPy array.
    Npy,
    /// An archive of NumPy arrays.
    Npz,
    /// A file of `torch.save`.
    Pytorch,
    /// What `torch.jit.save` wrote.
    TorchScript,
}

/// Another program's format: first bytes, their offset, the kind of file, how to get weights from it.
type Foreign = (&'static [u8], usize, &'static str, &'static str);

const FROM_TORCH: &str = "save the weights with `torch.save(model.state_dict(), …)` or as safetensors";
const FROM_KERAS: &str = "load it with its own library and save the weights under a known library's names";
const UNPACK: &str = "unpack it and name the file inside";

const FOREIGN: [Foreign; 14] = [
    (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file (Keras, `tf_model.h5`)", FROM_KERAS),
    (b"GGUF", 0, "a GGUF file (llama.cpp)", FROM_TORCH),
    (b"TFL3", 4, "a TensorFlow Lite model", FROM_KERAS),
    (b"\x1f\x8b", 0, "a gzip archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", UNPACK),
    (b"Rar!", 0, "a RAR archive", UNPACK),
    (b"\xfd7zXZ", 0, "an xz archive", UNPACK),
    (b"BZh", 0, "a bzip2 archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", 0, "a Zstandard archive", UNPACK),
    (
        b"ustar",
        257,
        "a tar archive",
        "PyTorch writes no checkpoints this way since 2017; unpack any other one",
    ),
    (
        b"version https://git-lfs",
        0,
        "a Git LFS pointer, not the file itself",
        "`git lfs pull` fetches the file",
    ),
    (b"\x89PNG", 0, "a picture", "name the file of weights"),
    (b"\xff\xd8\xff", 0, "a picture", "name the file of weights"),
    (b"%PDF", 0, "a PDF document", "name the file of weights"),
];

/// Extensions of other programs' files that their first bytes do not identify.
const ENDINGS: [(&str, &str, &str); 12] = [
    (".onnx", "an ONNX model", "export the weights from the library that it came from"),
    (
        ".msgpack",
        "Flax weights (MessagePack)",
        "save them as `.npz` or with `save_pretrained` of the PyTorch model",
    ),
    (".h5", "a Keras file", FROM_KERAS),
    (".keras", "a Keras file", FROM_KERAS),
    (".pb", "a TensorFlow graph", FROM_KERAS),
    (".tflite", "a TensorFlow Lite model", FROM_KERAS),
    (".mlmodel", "a Core ML model", FROM_TORCH),
    (".gguf", "a GGUF file (llama.cpp)", FROM_TORCH),
    (
        ".distcp",
        "one part of a distributed PyTorch checkpoint",
        "`torch.distributed.checkpoint.format_utils` joins its parts into one file",
    ),
    (".engine", "a TensorRT engine", FROM_TORCH),
    (".pkl", "a pickle that `torch.save` did not write", FROM_TORCH),
    (".pickle", "a pickle that `torch.save` did not write", FROM_TORCH),
];

/// The kind of a file from its first bytes.
///
/// # Errors
/// The kind of an unsupported file.
pub(super) fn sniff(path: &Path) -> Result<Content, LoadError> {
    let (file, length) = open(path)?;
    let mut head = Vec::new();
    file.take(512).read_to_end(&mut head).map_err(|e| LoadError::io(path, e))?;
    if length == 0 {
        return Err(LoadError::unknown(path, "the file is empty"));
    }
    if head.starts_with(b"PK\x03\x04") || head.starts_with(b"PK\x05\x06") {
        return zip_kind(path);
    }
    if head.starts_with(b"\x93NUMPY") {
        return Ok(Content::Npy);
    }
    if let Some((_, _, what, hint)) = FOREIGN.iter().find(|(magic, at, ..)| begins(&head, magic, *at)) {
        return Err(LoadError::foreign(path, *what, *hint));
    }
    let is_cut = head.len() <= 8 && path.extension().is_some_and(|extension| extension == "safetensors");
    let is_safetensors = is_cut || head.get(8) == Some(&b'{') && head[0] != b'{';
    if !is_safetensors && let Some(error) = foreign_by_name(path) {
        return Err(error);
    }
    let first =
        head.iter().copied().find(|b| !b.is_ascii_whitespace() && *b != 0xef && *b != 0xbb && *b != 0xbf);
    match first {
        _ if is_safetensors => Ok(Content::Safetensors),
        Some(b'{') => Ok(Content::Index),
        Some(b'<') => Err(LoadError::foreign(
            path,
            "a web page, not the file itself",
            "fetch the file by its download link; it may ask for a login",
        )),
        _ if matches!(head[0], 0x80 | b'(' | b']' | b'c') => Ok(Content::Pytorch),
        // Every safetensors file begins with a length below 2^56 in eight bytes.
        _ if head.get(8).is_none() || head[7] == 0 => Ok(Content::Safetensors),
        _ => Err(LoadError::unknown(path, "its first bytes belong to no known format")),
    }
}

fn begins(head: &[u8], magic: &[u8], at: usize) -> bool {
    head.get(at..at + magic.len()) == Some(magic)
}

/// The error for another program's file, by its name.
fn foreign_by_name(path: &Path) -> Option<LoadError> {
    let (what, hint) = foreign_name(path)?;
    Some(LoadError::foreign(path, what, hint))
}

/// The kind of another program's file by its name, and how to get weights from it.
pub(super) fn foreign_name(path: &Path) -> Option<(&'static str, &'static str)> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let is_tensorflow = name.contains(".ckpt.") || name.contains(".data-0") || name == "checkpoint";
    if is_tensorflow {
        return Some(("part of a TensorFlow checkpoint", FROM_KERAS));
    }
    ENDINGS.iter().find(|(ending, ..)| name.ends_with(ending)).map(|&(_, what, hint)| (what, hint))
}

#[cfg(not(feature = "npz"))]
fn zip_kind(path: &Path) -> Result<Content, LoadError> {
    Err(LoadError::not_built(path, "a zip archive (`.npz`, `.pth`)", "npz` or `pytorch"))
}

/// The kind of a zip archive, from its entries' names.
#[cfg(feature = "npz")]
fn zip_kind(path: &Path) -> Result<Content, LoadError> {
    let names = entry_names(path)?;
    let has = |end: &str| names.iter().any(|name| name.ends_with(end));
    let holds = |part: &str| names.iter().any(|name| name.contains(part));
    if has("archive_format") || holds("/models/model.json") || has("serialized_exported_program.json") {
        let what = "a program of `torch.export` (`.pt2`), not weights alone";
        return Err(LoadError::foreign(
            path,
            what,
            "`torch.save(torch.export.load(FILE).state_dict, …)` saves its weights",
        ));
    }
    if has("data.pkl") && has("constants.pkl") {
        Ok(Content::TorchScript)
    } else if has("data.pkl") {
        Ok(Content::Pytorch)
    } else if has(".npy") {
        Ok(Content::Npz)
    } else if has("model.weights.h5") {
        Err(LoadError::foreign(path, "a Keras file", FROM_KERAS))
    } else if let Some(inside) = names.iter().find(|name| is_weights(name)) {
        let what = format!("a zip archive with `{inside}` in it");
        Err(LoadError::foreign(path, what, UNPACK))
    } else {
        Err(LoadError::unknown(path, "a zip archive with neither `.npy` arrays nor PyTorch's `data.pkl`"))
    }
}

#[cfg(feature = "npz")]
fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|ending| name.ends_with(ending))
}
