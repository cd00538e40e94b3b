//! Keys of offsets, the relative positions of the ViT paper (appendix D.4). Their numbers are compared in `parity.rs`.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use tempfile::TempDir;
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::load::{LoadOptions, Loaded, load};
use vitrum::checkpoint::write::{WriteOptions, write_safetensors};
use vitrum::checkpoint::{HostTensor, TensorMap};
use vitrum::layers::position::{PosEmbed, PosResize, Position, PositionConfig, RelPos};
use vitrum::models::vit::VitConfig;
use vitrum::models::{Config, ConfigError, Model, Sizes};

use crate::formula;

fn tiny(pos_embed: PosEmbed) -> VitConfig {
    VitConfig {
        img_size: [32, 32],
        patch_size: [8, 8],
        num_classes: 3,
        embed_dim: 64,
        depth: 2,
        num_heads: 1,
        pos_embed,
        ..VitConfig::default()
    }
}

fn tensors(config: &VitConfig) -> TensorMap {
    let mut map = collect(&config.init(&Device::flex(), 0).unwrap());
    for (key, tensor) in &mut map.tensors {
        let shape = tensor.shape().to_vec();
        *tensor = HostTensor::from_f32(shape.clone(), &formula::weight(key, &shape)).unwrap();
    }
    map
}

/// The product of a query with the key of its offset, by the definition; longer sequences have the keys of the ends.
#[test]
fn products_are_those_of_the_definition() {
    let (heads, width, own) = (2, 3, 4);
    let config = PositionConfig {
        kind: PosEmbed::RelKey,
        grid: [1, own - 1],
        prefix_rows: 0,
        prefix_tokens: 1,
        dim: heads * width,
        num_heads: heads,
        head_dim: width,
        rel_pos_dim: 1,
        resize: PosResize::default(),
        bias_resize: PosResize::default(),
        block_table: false,
        shared_table: false,
        rope: None,
    };
    let device = Device::flex();
    let Some(RelPos::Keys(mut keys)) = Position::block_bias(&config, &device).rel_pos else {
        panic!("the encoding has keys");
    };
    let shape = [2 * own - 1, heads * width];
    assert_eq!(keys.relative_key_table.lazy_shape().dims::<2>(), shape);
    let table = formula::weight("keys", &shape);
    let values = TensorData::new(table.clone(), shape);
    keys.relative_key_table = Param::from_tensor(Tensor::from_data(values, (&device, DType::F64)));
    for tokens in [1, 3, own, 7] {
        let shape = [2, heads, tokens, width];
        let queries = formula::weight("queries", &shape);
        let given = Tensor::from_data(TensorData::new(queries.clone(), shape), (&device, DType::F64));
        let found: Vec<f64> = keys.bias(given).into_data().iter::<f64>().collect();
        let mut expected = Vec::new();
        for (b, a, p, q) in (0..2)
            .flat_map(|b| (0..heads).map(move |a| (b, a)))
            .flat_map(|(b, a)| (0..tokens).flat_map(move |p| (0..tokens).map(move |q| (b, a, p, q))))
        {
            let row = (p as i64 - q as i64 + own as i64 - 1).clamp(0, 2 * own as i64 - 2) as usize;
            let product = (0..width).map(|e| {
                let query = queries[((b * heads + a) * tokens + p) * width + e];
                f64::from(query) * f64::from(table[row * heads * width + a * width + e])
            });
            expected.push(product.sum::<f64>());
        }
        assert_eq!(found.len(), expected.len());
        let far = crate::compare::largest(found.iter().zip(&expected).map(|(a, b)| (a - b).abs()));
        assert!(far < 1e-14, "{tokens} tokens: {far:e}");
    }
}

/// A file for other images gets the keys that a forward pass over them uses.
#[test]
fn files_fit_other_grids() {
    let device = Device::flex();
    for pos_embed in [PosEmbed::RelKey, PosEmbed::RelKeyShared] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.safetensors");
        write_safetensors(&path, &tensors(&tiny(pos_embed)), &WriteOptions::default()).unwrap();
        let loaded = |img_size| -> Loaded {
            load(&LoadOptions { img_size, ..LoadOptions::new(&path) }, &device).unwrap()
        };
        let own = loaded(None);
        assert_eq!(own.model.config(), tiny(pos_embed).into());
        let logits = |model: &Model, [h, w]: [usize; 2]| {
            let shape = [2, 3, h, w];
            let images =
                Tensor::from_data(TensorData::new(formula::images(shape, 1.0), shape), (&device, DType::F32));
            let logits = model.logits_at(images, Sizes::Any).unwrap();
            logits.into_data().try_to_vec::<f32>().unwrap()
        };
        for size in [[48, 40], [16, 24]] {
            let fitted = loaded(Some(size));
            let report = fitted.report.as_ref().expect("a report");
            let tables = if pos_embed == PosEmbed::RelKey { 2 } else { 1 };
            assert_eq!(report.resized.len(), tables, "{report:?}");
            assert!(report.resized.iter().all(|change| change.key.ends_with("relative_key_table")));
            assert_eq!(logits(&fitted.model, size), logits(&own.model, size), "{size:?}");
        }
    }
}

#[test]
fn the_walk_counts_products_and_keys() {
    let [own, shared, none] = [PosEmbed::RelKey, PosEmbed::RelKeyShared, PosEmbed::None]
        .map(|kind| (tiny(kind).walk().unwrap(), tiny(kind).init(&Device::flex(), 0).unwrap().num_params()));
    // 17 tokens: 33 offsets.
    assert_eq!(own.0.params - none.0.params, 2 * 33 * 64);
    assert_eq!(shared.0.params - none.0.params, 33 * 64);
    for (walk, params) in [&own, &shared] {
        assert_eq!(walk.params, *params as u64);
        assert_eq!(walk.macs - none.0.macs, 2 * 17 * 33 * 64);
    }
}

/// Positions on the scores and on the grid need every patch.
#[test]
fn patches_are_not_dropped_where_each_is_needed() {
    use PosEmbed::{
        Cpe, Learn, Learn2d, None, RelBias, RelBiasShared, RelKey, RelKeyShared, RelMlp, RelMlpShared,
    };
    for kind in [RelBias, RelBiasShared, RelMlp, RelMlpShared, RelKey, RelKeyShared, Cpe] {
        let dropped = VitConfig { patch_drop_rate: 0.5, ..tiny(kind) }.validate();
        assert!(
            matches!(dropped, Err(ConfigError::Field { field: "patch_drop_rate", .. })),
            "{kind:?}: {dropped:?}"
        );
        assert_eq!(tiny(kind).validate(), Ok(()), "{kind:?}");
    }
    for kind in [Learn, Learn2d, None] {
        assert_eq!(VitConfig { patch_drop_rate: 0.5, ..tiny(kind) }.validate(), Ok(()), "{kind:?}");
    }
}
