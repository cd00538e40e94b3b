//! Broken and malicious checkpoints: more than a thousand files, each of which must give tensors or an error
//! naming the file, without a panic and without memory beyond the file's own size class.
//!
//! Cases come from fixed seeds. A failing case prints its name and seed. `VITRUM_HOSTILE_TIMES=50` makes fifty
//! times as many.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vitrum::checkpoint::apply::{Excuses, apply};
use vitrum::checkpoint::card::{ModelCard, infer_config};
use vitrum::checkpoint::dialect::{Converted, to_timm};
use vitrum::checkpoint::inspect::inspect;
use vitrum::checkpoint::{HostTensor, LoadError, TensorMap, read};
use vitrum::models::vit::VitConfig;
use vitrum::models::{Config, ModelConfig};

use crate::checkpoint::golden;

/// What became of a case.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Read,
    Refused,
}

/// A folder for the files of one test, and a count of what became of them.
struct Range {
    folder: tempfile::TempDir,
    read: usize,
    refused: usize,
}

impl Range {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), read: 0, refused: 0 }
    }

    /// Writes `bytes` as `name`, reads them as a checkpoint all the way, and checks what comes back.
    fn try_file(&mut self, case: &str, name: &str, bytes: &[u8]) -> Outcome {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        self.try_path(case, &path)
    }

    fn try_path(&mut self, case: &str, path: &Path) -> Outcome {
        let result = catch_unwind(AssertUnwindSafe(|| all_the_way(path)));
        let result = result.unwrap_or_else(|_| panic!("{case}: panicked"));
        match result {
            Ok(()) => self.read += 1,
            Err(e) => {
                let (text, folder) = (e.to_string(), self.folder.path().to_string_lossy().into_owned());
                assert!(text.contains(&folder), "{case}: the error does not name the file: {text}");
                assert!(text.len() < 2_000, "{case}: an error of {} bytes", text.len());
                self.refused += 1;
                return Outcome::Refused;
            }
        }
        Outcome::Read
    }
}

/// Read, convert, infer, fit: everything a file goes through up to a model.
fn all_the_way(path: &Path) -> Result<(), LoadError> {
    let map = read(path)?;
    let bytes = map.num_bytes() as u64;
    let file = if path.is_file() { std::fs::metadata(path).unwrap().len() } else { 1 << 20 };
    assert!(bytes <= 16 * file + (64 << 20), "{} bytes from a file of {file}", bytes);
    let converted = to_timm(map)?;
    infer_config(&converted.map, Some(&VitConfig { embed_dim: 8, num_heads: 2, ..VitConfig::default() }))?;
    Ok(())
}

/// Infers a configuration, and fills the model with the tensors, in their own grid and in another one.
fn into_models(converted: &Converted) -> Result<(), LoadError> {
    let config = converted.card()?.config;
    let own = config.input().image().size;
    for size in [own, own.map(|side| side.saturating_mul(2))] {
        let Ok(grown) = config.with_some("img_size", Some(size)) else { continue };
        let Ok(skeleton) = grown.skeleton(&Device::flex()) else { continue };
        let excuses = Excuses { source: Some(config.clone()), ..Excuses::default() };
        // Tensors that do not fit are a report.
        let _ = apply(skeleton, converted.map.clone(), DType::F32, &excuses);
    }
    Ok(())
}

fn tiny_any(name: &str) -> Result<ModelConfig, String> {
    tiny(name).map(ModelConfig::Vit)
}

fn tiny(_: &str) -> Result<VitConfig, String> {
    Ok(VitConfig { embed_dim: 8, depth: 2, num_heads: 2, ..VitConfig::default() })
}

/// Truncations at many places and random changes of one to a few bytes, most of them near the front where
/// headers are.
fn mutations(bytes: &[u8], seed: u64, count: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(move |i| {
        let mut mutant = bytes.to_vec();
        let near = if rng.random_bool(0.7) { bytes.len().min(2_000) } else { bytes.len() };
        let kind = match i % 5 {
            0 => {
                mutant.truncate(rng.random_range(0..bytes.len()));
                "truncated"
            }
            1 => {
                let at = rng.random_range(0..near);
                mutant[at] ^= 1 << rng.random_range(0..8);
                "one bit"
            }
            2 => {
                for _ in 0..rng.random_range(2..9) {
                    mutant[rng.random_range(0..near)] = rng.random();
                }
                "some bytes"
            }
            3 => {
                // Sizes and offsets: eight bytes all ones, all zeros, or huge.
                let at = rng.random_range(0..near.saturating_sub(8).max(1));
                let value = *[u64::MAX, 0, 1 << 40, i64::MAX as u64].get(rng.random_range(0..4)).unwrap();
                let end = (at + 8).min(mutant.len());
                mutant[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
                "a number"
            }
            _ => {
                let from = rng.random_range(0..near);
                let length = rng.random_range(0..64).min(bytes.len() - from);
                let to = rng.random_range(0..bytes.len());
                let piece = bytes[from..from + length].to_vec();
                mutant.splice(to..to, piece);
                "a piece twice"
            }
        };
        (format!("{kind}, case {i} of seed {seed}"), mutant)
    })
}

/// How many times the usual number of cases to try.
fn times() -> usize {
    std::env::var("VITRUM_HOSTILE_TIMES").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn mutate(file: &str, seed: u64, count: usize) -> Range {
    let count = count * times();
    let mut range = Range::new();
    let path = golden(file);
    let bytes = std::fs::read(&path).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    for (case, mutant) in mutations(&bytes, seed, count) {
        range.try_file(&format!("{file}: {case}"), name, &mutant);
    }
    assert!(range.refused > count / 5, "{file}: only {} of {count} were refused", range.refused);
    range
}

#[test]
fn broken_safetensors() {
    mutate("timm/model.safetensors", 1, 400);
    mutate("hf_vit/model.safetensors", 2, 100);
}

#[test]
fn broken_npz() {
    mutate("google.npz", 3, 300);
    mutate("google_in21k.npz", 4, 200);
    mutate("big_vision.npz", 5, 100);
}

#[test]
fn broken_pth() {
    mutate("timm_train.pth.tar", 6, 250);
    mutate("deit_legacy.pth", 7, 300);
    mutate("torchvision.pth", 8, 150);
}

#[test]
fn broken_torchscript() {
    mutate("traced.pt", 14, 200);
    mutate("scripted_views.pt", 15, 300);
}

/// A TorchScript archive with this pickle and eight bytes of storage.
fn torchscript(range: &Range, pickle: &[u8]) -> PathBuf {
    use std::io::Write;
    let path = range.folder.path().join("script.pt");
    let mut archive = npyz::npz::NpzWriter::create(&path).unwrap();
    let zip = archive.zip_writer();
    let entries: [(&str, &[u8]); 3] =
        [("m/data.pkl", pickle), ("m/constants.pkl", b"\x80\x02)."), ("m/data/0", &[0; 8])];
    for (name, bytes) in entries {
        zip.start_file(name, Default::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    drop(archive);
    path
}

#[test]
fn torchscript_that_lies() {
    let mut range = Range::new();
    let object =
        |attributes: &[u8]| [b"\x80\x02c__torch__\nM\nq\x00)\x81}(".as_slice(), attributes, b"ub."].concat();
    let number = |n: u32| [b"J".as_slice(), &n.to_le_bytes()].concat();
    let tensor = |key: &[u8], offset: u32, shape: &[u32], steps: &[u32]| {
        let tuple = |numbers: &[u32]| {
            let all: Vec<u8> = numbers.iter().flat_map(|n| number(*n)).collect();
            [b"(".as_slice(), &all, b"t"].concat()
        };
        let length = (key.len() as u32).to_le_bytes();
        let id: [&[u8]; 6] = [
            b"((X\x07\0\0\0storagectorch\nFloatStorage\nX",
            &length,
            key,
            b"X\x03\0\0\0cpuK\x02tQ",
            &number(offset),
            &[tuple(shape), tuple(steps)].concat(),
        ];
        let name = b"X\x09\0\0\0cls_tokenctorch._utils\n_rebuild_tensor_v2\n";
        object(&[name.as_slice(), &id.concat(), b"\x89ccollections\nOrderedDict\n)RtR"].concat())
    };
    let whole = torchscript(&range, &tensor(b"0", 0, &[2], &[1]));
    assert_eq!(read(&whole).unwrap().tensors["cls_token"].shape(), [2], "the case that does not lie");
    // A list that is kept and grows, a step at a time.
    let growing = [b"\x80\x02]q\0".as_slice(), &b"h\0N\x61q\0".repeat(100_000), b"."].concat();
    // Each table holds the one before twice.
    let doubling: Vec<u8> = (0..60).flat_map(|_| *b"q\x01}(X\x01\0\0\0ah\x01X\x01\0\0\0bh\x01u").collect();
    let cases: [(&str, Vec<u8>); 14] = [
        ("a call", object(b"X\x01\0\0\0acos\nsystem\nX\x08\0\0\0touch /x\x85R")),
        ("repeated", tensor(b"0", 0, &[1 << 14, 1 << 14], &[0, 0])),
        ("huge", tensor(b"0", 0, &[u32::MAX >> 1; 8], &[0; 8])),
        ("beyond", tensor(b"0", 1, &[2], &[1])),
        ("far beyond", tensor(b"0", u32::MAX >> 1, &[2], &[u32::MAX >> 1])),
        ("negative", tensor(b"0", 0, &[u32::MAX], &[1])),
        ("more steps than axes", tensor(b"0", 0, &[2], &[1, 1])),
        ("no such storage", tensor(b"7", 0, &[2], &[1])),
        ("a path", tensor(b"../../etc/passwd", 0, &[2], &[1])),
        ("deep lists", [b"\x80\x02)".as_slice(), &b"\x85".repeat(1_000_000), b"."].concat()),
        ("growing", growing),
        ("doubling", [b"\x80\x02)".as_slice(), &doubling, b"."].concat()),
        ("no end", b"\x80\x02(((".to_vec()),
        ("an empty stack", b"\x80\x02tR.".to_vec()),
    ];
    for (case, pickle) in cases {
        let path = torchscript(&range, &pickle);
        assert!(range.try_path(case, &path) == Outcome::Refused, "{case}");
    }
    assert!(!Path::new("/x").exists());
}

#[test]
fn broken_cards() {
    let mut range = Range::new();
    let mut count = 0;
    for (file, seed) in
        [("timm/config.json", 9), ("hf_vit/config.json", 10), ("hf_vit/preprocessor_config.json", 11)]
    {
        let path = golden(file);
        let name = path.file_name().unwrap().to_str().unwrap();
        std::fs::copy(golden("hf_vit/config.json"), range.folder.path().join("config.json")).unwrap();
        for (case, mutant) in mutations(&std::fs::read(&path).unwrap(), seed, 150 * times()) {
            std::fs::write(range.folder.path().join(name), &mutant).unwrap();
            let config = range.folder.path().join("config.json");
            let result = catch_unwind(AssertUnwindSafe(|| ModelCard::read(&config, &tiny_any)));
            let result = result.unwrap_or_else(|_| panic!("{file}: {case}: panicked"));
            if let Err(e) = result {
                let text = e.to_string();
                assert!(text.contains(name) || text.contains("config.json"), "{file}: {case}: {text}");
                range.refused += 1;
            }
            count += 1;
        }
    }
    assert!(count == 450 * times() && range.refused > 100, "{}", range.refused);
}

/// A safetensors file from the text of its header and its data.
fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

#[test]
fn safetensors_that_lie() {
    let mut range = Range::new();
    let f32s = |name: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let many: Vec<String> = (0..10_001).map(|i| f32s(&format!("t{i}"), "[0]", "[0,0]")).collect();
    let deep = format!(r#"{{"__metadata__":{}1{}}}"#, r#"{"a":"#.repeat(100_000), "}".repeat(100_000));
    let cases = [
        ("huge shape", format!("{{{}}}", f32s("a", "[4294967296,4294967296,4294967296]", "[0,8]")), 8),
        (
            "zero times huge",
            format!("{{{}}}", f32s("a", "[0,18446744073709551615,18446744073709551615]", "[0,0]")),
            0,
        ),
        ("beyond the file", format!("{{{}}}", f32s("a", "[1000000000]", "[0,4000000000]")), 8),
        ("end before start", format!("{{{}}}", f32s("a", "[2]", "[8,0]")), 8),
        ("overlapping", format!("{{{},{}}}", f32s("a", "[2]", "[0,8]"), f32s("b", "[2]", "[4,12]")), 12),
        ("gap", format!("{{{},{}}}", f32s("a", "[1]", "[0,4]"), f32s("b", "[1]", "[8,12]")), 12),
        ("same name twice", format!("{{{},{}}}", f32s("a", "[1]", "[0,4]"), f32s("a", "[1,1]", "[0,4]")), 4),
        ("negative shape", format!("{{{}}}", f32s("a", "[-1]", "[0,4]")), 4),
        ("shape of floats", format!("{{{}}}", f32s("a", "[1.5]", "[0,4]")), 4),
        ("nine axes", format!("{{{}}}", f32s("a", "[1,1,1,1,1,1,1,1,1]", "[0,4]")), 4),
        ("unknown type", r#"{"a":{"dtype":"Q7","shape":[1],"data_offsets":[0,4]}}"#.to_string(), 4),
        ("four-bit type", r#"{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}"#.to_string(), 1),
        ("trailing data", format!("{{{}}}", f32s("a", "[1]", "[0,4]")), 8),
        ("too many tensors", format!("{{{}}}", many.join(",")), 0),
        ("deep metadata", deep, 0),
        ("a list", "[1,2,3]".to_string(), 0),
        ("nothing", "{}".to_string(), 0),
        ("control characters in a name", format!("{{{}}}", f32s("a\\u0000\\u001b[31m", "[2]", "[0,4]")), 4),
    ];
    for (case, header, bytes) in &cases {
        let outcome = range.try_file(case, "model.safetensors", &safetensors(header, &vec![0; *bytes]));
        assert!(outcome == Outcome::Refused, "{case}");
    }
    for length in [0u64, 1, 100, 10 << 20, (10 << 20) + 1, 100_000_000, u64::MAX, u64::MAX - 7, 1 << 63] {
        let outcome =
            range.try_file(&format!("header of {length}"), "model.safetensors", &length.to_le_bytes());
        assert!(outcome == Outcome::Refused, "header of {length}");
    }
}

#[test]
fn shards_stay_in_their_folder() {
    let mut range = Range::new();
    let names = [
        "../../etc/passwd",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a/../../b.safetensors",
        "sub/model.safetensors",
        "..\\model.safetensors",
        "C:model.safetensors",
        "model.safetensors\\u0000.txt",
        "missing.safetensors",
        "model.safetensors.index.json",
        "./model.safetensors",
    ];
    for name in names {
        let index = format!(r#"{{"metadata": {{}}, "weight_map": {{"cls_token": {name:?}}}}}"#)
            .replace("\\\\u", "\\u");
        let outcome = range.try_file(name, "model.safetensors.index.json", index.as_bytes());
        assert!(outcome == Outcome::Refused, "{name}");
    }
    // A shard that does not hold what the index says, and one that holds more.
    let copy = range.folder.path().join("part.safetensors");
    std::fs::copy(golden("hf_sharded/model-00003-of-00003.safetensors"), copy).unwrap();
    for map in [r#"{"nowhere": "part.safetensors"}"#, r#"{"vit.layernorm.bias": "part.safetensors"}"#] {
        let index = format!(r#"{{"weight_map": {map}}}"#);
        assert!(range.try_file(map, "model.safetensors.index.json", index.as_bytes()) == Outcome::Refused);
    }
    let bytes = std::fs::read(golden("hf_sharded/model.safetensors.index.json")).unwrap();
    for (case, mutant) in mutations(&bytes, 12, 100 * times()) {
        range.try_file(&format!("index: {case}"), "model.safetensors.index.json", &mutant);
    }
}

/// An `.npy` file from its header's text.
fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
}

#[test]
fn arrays_that_lie() {
    let mut range = Range::new();
    let deep = format!(
        "{{'descr': {}'<f4'{}, 'fortran_order': False, 'shape': (1,)}}",
        "[".repeat(15_000),
        "]".repeat(1_000)
    );
    let cases = [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4294967296)}",
        "{'descr': '<f4', 'fortran_order': True, 'shape': (1000000000,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<U4', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f999999999999', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1, 1, 1, 1)}",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': 7, 'shape': (1,)}",
        "not python",
        "",
        &deep,
    ];
    for header in cases {
        assert!(range.try_file(header, "x.npy", &npy(header, &[0; 4])) == Outcome::Refused, "{header}");
    }
    // A header of 4 GiB, announced and absent.
    let announced = [b"\x93NUMPY\x02\x00", &u32::MAX.to_le_bytes()[..], b"{}"].concat();
    assert!(range.try_file("4 GiB header", "x.npy", &announced) == Outcome::Refused);
    // Both byte orders and both axis orders of one array, which is fine.
    let big =
        npy("{'descr': '>f4', 'fortran_order': True, 'shape': (2, 1)}", &[0x3f, 0x80, 0, 0, 0x40, 0, 0, 0]);
    let path = range.folder.path().join("fine.npy");
    std::fs::write(&path, big).unwrap();
    let map = read(&path).unwrap();
    assert_eq!(map.get("fine"), Some(&HostTensor::from_f32(vec![2, 1], &[1.0, 2.0]).unwrap()));
}

#[test]
fn archives_that_unpack_to_too_much() {
    use std::io::Write;
    // 200 MB of zeros deflate to about 200 KB. npyz writes the archive; its headers are true.
    let mut range = Range::new();
    let path = range.folder.path().join("bomb.npz");
    let mut npz = npyz::npz::NpzWriter::create(&path).unwrap();
    let zip = npz.zip_writer();
    zip.start_file("embedding/kernel.npy", Default::default()).unwrap();
    zip.write_all(&npy("{'descr': '<f4', 'fortran_order': False, 'shape': (50000000,)}", &[])).unwrap();
    for _ in 0..200 {
        zip.write_all(&vec![0; 1_000_000]).unwrap();
    }
    zip.finish().unwrap();
    drop(npz);
    assert!(std::fs::metadata(&path).unwrap().len() < 1_000_000);
    let error = read(&path).unwrap_err();
    assert!(matches!(&error, LoadError::TooLarge { what, .. } if what.contains("unpacked")), "{error}");

    // The same with a size in its headers that is too small: reading stops where the header said.
    let mut bytes = std::fs::read(&path).unwrap();
    let (real, small) = (read_size(&bytes), 1000u32.to_le_bytes());
    for at in 0..bytes.len() - 4 {
        if bytes[at..at + 4] == real {
            bytes[at..at + 4].copy_from_slice(&small);
        }
    }
    assert!(range.try_file("understated size", "bomb2.npz", &bytes) == Outcome::Refused);
}

#[test]
fn a_view_that_repeats_its_storage_is_refused() {
    // One number in the file, shown as 2^28 of them.
    let error = read(golden("expanded.pth")).unwrap_err();
    assert!(matches!(&error, LoadError::TooLarge { what, .. } if what.contains("all tensors")), "{error}");
}

/// The uncompressed size in the first central directory entry.
fn read_size(zip: &[u8]) -> [u8; 4] {
    let entry = zip.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    zip[entry + 24..entry + 28].try_into().unwrap()
}

#[test]
fn things_that_are_no_checkpoint() {
    let mut range = Range::new();
    let deep_pickle = [b"\x80\x02".as_slice(), &b"]".repeat(200_000), b"."].concat();
    let memo_bomb = [b"\x80\x02]q\x00".as_slice(), &b"h\x00h\x00h\x00".repeat(50_000), b"."].concat();
    let long_string = [b"\x80\x02\x8b\xff\xff\xff\x7f".as_slice(), b"abc"].concat();
    let call = b"cos\nsystem\n(S'touch /tmp/vitrum_was_here'\ntR.".to_vec();
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("empty", "a.pth", vec![]),
        ("web page", "model.safetensors", b"<!DOCTYPE html><html>404</html>".to_vec()),
        (
            "LFS pointer",
            "model.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(),
        ),
        ("JSON", "config.json", b"{\"a\": 1}".to_vec()),
        ("text", "notes.txt", b"These are the weights you are looking for.".to_vec()),
        ("deep pickle", "a.pth", deep_pickle),
        ("memo bomb", "a.pth", memo_bomb),
        ("long string", "a.pth", long_string),
        ("pickle that calls", "a.pth", call),
        ("tar", "a.tar", [vec![b'x'; 257], b"ustar".to_vec(), vec![0; 512]].concat()),
        ("empty zip", "a.npz", [b"PK\x05\x06".as_slice(), &[0; 18]].concat()),
        ("nine nulls", "a.bin", vec![0; 9]),
    ];
    for (case, name, bytes) in cases {
        assert!(range.try_file(case, name, &bytes) == Outcome::Refused, "{case}");
    }
    assert!(!Path::new("/tmp/vitrum_was_here").exists(), "nothing in a pickle is executed");
    let missing = range.folder.path().join("missing.pth");
    assert!(range.try_path("missing", &missing) == Outcome::Refused);
    let empty_folder = range.folder.path().join("empty");
    std::fs::create_dir(&empty_folder).unwrap();
    assert!(range.try_path("empty folder", &empty_folder) == Outcome::Refused);
    // Two files that could both be meant.
    for name in ["a.npz", "b.npz"] {
        std::fs::copy(golden("google.npz"), empty_folder.join(name)).unwrap();
    }
    let error = read(&empty_folder).unwrap_err().to_string();
    assert!(error.contains("a.npz and b.npz"), "{error}");
}

#[test]
fn tensors_of_every_shape_under_every_name() {
    // Names right, shapes at random: no conversion may index beyond a tensor.
    let mut rng = ChaCha8Rng::seed_from_u64(13);
    let files =
        ["timm", "hf_vit", "hf_deit", "torchvision.pth", "google.npz", "google_in21k.npz", "big_vision.npz"];
    let read = files.into_iter().map(|file| (file.to_string(), read(golden(file)).unwrap(), 60));
    let beits = crate::models::beit::files().into_iter().map(|(file, map)| (file, map, 6));
    for (file, real, count) in read.chain(beits) {
        for case in 0..count * times() {
            let mut map = TensorMap::new(PathBuf::from("random shapes"));
            for (name, tensor) in &real.tensors {
                let tensor = match rng.random_range(0..4) {
                    0 => {
                        let rank = rng.random_range(0..6);
                        let shape: Vec<usize> = (0..rank).map(|_| rng.random_range(0..5)).collect();
                        HostTensor::from_f32(shape.clone(), &vec![1.0; shape.iter().product()]).unwrap()
                    }
                    1 if rng.random_bool(0.2) => continue,
                    _ => tensor.clone(),
                };
                map.tensors.insert(name.clone(), tensor);
            }
            let result = catch_unwind(AssertUnwindSafe(|| {
                let converted = to_timm(map)?;
                into_models(&converted)?;
                infer_config(&converted.map, Some(&tiny("").unwrap()))
            }));
            let result = result.unwrap_or_else(|_| panic!("{file}: case {case} panicked"));
            if let Err(e) = result {
                assert!(e.to_string().contains("random shapes"), "{file}: {e}");
            }
        }
    }
}

#[test]
fn a_card_of_any_size_is_refused_before_it_is_parsed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(17 << 20).unwrap();
    let error = ModelCard::read(&path, &tiny_any).unwrap_err();
    assert!(matches!(error, LoadError::TooLarge { .. }), "{error}");
    // Inspecting a folder with a broken card still describes its tensors.
    std::fs::write(&path, "{").unwrap();
    std::fs::copy(golden("timm/model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let inspection = inspect(folder.path(), &tiny_any).unwrap();
    assert!(inspection.card.is_none() && inspection.card_error.unwrap().contains("config.json"));
}
