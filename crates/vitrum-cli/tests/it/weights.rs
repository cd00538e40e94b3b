//! What commands say of weights: which were taken, which are refused, which a model lacks.

use serde_json::{Value, json};
use vitrum::checkpoint::{HostTensor, TensorMap};
use vitrum::models::VitConfig;

use crate::sandbox::{Sandbox, tiny};

/// `model/` with its weights as `teacher.*` and as `student.*`, these negated.
fn two_sets(sandbox: &Sandbox) {
    let mut both = TensorMap::new("both");
    for (name, tensor) in sandbox.load("model/model.safetensors").tensors {
        let negated: Vec<f32> = tensor.to_f32().iter().map(|v| -v).collect();
        let negated =
            HostTensor::from_f32(tensor.shape().to_vec(), &negated).expect("the tensor's own shape");
        both.tensors.insert(format!("student.{name}"), negated);
        both.tensors.insert(format!("teacher.{name}"), tensor);
    }
    sandbox.store("model/model.safetensors", &both);
}

#[test]
fn one_of_two_sets_is_taken_and_said() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let plain = sandbox.ok("predict a.png -m model --format json").json();
    two_sets(&sandbox);
    let ran = sandbox.ok("predict a.png -m model --format json");
    assert_eq!(ran.json(), plain);
    let said = "weights of `teacher` taken, not of `student`";
    assert!(ran.err.contains(said), "{}", ran.err);
    assert!(sandbox.ok("val demo -m model --limit 2").err.contains(said));
    let student = sandbox.ok("predict a.png -m model --weight-set student --format json");
    assert_ne!(student.json(), plain);
    assert!(student.err.contains("weights of `student` taken, not of `teacher`"), "{}", student.err);
    sandbox.fails(
        "predict a.png -m model --weight-set pupil",
        1,
        &["`pupil`", "`student`, `teacher`", "hint:"],
    );

    let inspected = sandbox.ok("checkpoint inspect model --format json").json();
    let sets = json!([{"name": "student", "tensors": 32, "chosen": false}, {"name": "teacher", "tensors": 32, "chosen": true}]);
    assert_eq!(inspected["sets"], sets);
    let text = sandbox.ok("checkpoint inspect model").out;
    assert!(
        text.contains("weights: student, 32 tensors, not taken")
            && text.contains("weights: teacher, 32 tensors, taken"),
        "{text}"
    );
    sandbox.ok("checkpoint convert model student --weight-set student");
    sandbox.ok("quantize -m model --weight-set student -o small");
}

#[test]
fn a_model_without_a_head_is_sent_to_embed() {
    let sandbox = Sandbox::empty();
    sandbox.model("model", &VitConfig { num_classes: 0, ..tiny() });
    sandbox.picture("a.png", 1);
    for command in ["predict a.png -m model", "val demo -m model"] {
        sandbox.fails(command, 1, &["has no head", "hint: `vitrum embed`", "finetune"]);
    }
    sandbox.ok("embed a.png -m model --output features.npy");
    sandbox.fails("quantize -m model -o small --images a.png", 1, &["--images", "no head"]);
    sandbox.ok("quantize -m model -o small");
}

#[test]
fn weights_and_answers_that_are_no_numbers_end_the_command() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let whole = sandbox.load("model/model.safetensors");
    let with = |key: &str, value: f32| {
        let mut map = whole.clone();
        let tensor = &map.tensors[key];
        let values = vec![value; tensor.num_elements()];
        let tensor = HostTensor::from_f32(tensor.shape().to_vec(), &values).expect("the tensor's own shape");
        map.tensors.insert(key.into(), tensor);
        map
    };
    sandbox.store("model/model.safetensors", &with("blocks.0.attn.proj.bias", f32::NAN));
    for command in [
        "predict a.png -m model",
        "val demo -m model",
        "quantize -m model -o small",
        "checkpoint convert model out",
    ] {
        sandbox.fails(command, 1, &["`blocks.0.attn.proj.bias`", "16 of 16 values are NaN", "hint:"]);
    }
    let mut huge = with("norm.weight", 2e38);
    let head = with("head.weight", 3e38).tensors.remove("head.weight").expect("a head");
    huge.tensors.insert("head.weight".into(), head);
    sandbox.store("model/model.safetensors", &huge);
    sandbox.fails("predict a.png -m model", 1, &["a.png", "not finite", "hint:"]);
    sandbox.write("labels.csv", "file,class_index\na.png,1\n");
    sandbox.fails("val labels.csv -m model", 1, &["a.png", "not finite", "hint:"]);
}

#[test]
fn values_beyond_the_type_that_is_written_are_refused() {
    let sandbox = Sandbox::new();
    let mut map = sandbox.load("model/model.safetensors");
    let mut values = map.tensors["norm.weight"].to_f32();
    values[3] = 1e30;
    map.tensors.insert("norm.weight".into(), HostTensor::from_f32(vec![16], &values).expect("16 values"));
    sandbox.store("model/model.safetensors", &map);
    sandbox.fails("checkpoint convert model out --dtype f16", 1, &["`norm.weight`", "beyond f16", "hint:"]);
    sandbox.ok("checkpoint convert model out --dtype bf16");
    sandbox.fails(
        "quantize -m model -o small --skip blocks.7.*",
        1,
        &["'blocks.7.*' matches none of the layers"],
    );
}

/// A Hugging Face folder of the tiny model: the layout that `convert` writes, with transformers' epsilon.
fn hugging_face(sandbox: &Sandbox) {
    sandbox.ok("checkpoint convert model hf --to hf");
    let mut json: Value = serde_json::from_str(&sandbox.read("hf/config.json")).expect("JSON");
    json["layer_norm_eps"] = json!(1e-12);
    sandbox.write("hf/config.json", json.to_string());
}

#[test]
fn the_epsilon_of_transformers_goes_to_timm_with_a_word_about_it() {
    let sandbox = Sandbox::new();
    hugging_face(&sandbox);
    sandbox.fails(
        "checkpoint convert hf out --to timm",
        1,
        &["epsilon of 1e-12", "hint: --timm-epsilon", "--to hf"],
    );
    let said = sandbox.ok("checkpoint convert hf out --to timm --timm-epsilon").err;
    assert!(
        said.contains("epsilon 1e-12 becomes timm's 1e-6") && said.contains("of the largest value"),
        "{said}"
    );
    sandbox.fails(
        "checkpoint convert hf again --to hf --timm-epsilon",
        1,
        &["--timm-epsilon goes with --to timm"],
    );
}

#[test]
fn a_fine_tuned_vit_of_transformers_is_written_as_theirs() {
    let sandbox = Sandbox::new();
    hugging_face(&sandbox);
    let ran = sandbox.ok("finetune demo:20 --pretrained hf --epochs 1 --output run");
    assert!(ran.err.contains("transformers can"), "{}", ran.err);
    let folder = std::fs::read_dir(sandbox.path("run/classify"))
        .expect("a run")
        .flatten()
        .next()
        .expect("one run")
        .path();
    let text = std::fs::read_to_string(folder.join("model/config.json")).expect("a card");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&json["model_type"], &json["layer_norm_eps"]), (&json!("vit"), &json!(1e-12)));
    sandbox.picture("a.png", 1);
    sandbox.ok(&format!("predict a.png -m {}", folder.join("model").display()));
}

#[test]
fn channels_that_pictures_do_not_have_are_no_matter_of_means() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let ran = sandbox.ends("predict a.png -m model --in-chans 4", 1);
    assert!(ran.err.contains("images of 4 channels") && !ran.err.contains("--mean"), "{}", ran.err);
    sandbox.ok("predict a.png -m model --in-chans 1");
}
