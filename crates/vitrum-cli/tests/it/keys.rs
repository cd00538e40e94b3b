//! Names that no dialect knows: `--suggest-keys` and `--keys`.

use burn::tensor::Device;
use vitrum::checkpoint::TensorMap;
use vitrum::checkpoint::apply::collect;
use vitrum::models::vit::{Activation, BlockNorm};
use vitrum::models::{Config, ModelConfig, VitConfig};

use crate::sandbox::{Sandbox, tiny};

/// A model around torch's encoder: `mine.safetensors` with torch's names, `same.safetensors` with timm's.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::empty();
    let config = VitConfig {
        block_norm: BlockNorm::Post,
        final_norm: false,
        act_layer: Activation::Relu,
        norm_eps: 1e-5,
        ..tiny()
    };
    let model = ModelConfig::Vit(config).init(&Device::flex(), 7).expect("a tiny model");
    let map = collect(&model);
    sandbox.store("same.safetensors", &map);
    let mut mine = TensorMap::new("mine");
    for (name, tensor) in map.tensors {
        let name = [
            ("blocks.", "encoder.layers."),
            ("attn.qkv.", "self_attn.in_proj_"),
            ("attn.proj", "self_attn.out_proj"),
            ("mlp.fc", "linear"),
            ("patch_embed.proj", "to_patches"),
            ("head", "classifier"),
        ]
        .iter()
        .fold(name, |name, (from, to)| name.replace(from, to));
        mine.tensors.insert(name, tensor);
    }
    sandbox.store("mine.safetensors", &mine);
    sandbox.input("input.safetensors", [2, 3, 32, 32]);
    sandbox.picture("a.png", 1);
    sandbox
}

const PICTURES: &str = "--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --interpolation bicubic --crop-pct 1";

#[test]
fn a_refused_file_leads_to_one_that_loads() {
    let sandbox = sandbox();
    let refused = format!("predict a.png -m mine.safetensors {PICTURES}");
    sandbox.fails(
        &refused,
        1,
        &["torch.nn.TransformerEncoder: 24 of 30", "inspect mine.safetensors --suggest-keys"],
    );
    let text = sandbox.ok("checkpoint inspect mine.safetensors").out;
    assert!(text.contains("dialect: unknown"), "{text}");

    let keys = sandbox.ok("checkpoint inspect mine.safetensors --suggest-keys").out;
    assert!(keys.starts_with("# Names of mine.safetensors; nearest are the names of torch"), "{keys}");
    sandbox.write("keys.toml", keys.replace("# num_heads = 12", "num_heads = 2"));
    let text = sandbox.ok("checkpoint inspect mine.safetensors --keys keys.toml").out;
    assert!(text.contains("dialect: custom") && text.contains("width 16, depth 2, heads 2"), "{text}");
    for command in ["predict a.png", "embed a.png"] {
        sandbox.ok(&format!("{command} -m mine.safetensors --keys keys.toml {PICTURES}"));
    }

    // The same numbers as under timm's names.
    let forward = |model: &str, name: &str| {
        sandbox.ok(&format!("forward -m {model} --input input.safetensors --output {name}"));
        sandbox.load(name).tensors
    };
    let fields = "block_norm=post act_layer=relu norm_eps=1e-5";
    sandbox.write("heads.toml", "[config]\nnum_heads = 2\n");
    let same = format!("same.safetensors --keys heads.toml --model-kwargs {fields}");
    let mine = forward("mine.safetensors --keys keys.toml", "mine.out");
    assert_eq!(mine, forward(&same, "same.out"));

    // timm has no such blocks; vitrum's own folder needs no key file.
    let convert = "checkpoint convert mine.safetensors";
    sandbox.fails(&format!("{convert} timm --keys keys.toml"), 1, &["block_norm"]);
    sandbox.fails(&format!("{convert} hf --keys keys.toml --to hf"), 1, &["no counterpart"]);
    let said = sandbox.ok(&format!("{convert} own --keys keys.toml --to vitrum")).err;
    assert!(said.contains("block_norm") && said.contains("custom names"), "{said}");
    assert_eq!(mine, forward("own", "own.out"));
}

#[test]
fn a_run_begins_from_such_a_file() {
    let sandbox = sandbox();
    let keys = sandbox.ok("checkpoint inspect mine.safetensors --suggest-keys").out;
    sandbox.write("keys.toml", keys.replace("# num_heads = 12", "num_heads = 2"));
    let ran = sandbox.ok("finetune demo:20 -m mine.safetensors --keys keys.toml --epochs 1 --output run");
    assert!(ran.err.contains("loaded "), "{}", ran.err);
    let run =
        std::fs::read_dir(sandbox.path("run/classify")).expect("a run").flatten().next().expect("one run");
    let args = std::fs::read_to_string(run.path().join("args.toml")).expect("the recipe");
    assert!(args.contains("keys = \"keys.toml\""), "{args}");
}

#[test]
fn a_bad_file_is_told_by_line() {
    let sandbox = sandbox();
    sandbox.write("keys.toml", "rows = [\n  [\"a\"],\n]\n");
    for command in [
        "predict a.png -m mine.safetensors",
        "embed a.png -m mine.safetensors",
        "checkpoint inspect mine.safetensors",
        "checkpoint convert mine.safetensors out --to vitrum",
        "finetune demo:20 -m mine.safetensors --output run",
    ] {
        sandbox.fails(&format!("{command} --keys keys.toml"), 1, &["keys.toml:2: a row is"]);
    }
    sandbox.fails("predict a.png -m mine.safetensors --keys none.toml", 1, &["none.toml"]);
    sandbox.fails(
        "checkpoint inspect mine.safetensors --keys keys.toml --suggest-keys",
        2,
        &["--suggest-keys"],
    );
}
