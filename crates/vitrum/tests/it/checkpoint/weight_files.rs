//! Which file holds the weights: folders of training scripts, indices of shards, files of other programs, links.

use std::path::Path;

use tempfile::TempDir;
use vitrum::checkpoint::dialect::to_timm;
use vitrum::checkpoint::inspect::verify;
use vitrum::checkpoint::{LoadError, read};

use crate::checkpoint::{formula, golden};

/// A folder with copies of one small checkpoint under these names.
fn folder(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        std::fs::copy(golden("torchvision.pth"), folder.path().join(name)).unwrap();
    }
    folder
}

fn chosen(names: &[&str]) -> (String, Vec<String>) {
    let folder = folder(names);
    let map = read(folder.path()).unwrap_or_else(|error| panic!("{names:?}: {error}"));
    (map.path.file_name().unwrap().to_string_lossy().into_owned(), map.notes)
}

#[test]
fn a_folder_of_a_training_script_gives_the_best_epoch_else_the_last() {
    for (names, expected) in [
        (&["model_best.pth.tar"][..], "model_best.pth.tar"),
        (&["checkpoint-12.pth.tar"], "checkpoint-12.pth.tar"),
        (
            &["model_best.pth.tar", "last.pth.tar", "checkpoint-12.pth.tar", "checkpoint-9.pth.tar"],
            "model_best.pth.tar",
        ),
        (&["last.pth.tar", "checkpoint-12.pth.tar"], "last.pth.tar"),
        (&["checkpoint-9.pth.tar", "checkpoint-12.pth.tar"], "checkpoint-12.pth.tar"),
        (&["checkpoint0009.pth", "checkpoint0010.pth"], "checkpoint0010.pth"),
        (&["checkpoint0009.pth", "checkpoint.pth"], "checkpoint.pth"),
        (&["best.pt", "last.pt"], "best.pt"),
        (&["last.ckpt", "epoch=3-step=40.ckpt"], "last.ckpt"),
        (
            &["pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"],
            "pytorch_model.bin",
        ),
        (&["model.ckpt", "optimizer.bin"], "model.ckpt"),
        (
            &["mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"],
            "mp_rank_00_model_states.pt",
        ),
        (&["pytorch_model.bin", "best.pth"], "pytorch_model.bin"),
    ] {
        let (file, notes) = chosen(names);
        assert_eq!(file, expected, "{names:?}");
        let beside = ["optim", "scheduler", "rng_state", "training_args"];
        let others: Vec<&&str> = names
            .iter()
            .filter(|name| **name != expected && !beside.iter().any(|b| name.contains(b)))
            .collect();
        assert_eq!(notes.len(), usize::from(!others.is_empty()), "{notes:?}");
        for other in others {
            assert!(notes[0].contains(&format!("`{other}`")) && notes[0].contains(expected), "{notes:?}");
        }
    }
}

#[test]
fn several_files_that_could_be_meant_are_listed() {
    for names in [
        &["epoch=3-step=40.ckpt", "epoch=5-step=60.ckpt"][..],
        &["a.pth", "b.pth", "c.pth"],
        &["a1.pth", "b2.pth"],
    ] {
        let error = read(folder(names).path()).unwrap_err();
        assert!(matches!(error, LoadError::Folder { .. }), "{error}");
        let text = error.to_string();
        assert!(names.iter().all(|name| text.contains(name)), "{text}");
    }
}

#[test]
fn an_empty_folder_says_where_weights_are() {
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("checkpoint-500");
    std::fs::create_dir(&inner).unwrap();
    std::fs::copy(golden("torchvision.pth"), inner.join("pytorch_model.bin")).unwrap();
    let text = read(outer.path()).unwrap_err().to_string();
    assert!(text.contains("there are some in checkpoint-500"), "{text}");
    std::fs::write(inner.join("tf_model.h5"), b"\x89HDF\r\n\x1a\n").unwrap();
    std::fs::remove_file(inner.join("pytorch_model.bin")).unwrap();
    let text = read(&inner).unwrap_err().to_string();
    assert!(text.contains("tf_model.h5 is a Keras file"), "{text}");
}

// ---- Shards

/// A copy of the golden index, its text changed.
fn sharded(edit: impl Fn(String) -> String) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("bin_sharded")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let index = folder.path().join(INDEX);
    std::fs::write(&index, edit(std::fs::read_to_string(&index).unwrap())).unwrap();
    folder
}

const INDEX: &str = "pytorch_model.bin.index.json";

#[test]
fn shards_that_torch_saved_are_joined() {
    let folder = sharded(|text| text);
    for path in [folder.path().to_path_buf(), folder.path().join(INDEX)] {
        let map = to_timm(read(&path).unwrap()).unwrap().map;
        assert_eq!(map.len(), crate::checkpoint::timm_shapes().len());
        for (name, tensor) in &map.tensors {
            assert_eq!(tensor.to_f32(), formula(name, tensor.num_elements()), "{name}");
        }
    }
    assert!(verify(&folder.path().join(INDEX), None).unwrap().not_finite.is_empty());
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_refused() {
    let second = "pytorch_model-00002-of-00002.bin";
    let refused = |folder: &TempDir| read(folder.path()).unwrap_err().to_string();
    let missing = sharded(|text| text);
    std::fs::remove_file(missing.path().join(second)).unwrap();
    let text = refused(&missing);
    assert!(text.contains(&format!("its shard `{second}` is not in this folder")), "{text}");
    for (from, to, told) in [
        (
            "\"weight_map\": {",
            "\"weight_map\": {\"cls_token\": \"pytorch_model-00002-of-00002.bin\",",
            "`cls_token`: occurs twice",
        ),
        (second, "../pytorch_model-00002-of-00002.bin", "not a plain file name"),
        (second, INDEX, "is not a file of weights"),
        ("\"cls_token\"", "\"cls_tokens\"", "does not place it here"),
        ("weight_map", "weights", "no index of shards"),
    ] {
        let text = refused(&sharded(|text| text.replace(from, to)));
        assert!(text.contains(told), "{told}: {text}");
    }
}

// ---- Files of other programs

/// A zip archive of empty files.
fn zip_of(names: &[&str]) -> Vec<u8> {
    let (mut out, mut central) = (Vec::new(), Vec::new());
    for name in names {
        let length = (name.len() as u16).to_le_bytes();
        let offset = (out.len() as u32).to_le_bytes();
        let common = [[20, 0, 0, 0, 0, 0, 0, 0, 33, 0].as_slice(), &[0; 12], &length, &[0, 0]].concat();
        out.extend([b"PK\x03\x04".as_slice(), &common, name.as_bytes()].concat());
        central
            .extend([b"PK\x01\x02\x14\0".as_slice(), &common, &[0; 10], &offset, name.as_bytes()].concat());
    }
    let (count, size, start) = (
        (names.len() as u16).to_le_bytes(),
        (central.len() as u32).to_le_bytes(),
        (out.len() as u32).to_le_bytes(),
    );
    out.extend(central);
    out.extend([b"PK\x05\x06\0\0\0\0".as_slice(), &count, &count, &size, &start, &[0, 0]].concat());
    out
}

#[test]
fn files_of_other_programs_are_named_for_what_they_are() {
    let padded = |head: &[u8]| [head, &[0; 600]].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "model.pt2",
            zip_of(&["m/models/model.json", "m/data/weights/weight_0", "m/archive_format"]),
            "torch.export",
        ),
        (
            "old.pt2",
            zip_of(&["serialized_exported_program.json", "serialized_state_dict.pt"]),
            "torch.export",
        ),
        ("model.keras", zip_of(&["config.json", "model.weights.h5"]), "Keras"),
        ("model.zip", zip_of(&["folder/model.safetensors"]), "`folder/model.safetensors` in it"),
        ("tf_model.h5", padded(b"\x89HDF\r\n\x1a\n"), "HDF5"),
        ("renamed.bin", padded(b"\x89HDF\r\n\x1a\n"), "HDF5"),
        ("model.onnx", padded(b"\x08\x08\x12\x07pytorch"), "ONNX"),
        ("model.tflite", padded(b"\x1c\0\0\0TFL3"), "TensorFlow Lite"),
        ("model.gguf", padded(b"GGUF\x03\0\0\0"), "GGUF"),
        ("flax_model.msgpack", padded(b"\x82\xa6params"), "Flax"),
        ("model.ckpt.index", padded(b"\0\0"), "TensorFlow checkpoint"),
        ("model.ckpt.data-00000-of-00001", padded(b"\x01\x02"), "TensorFlow checkpoint"),
        ("__0_0.distcp", padded(b"\x80\x02"), "distributed PyTorch"),
        ("weights.tar.gz", padded(b"\x1f\x8b\x08"), "gzip"),
        ("a.pth", padded(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "Git LFS pointer"),
        ("b.pth", b"\n<!DOCTYPE html><html>Sign in</html>".to_vec(), "a web page"),
        ("c.safetensors", b"{\"error\": \"Repository not found\"}".to_vec(), "no index of shards"),
        ("model.pkl", padded(b"\x80\x04\x95"), "a pickle"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, what) in cases {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = read(&path).unwrap_err();
        assert!(matches!(error, LoadError::Foreign { .. }), "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains(what) && text.contains("\nhint: ") && text.contains(name), "{name}: {text}");
    }
}

#[test]
fn safetensors_may_have_any_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.onnx", "weights.h5", "x.ckpt.index"] {
        let path = folder.path().join(name);
        std::fs::copy(golden("hf_vit/model.safetensors"), &path).unwrap();
        assert!(read(&path).is_ok(), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_that_leads_nowhere_is_named() {
    use burn::tensor::Device;
    use vitrum::checkpoint::load::{LoadOptions, load};

    let link =
        |folder: &Path, name: &str| std::os::unix::fs::symlink("../blobs/gone", folder.join(name)).unwrap();
    let folder = folder(&["pytorch_model.bin"]);
    link(folder.path(), "model.safetensors");
    let link_path = folder.path().join("model.safetensors");
    for path in [folder.path(), &link_path] {
        let error = read(path).unwrap_err();
        assert!(matches!(&error, LoadError::Link { path, .. } if *path == link_path), "{error}");
        assert!(error.to_string().contains("../blobs/gone, which is not there"), "{error}");
    }
    std::fs::remove_file(&link_path).unwrap();
    link(folder.path(), "config.json");
    let options = LoadOptions::new(folder.path());
    let text = load(&options, &Device::flex()).unwrap_err().to_string();
    assert!(text.contains("config.json: a link to"), "{text}");
    link(folder.path(), "alone.pth");
    let options = LoadOptions::new(folder.path().join("alone.pth"));
    assert!(load(&options, &Device::flex()).unwrap_err().to_string().contains("alone.pth: a link to"));
}
