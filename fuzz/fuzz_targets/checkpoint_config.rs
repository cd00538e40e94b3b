//! `config.json` of timm and Hugging Face, `preprocessor_config.json`, and the index of shards. The first byte
//! chooses the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrum::checkpoint::card::ModelCard;
use vitrum::checkpoint::read;
use vitrum::models::vit::VitConfig;

const HUGGING_FACE: &str = r#"{"model_type": "vit", "num_labels": 3}"#;

fuzz_target!(|data: &[u8]| {
    let Some((&choice, data)) = data.split_first() else { return };
    let folder = std::env::temp_dir().join(format!("vitrum-fuzz-{}-config", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the temporary folder is writable");
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).expect("the temporary folder is writable");
        path
    };
    let resolve = |_: &str| Ok(VitConfig::default().into());
    match choice % 3 {
        0 => {
            let _ = ModelCard::read(&put("config.json", data), &resolve);
        }
        1 => {
            put("preprocessor_config.json", data);
            let _ = ModelCard::read(&put("config.json", HUGGING_FACE.as_bytes()), &resolve);
        }
        _ => {
            let _ = read(put("model.safetensors.index.json", data));
        }
    }
});
