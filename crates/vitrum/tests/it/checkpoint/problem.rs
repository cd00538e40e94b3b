//! `problem_type` of a card, in every layout.

use burn::tensor::Device;
use serde_json::{Value, json};
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::{CardSource, ModelCard, ProblemType};
use vitrum::checkpoint::load::{LoadOptions, open};
use vitrum::checkpoint::write::{WriteOptions, write_huggingface, write_model, write_timm};
use vitrum::data::Preprocess;
use vitrum::models::vit::PosResize;
use vitrum::models::{Config, ModelConfig, VitConfig, catalogue};
use vitrum::tasks::Classifier;

const ARCHITECTURE: &str = "test_vit";

/// What timm can express, what transformers can, what only this library can.
fn layouts() -> [(&'static str, VitConfig); 3] {
    let base: VitConfig = catalogue::entry(ARCHITECTURE).unwrap().config.clone().try_into().unwrap();
    let tiny = VitConfig { img_size: [32; 2], num_classes: 3, ..base };
    let theirs = VitConfig { norm_eps: 1e-12, pos_resize: PosResize::Bicubic, ..tiny.clone() };
    let ours = VitConfig { norm_eps: 1e-3, pos_resize: PosResize::Nearest, ..tiny.clone() };
    [("timm", tiny), ("huggingface", theirs), ("vitrum", ours)]
}

fn card(config: &VitConfig, problem: ProblemType) -> ModelCard {
    ModelCard {
        architecture: Some(ARCHITECTURE.into()),
        labels: Some(["a", "b", "c"].map(String::from).to_vec()),
        preprocess: Some(Preprocess { input_size: [3, 32, 32], crop_pct: 1.0, ..Preprocess::default() }),
        problem,
        ..ModelCard::new(config.clone(), CardSource::Timm, "")
    }
}

#[test]
fn every_layout_says_what_outputs_mean() {
    for (layout, config) in layouts() {
        let model = ModelConfig::Vit(config.clone()).init(&Device::flex(), 1).unwrap();
        let base = &catalogue::entry(ARCHITECTURE).unwrap().config;
        for problem in ProblemType::ALL {
            let folder = tempfile::tempdir().unwrap();
            let (map, card) = (collect(&model), card(&config, problem));
            write_model(folder.path(), &map, &card, base, &WriteOptions::default()).unwrap();
            let text = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
            let json: Value = serde_json::from_str(&text).unwrap();
            let found = [json.get("vitrum").is_some(), json.get("model_type").is_some()];
            assert_eq!(found, [layout == "vitrum", layout == "huggingface"], "{layout}: {text}");
            let stated = json.get("problem_type").and_then(Value::as_str);
            assert_eq!(stated, (problem != ProblemType::SingleLabel).then(|| problem.name()), "{layout}");
            let classifier = Classifier::load(folder.path()).unwrap();
            assert_eq!(classifier.problem(), problem, "{layout}");
            // Converting keeps it.
            let opened = open(&LoadOptions::new(folder.path())).unwrap();
            let again = folder.path().join("again");
            match layout {
                "huggingface" => {
                    write_huggingface(&again, &opened.tensors, &opened.card, &WriteOptions::default())
                }
                "timm" => write_timm(&again, &opened.tensors, &opened.card, base, &WriteOptions::default()),
                _ => write_model(&again, &opened.tensors, &opened.card, base, &WriteOptions::default())
                    .map(|_| ()),
            }
            .unwrap();
            assert_eq!(Classifier::load(&again).unwrap().problem(), problem, "{layout}");
        }
    }
}

#[test]
fn a_card_of_one_class_per_image_is_as_before() {
    let [(_, config), ..] = layouts();
    let text = serde_json::to_value(card(&config, ProblemType::SingleLabel)).unwrap();
    assert!(text.get("problem").is_none(), "{text}");
    let read: ModelCard = serde_json::from_value(text).unwrap();
    assert_eq!(read.problem, ProblemType::SingleLabel);
    let text = serde_json::to_value(card(&config, ProblemType::Regression)).unwrap();
    assert_eq!(text["problem"], "regression");
}

#[test]
fn null_is_one_class_and_an_unknown_name_is_an_error() {
    let [(_, config), ..] = layouts();
    let folder = tempfile::tempdir().unwrap();
    let map = collect(&ModelConfig::Vit(config.clone()).init(&Device::flex(), 1).unwrap());
    let base = &catalogue::entry(ARCHITECTURE).unwrap().config;
    write_timm(folder.path(), &map, &card(&config, ProblemType::MultiLabel), base, &WriteOptions::default())
        .unwrap();
    let path = folder.path().join("config.json");
    let mut json: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json["problem_type"] = Value::Null;
    std::fs::write(&path, json.to_string()).unwrap();
    assert_eq!(Classifier::load(folder.path()).unwrap().problem(), ProblemType::SingleLabel);
    for (value, found) in [
        (json!("segmentation"), "`problem_type` is `segmentation`, expected one of single_label"),
        (json!(3), "`problem_type`"),
    ] {
        json["problem_type"] = value;
        std::fs::write(&path, json.to_string()).unwrap();
        let error = Classifier::load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(found) && error.contains("config.json"), "{error}");
    }
}
