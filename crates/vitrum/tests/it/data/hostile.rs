//! Damaged and malicious input: every case ends in a value or in an error that names its file, never in a panic,
//! and memory stays bounded.

use std::io::Cursor;
use std::panic::catch_unwind;
use std::path::Path;

use image::ImageFormat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use vitrum::checkpoint::ModelCard;
use vitrum::data::dataset::ClassMap;
use vitrum::data::{DatasetOptions, DecodeOptions, RgbImage, decode, open_dataset};

use crate::data::{gz, pattern, tar, write};

fn encode(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let color = image::ExtendedColorType::Rgb8;
    image::write_buffer_with_format(&mut bytes, image.data(), image.width(), image.height(), color, format)
        .unwrap();
    bytes.into_inner()
}

/// Some valid images of every format, and the golden files, which cover palettes, inks, 16 bits and animations.
fn valid_images() -> Vec<(String, Vec<u8>)> {
    let picture = pattern::pattern(2, 1, 29, 31);
    let formats = [
        ("jpg", ImageFormat::Jpeg),
        ("png", ImageFormat::Png),
        ("webp", ImageFormat::WebP),
        ("gif", ImageFormat::Gif),
        ("bmp", ImageFormat::Bmp),
        ("tiff", ImageFormat::Tiff),
    ];
    let mut images: Vec<_> =
        formats.map(|(name, format)| (format!("generated.{name}"), encode(&picture, format))).to_vec();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/decode");
    for entry in std::fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        images
            .push((path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()));
    }
    images.sort();
    images
}

/// Cuts, flips bits, overwrites and repeats.
fn damage(valid: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    match rng.random_range(0..4) {
        0 => bytes.truncate(rng.random_range(0..bytes.len())),
        1 => {
            for _ in 0..rng.random_range(1..20) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        2 => {
            // Headers are where lengths and sizes are.
            for _ in 0..rng.random_range(1..4) {
                let at = rng.random_range(0..bytes.len().min(64));
                bytes[at] = *[0, 1, 0x7f, 0x80, 0xff].get(rng.random_range(0..5)).unwrap();
            }
        }
        _ => {
            let from = rng.random_range(0..bytes.len());
            let piece = bytes[from..(from + rng.random_range(1..200)).min(bytes.len())].to_vec();
            let at = rng.random_range(0..bytes.len());
            bytes.splice(at..at, piece);
        }
    }
    bytes
}

#[test]
fn damaged_images_are_errors_or_images() {
    let root = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (mut cases, mut errors, mut failures) = (0, 0, Vec::new());
    for (name, valid) in valid_images() {
        for case in 0..25 {
            let damaged = damage(&valid, &mut rng);
            let file = format!("{case}-{name}");
            let path = write(root.path(), &file, &damaged);
            let result = catch_unwind(|| decode::open(&path, &DecodeOptions::default()));
            cases += 1;
            match result {
                Err(_) => failures.push(format!("{file}: panicked")),
                Ok(Err(error)) if !error.to_string().contains(&file) => {
                    failures.push(format!("not named: {error}"))
                }
                Ok(Err(error)) if error.to_string().contains("panicked") => {
                    println!("contained: {error}");
                    errors += 1;
                }
                Ok(Err(_)) => errors += 1,
                Ok(Ok(_)) => {}
            }
        }
    }
    println!("{cases} damaged images, {errors} errors");
    assert!(cases >= 1000 && errors > cases / 4, "{cases} cases, {errors} errors");
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Every cut of every format is an error: no half image is taken for a whole one.
#[test]
fn truncated_images_are_errors() {
    let picture = pattern::pattern(0, 1, 40, 40);
    for format in
        [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff]
    {
        let valid = encode(&picture, format);
        for share in 1..20 {
            let cut = &valid[..valid.len() * share / 20];
            let result = decode::decode(cut, &DecodeOptions::default());
            assert!(result.is_err(), "{format:?} cut to {share}/20 was taken for {:?}", result.unwrap());
        }
    }
}

/// Peak resident memory of this process in bytes, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

/// Headers that declare enormous images in a few bytes.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let valid = |format| encode(&pattern::pattern(2, 1, 16, 16), format);
    let with = |mut bytes: Vec<u8>, at: usize, value: &[u8]| {
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let mut png = with(valid(ImageFormat::Png), 16, &[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let jpeg = valid(ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let gif = with(valid(ImageFormat::Gif), 6, &[0xff; 4]);
    let gif_frame = gif.windows(3).position(|w| w == [0x2c, 0, 0]).unwrap();
    let webp = valid(ImageFormat::WebP);
    let lossless = webp.windows(4).position(|w| w == b"VP8L").unwrap() + 9;
    vec![
        ("png", png),
        ("jpeg", with(jpeg, frame + 5, &[0xff; 4])),
        ("gif canvas", gif),
        ("gif frame", with(valid(ImageFormat::Gif), gif_frame + 5, &[0xff; 4])),
        ("bmp", with(valid(ImageFormat::Bmp), 18, &[0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0xff, 0x3f])),
        ("bmp at the limit", with(valid(ImageFormat::Bmp), 18, &[0, 0x40, 0, 0, 0x55, 0x15, 0, 0])),
        ("webp", with(webp, lossless, &[0xff, 0xff, 0xff, 0x0f])),
        ("tiff", tiff_of(60_000, 60_000)),
        ("tiff at the limit", tiff_of(16_384, 5461)),
    ]
}

/// A TIFF that declares a size and holds no strip.
fn tiff_of(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    let entries: [(u16, u32); 9] = [
        (256, width),
        (257, height),
        (258, 8),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 10),
    ];
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(4_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, &byte: &u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
    };
    !bytes.iter().fold(u32::MAX, step)
}

#[test]
fn image_bombs_cost_no_memory() {
    let bombs = bombs();
    let before = peak_memory();
    for (name, bytes) in &bombs {
        let started = std::time::Instant::now();
        let error = decode::decode(bytes, &DecodeOptions::default()).expect_err(name);
        println!("{name}: {error}");
        assert!(started.elapsed().as_secs() < 5, "{name} took {:?}", started.elapsed());
    }
    let (Some(before), Some(after)) = (before, peak_memory()) else {
        println!("skipped: this system does not tell its peak memory");
        return;
    };
    // Other tests run in this process at the same time; a bomb that went off would need gigabytes.
    let grown = after - before;
    println!("peak memory grew by {} MiB", grown >> 20);
    assert!(grown < 600 << 20, "peak memory grew by {} MiB", grown >> 20);
}

/// Reads a dataset to its end or first error.
fn read_all(path: &Path) -> Result<usize, String> {
    let mut source = open_dataset(path, &DatasetOptions::default()).map_err(|error| error.to_string())?;
    let mut count = 0;
    while let Some(sample) = source.next_sample().map_err(|error| error.to_string())? {
        assert!(!sample.name.is_empty());
        count += 1;
    }
    Ok(count)
}

fn valid_datasets() -> Vec<(&'static str, Vec<u8>)> {
    let image = encode(&pattern::pattern(0, 1, 5, 5), ImageFormat::Png);
    let archive =
        tar(&[("train/cat/1.png", &image), ("train/dog/2.png", &image), ("train/dog/3.png", &image)]);
    let mut idx = vec![0, 0, 8, 3, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 4];
    idx.extend([7; 9 * 16]);
    let cifar = [[3_u8; 1].as_slice(), &[9; 3072]].concat().repeat(2);
    let table = "file,class_index,name\na.png,1,dog\nb.png,0,\"cat, grey\"\nc.png,1,dog\n".repeat(3);
    vec![
        ("set.tar.gz", gz(&archive)),
        ("set.tar", archive),
        ("images-idx3-ubyte.gz", gz(&idx)),
        ("images-idx3-ubyte", idx),
        ("test_batch.bin", cifar),
        ("table.tsv", table.replace(',', "\t").into_bytes()),
        ("table.csv", table.into_bytes()),
    ]
}

#[test]
fn damaged_datasets_are_errors_that_name_the_file() {
    let root = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let (mut cases, mut errors, mut failures) = (0, 0, Vec::new());
    for (name, valid) in valid_datasets() {
        for case in 0..150 {
            let folder = format!("case-{case}");
            let path = write(root.path(), &format!("{folder}/{name}"), &damage(&valid, &mut rng));
            cases += 1;
            match catch_unwind(|| read_all(&path)) {
                Err(_) => failures.push(format!("{folder}/{name}: panicked")),
                Ok(Err(error)) if !error.contains(name) => failures.push(format!("not named: {error}")),
                Ok(Err(_)) => errors += 1,
                Ok(Ok(_)) => {}
            }
        }
    }
    println!("{cases} damaged datasets, {errors} errors");
    assert!(cases >= 1000 && errors > cases / 5, "{cases} cases, {errors} errors");
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn archives_of_many_members_stay_small() {
    let root = tempfile::tempdir().unwrap();
    // Zero bytes compress a thousandfold: 200 MB of members in 200 KB.
    let zeros = vec![0; 1 << 20];
    let names: Vec<String> = (0..200).map(|n| format!("set/zeros/{n}.png")).collect();
    let members: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), zeros.as_slice())).collect();
    let path = write(root.path(), "zeros.tar.gz", &gz(&tar(&members)));
    drop(members);
    assert!(std::fs::metadata(&path).unwrap().len() < 2 << 20);
    let before = peak_memory();
    assert_eq!(read_all(&path), Ok(200));
    if let (Some(before), Some(after)) = (before, peak_memory()) {
        assert!(after - before < 600 << 20, "peak memory grew by {} MiB", (after - before) >> 20);
    }
}

#[test]
fn empty_files_are_called_empty() {
    let folder = tempfile::tempdir().unwrap();
    let empty = |name: &str| write(folder.path(), name, b"");
    let refused =
        |path: &Path| open_dataset(path, &DatasetOptions::default()).err().expect("refused").to_string();
    let mut told = Vec::new();
    told.push(decode::open(empty("a.jpg"), &DecodeOptions::default()).unwrap_err().to_string());
    for name in ["t.csv", "t.tar", "t.idx3-ubyte", "test_batch.bin"] {
        told.push(refused(&empty(name)));
    }
    told.push(refused(&write(folder.path(), "t.tar.gz", &gz(b""))));
    told.push(refused(empty("mnist/t10k-images-idx3-ubyte").parent().unwrap()));
    told.push(ClassMap::open(empty("classes.txt")).unwrap_err().to_string());
    let base = |_: &str| Ok(vitrum::models::VitConfig::default().into());
    told.push(ModelCard::read(&empty("config.json"), &base).unwrap_err().to_string());
    for name in ["m.safetensors", "m.npz", "m.pth"] {
        told.push(vitrum::checkpoint::read(empty(name)).unwrap_err().to_string());
    }
    assert_eq!(told.len(), 12);
    for message in told {
        assert!(message.contains("the file is empty"), "{message}");
        assert!(message.contains(&*folder.path().to_string_lossy()), "{message}");
    }
}
