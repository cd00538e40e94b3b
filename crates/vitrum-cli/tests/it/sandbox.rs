//! A folder with a tiny model, and the binary run inside it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use burn::tensor::Device;
use serde_json::Value;
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::write::{WriteOptions, write_safetensors, write_timm};
use vitrum::checkpoint::{HostTensor, ModelCard, TensorMap};
use vitrum::data::demo::CLASSES;
use vitrum::data::{CropMode, Interpolation, Preprocess};
use vitrum::models::{Config, ModelConfig, VitConfig, catalogue};

/// A folder of its own for each test; paths given to commands are relative to it.
pub struct Sandbox {
    folder: TempDir,
}

/// How a run of the binary ended.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }

    /// Rows of CSV as maps from the header's names.
    pub fn csv(&self) -> Vec<BTreeMap<String, String>> {
        csv_rows(&self.out)
    }
}

/// Rows of CSV as maps from the header's names.
pub fn csv_rows(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(|row| row.expect("a row of CSV")).collect()
}

impl Sandbox {
    /// An empty folder.
    pub fn empty() -> Self {
        Self { folder: TempDir::new().expect("a temporary folder") }
    }

    /// A folder with `model/`: a ViT for 32 pixels and the ten classes of the demo set.
    pub fn new() -> Self {
        let sandbox = Self::empty();
        sandbox.model("model", &tiny());
        sandbox
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).expect("writing a test file");
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("reading a test file")
    }

    /// Names of everything in the folder, sorted.
    pub fn listing(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).expect("listing a test folder");
        let mut names: Vec<String> =
            entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// A timm folder with weights that are the same on every run.
    pub fn model(&self, name: &str, config: &VitConfig) {
        let model = ModelConfig::Vit(config.clone()).init(&Device::flex(), 7).expect("a tiny model");
        let mut map = collect(&model);
        for (at, (key, tensor)) in map.tensors.iter_mut().enumerate() {
            let near = if key.contains("norm") && key.ends_with("weight") { 1.0 } else { 0.0 };
            let values: Vec<f32> =
                noise(at as u64, tensor.num_elements()).iter().map(|v| near + 0.4 * v).collect();
            *tensor = HostTensor::from_f32(tensor.shape().to_vec(), &values).expect("the tensor's own shape");
        }
        let mut card = ModelCard::new(config.clone(), CardSource::Timm, self.path(name));
        card.architecture = Some("test_vit".into());
        card.labels = Some(CLASSES.iter().take(config.num_classes).map(ToString::to_string).collect());
        card.preprocess = Some(Preprocess {
            input_size: [config.in_chans, config.img_size[0], config.img_size[1]],
            interpolation: Interpolation::Bicubic,
            crop_pct: 1.0,
            crop_mode: CropMode::Center,
            mean: vec![0.5; config.in_chans],
            std: vec![0.5; config.in_chans],
        });
        let base = &catalogue::entry("test_vit").expect("timm's test model").config;
        write_timm(&self.path(name), &map, &card, base, &WriteOptions::default()).expect("writing a model");
    }

    /// A safetensors file with `input`.
    pub fn input(&self, name: &str, shape: [usize; 4]) {
        self.tensors(name, &[("input", &shape, &noise(99, shape.iter().product()))]);
    }

    /// A safetensors file of f32 tensors.
    pub fn tensors(&self, name: &str, tensors: &[(&str, &[usize], &[f32])]) {
        let mut map = TensorMap::new(self.path(name));
        for (key, shape, values) in tensors {
            let tensor = HostTensor::from_f32(shape.to_vec(), values).expect("a tensor of that shape");
            map.tensors.insert((*key).to_string(), tensor);
        }
        self.store(name, &map);
    }

    pub fn store(&self, name: &str, map: &TensorMap) {
        let options = WriteOptions { dtype: None, overwrite: true };
        write_safetensors(&self.path(name), map, &options).expect("writing tensors");
    }

    pub fn load(&self, name: &str) -> TensorMap {
        vitrum::checkpoint::read(self.path(name)).expect("reading tensors")
    }

    /// A 32x32 PNG that depends on `seed`; returns its values as the model's preprocessing makes them, `[3, 32, 32]`.
    pub fn picture(&self, name: &str, seed: u64) -> Vec<f32> {
        let bytes: Vec<u8> = noise(seed, 32 * 32 * 3).iter().map(|v| ((v + 1.0) * 127.0) as u8).collect();
        image::save_buffer(self.path(name), &bytes, 32, 32, image::ExtendedColorType::Rgb8)
            .expect("writing a picture");
        let value = |c: usize, i: usize| (f32::from(bytes[3 * i + c]) / 255.0 - 0.5) / 0.5;
        (0..3).flat_map(|c| (0..1024).map(move |i| (c, i))).map(|(c, i)| value(c, i)).collect()
    }

    /// The binary with arguments, in the folder, without what the environment might say.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("vitrum"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null());
        for name in ["VITRUM_MODEL", "VITRUM_DEVICE", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command.env("VITRUM_THREADS", "1").env("HF_HUB_OFFLINE", "1");
        command
    }

    /// Runs the binary with arguments separated by blanks. It must never panic, nor be killed.
    pub fn run(&self, args: &str) -> Ran {
        self.run_args(args.split_whitespace())
    }

    pub fn run_args<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        let output = self.command(args).output().expect("the binary runs");
        let ran = Ran {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        assert!((0..=3).contains(&ran.code), "exit code: {ran:?}");
        assert!(!ran.err.contains("panicked"), "a panic: {ran:?}");
        ran
    }

    /// A run that succeeds.
    pub fn ok(&self, args: &str) -> Ran {
        self.ends(args, 0)
    }

    /// A run that ends with `code`.
    pub fn ends(&self, args: &str, code: i32) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "vitrum {args}: {ran:?}");
        ran
    }

    /// A run that fails with `code`: nothing on stdout, nothing new in the folder, all of `texts` on stderr.
    pub fn fails(&self, args: &str, code: i32, texts: &[&str]) {
        let before = self.listing();
        let ran = self.ends(args, code);
        assert_eq!(ran.out, "", "vitrum {args}: output of a failed run");
        for text in texts {
            assert!(ran.err.contains(text), "vitrum {args}: no '{text}' in:\n{}", ran.err);
        }
        assert!(!ran.err.contains("panicked"), "vitrum {args}: talk of a panic:\n{}", ran.err);
        assert_eq!(self.listing(), before, "vitrum {args}: a failed run leaves nothing");
    }
}

/// Sixteen patches of 8 pixels, width 16, two blocks, ten classes.
pub fn tiny() -> VitConfig {
    VitConfig {
        img_size: [32, 32],
        patch_size: [8, 8],
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2.0,
        num_classes: 10,
        ..VitConfig::default()
    }
}

/// Numbers in [-1, 1) that depend on seed and index alone (splitmix64).
pub fn noise(seed: u64, count: usize) -> Vec<f32> {
    let number = |i: usize| {
        let mut x = (seed << 32).wrapping_add(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(number).collect()
}

/// Largest difference over largest value of `b`.
pub fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    let largest = b.iter().fold(f64::MIN_POSITIVE, |m, v| m.max(v.abs()));
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / largest
}
