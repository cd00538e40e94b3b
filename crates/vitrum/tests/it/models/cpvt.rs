//! CPVT: Vision Transformers whose positions come from convolutions after some of the blocks (arXiv:2102.10882). Their
//! numbers are compared in `parity.rs`.

use burn::tensor::Device;
use tempfile::TempDir;
use vitrum::checkpoint::ModelCard;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::card::CardSource;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::checkpoint::write::{WriteOptions, write_model, write_safetensors, write_timm};
use vitrum::models::vit::{PosEmbed, VitConfig};
use vitrum::models::{Config, ConfigError, Depth, ModelConfig, Network};

fn tiny(cpe_blocks: &[usize]) -> VitConfig {
    VitConfig {
        img_size: [32, 48],
        patch_size: [8, 8],
        num_classes: 3,
        embed_dim: 64,
        depth: 4,
        num_heads: 1,
        pos_embed: PosEmbed::Cpe,
        cpe_blocks: cpe_blocks.to_vec(),
        ..VitConfig::default()
    }
}

/// A DeiT's table of 197 rows becomes a kernel of 3x3 with a bias; with the mean of the patches the class token goes too.
#[test]
fn named_models_have_deits_sizes() {
    for (size, d, with_token, mean) in [
        ("tiny", 192, 5_681_512, 5_681_320),
        ("small", 384, 21_978_856, 21_978_472),
        ("base", 768, 86_424_040, 86_423_272),
    ] {
        let params = |name: String| ModelConfig::named(&name).unwrap().walk().unwrap().params;
        let deit = params(format!("deit_{size}_patch16_224"));
        assert_eq!(params(format!("cpvt_{size}_patch16_224")), with_token);
        assert_eq!(params(format!("cpvt_{size}_gap_patch16_224")), mean);
        assert_eq!((with_token, mean), (deit - 197 * d + 10 * d, deit - 198 * d + 10 * d));
    }
}

#[test]
fn blocks_that_are_none_are_refused() {
    for (blocks, is_good) in [
        (&[0][..], true),
        (&[3], true),
        (&[0, 1, 2, 3], true),
        (&[], false),
        (&[4], false),
        (&[1, 1], false),
        (&[2, 0], false),
    ] {
        let found = tiny(blocks).validate();
        let is_named = matches!(found, Err(ConfigError::Field { field: "cpe_blocks", .. }));
        assert!(if is_good { found.is_ok() } else { is_named }, "{blocks:?}: {found:?}");
    }
    // Other positions do not read the field.
    assert_eq!(VitConfig { pos_embed: PosEmbed::Learn, ..tiny(&[9]) }.validate(), Ok(()));
}

#[test]
fn a_convolution_is_as_deep_as_the_block_before_it() {
    let model = tiny(&[1, 3]).build(&Device::flex());
    assert_eq!(model.depth("pos_block.0.proj.0.weight"), Depth::Layer(1));
    assert_eq!(model.depth("pos_block.1.proj.0.bias"), Depth::Layer(3));
    assert_eq!(model.depth("blocks.2.norm1.weight"), Depth::Layer(2));
}

/// A vitrum folder says which blocks, tensors alone say how many, and timm has no such model.
#[test]
fn folders_and_files() {
    let config = tiny(&[1, 3]);
    let map = collect(&config.init(&Device::flex(), 0).unwrap());
    let mut card = ModelCard::new(config.clone(), CardSource::Timm, "");
    card.architecture = Some("cpvt_tiny_patch16_224".into());
    let base = ModelConfig::named("cpvt_tiny_patch16_224").unwrap();
    let folder = TempDir::new().unwrap();
    let [own, timm] = ["own", "timm"].map(|name| folder.path().join(name));
    write_model(&own, &map, &card, &base, &WriteOptions::default()).unwrap();
    let found = load(&LoadOptions::new(&own), &Device::flex()).unwrap();
    assert_eq!(found.model.config(), config.clone().into());
    for config in [config.clone(), tiny(&[0]), VitConfig { pos_embed: PosEmbed::Learn, ..tiny(&[0]) }] {
        let card = ModelCard { config: config.into(), ..card.clone() };
        let error = write_timm(&timm, &map, &card, &base, &WriteOptions::default()).unwrap_err();
        assert!(error.to_string().contains("no position encoding Cpe"), "{error}");
    }

    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &map, &WriteOptions::default()).unwrap();
    let found = load(&LoadOptions::new(&path), &Device::flex()).unwrap();
    assert_eq!(found.model.config().field("cpe_blocks"), Some([0, 1].into()));
    assert!(found.notes.iter().any(|note| note.contains("the first 2 are assumed")), "{:?}", found.notes);
}
