//! Answers in bf16: near those in f32, the same for any batch and number of threads; what is refused; photographs.

use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum::checkpoint::apply::collect;
use vitrum::checkpoint::load::{LoadOptions, load};
use vitrum::data::{DecodeOptions, decode};
use vitrum::layers::Linear;
use vitrum::layers::attention::BlockArgs;
use vitrum::layers::block::EncoderBlock;
use vitrum::layers::observe::{Recorder, Silent};
use vitrum::models::{Model, Precision, Want};
use vitrum::tasks::Classifier;

use crate::checkpoint::quantize::{config, folders, images, loaded, logits, options};
use crate::data::decode::real_data;

fn norm(x: &[f32]) -> f32 {
    x.iter().map(|x| x * x).sum::<f32>().sqrt()
}

/// Pictures `[count, 3, 32, 32]`.
fn pictures(count: usize) -> Tensor<4> {
    let values: Vec<f32> = (0..count * 3 * 32 * 32).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    Tensor::from_data(TensorData::new(values, [count, 3, 32, 32]), (&Device::flex(), DType::F32))
}

fn answers(model: &Model, images: Tensor<4>) -> Vec<f32> {
    model.logits(images).unwrap().into_data().try_to_vec().unwrap()
}

#[test]
fn answers_in_bf16_are_near_those_in_f32() {
    let (folder, _) = folders(&[]);
    let float = folder.path().join("float");
    let (exact, rounded) = (loaded(&float, Precision::F32).model, loaded(&float, Precision::Bf16).model);
    assert_eq!((rounded.bf16_layers(), rounded.quantized_layers()), (8, 0));
    assert_eq!(rounded.precision(), Precision::Bf16);
    let (exact_logits, found) = (logits(&exact), logits(&rounded));
    let gap: Vec<f32> = exact_logits.iter().zip(&found).map(|(a, b)| a - b).collect();
    // A number is off by 2⁻⁹ (0.002) of itself at most, and large weights make these two blocks pass it on.
    let relative = norm(&gap) / norm(&exact_logits);
    assert!((1e-3..2e-2).contains(&relative), "{relative}: {exact_logits:?} {found:?}");

    // Afterwards, packed, or with somebody looking in: the same bits.
    assert_eq!(logits(&exact.clone().round_to_bf16()), found);
    assert_eq!(logits(&exact.clone().pack().round_to_bf16()), found, "packed before");
    let packed = rounded.clone().pack();
    assert_eq!((packed.bf16_layers(), logits(&packed)), (8, found.clone()), "packing keeps bf16");
    let mut recorder = Recorder { with_attention: false, seen: Vec::new() };
    let classifier = rounded.as_classifier().unwrap();
    let features = classifier.features(images().into(), Want::Last, &mut recorder);
    let watched = classifier.head(features, &mut recorder);
    let watched: Vec<f32> = watched.into_data().try_to_vec().unwrap();
    assert_eq!(watched, found);
}

#[test]
fn answers_in_bf16_do_not_depend_on_company_or_threads() {
    let (folder, _) = folders(&[]);
    let model = loaded(&folder.path().join("float"), Precision::Bf16).model;
    let of_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| answers(&model, pictures(23)))
    };
    let all = of_threads(1);
    assert_eq!(all, of_threads(2));
    assert_eq!(all, of_threads(3));
    for picture in [0, 11, 22] {
        let alone = answers(&model, pictures(23).narrow(0, picture, 1));
        assert_eq!(alone, all[picture * 5..][..5], "picture {picture}");
    }
    assert!(answers(&model, Tensor::zeros([0, 3, 32, 32], &Device::flex())).is_empty());
}

#[test]
fn parameters_in_bf16_are_the_rounded_ones() {
    let (folder, _) = folders(&[]);
    let float = folder.path().join("float");
    let before = collect(&loaded(&float, Precision::F32).model);
    let mut model = loaded(&float, Precision::Bf16).model;
    for (key, tensor) in &collect(&model).tensors {
        let (ours, theirs) = (tensor.to_f32(), before.get(key).unwrap().to_f32());
        let block = key.starts_with("blocks.") && !key.contains("norm") && key.ends_with(".weight");
        assert_eq!(ours != theirs, block, "{key}");
        let fits =
            |(a, b): (&f32, &f32)| (a - b).abs() <= b.abs() / 256.0 && (!block || a.to_bits() << 16 == 0);
        assert!(ours.iter().zip(&theirs).all(fits), "{key}");
    }
    model.forget_prepared();
    assert_eq!(model.precision(), Precision::F32);
    // The rounded weights with inputs that are not rounded.
    let (in_f32, in_bf16) = (logits(&model), logits(&loaded(&float, Precision::Bf16).model));
    assert_ne!(in_f32, in_bf16);
}

/// An attention layer against its three steps: the one between is in bf16 behind a projection in bf16, and in eight bits
/// where the processor has the instruction.
#[test]
fn attention_is_in_bf16_where_it_should_be() {
    let (folder, _) = folders(&[]);
    let float = folder.path().join("float");
    let config = config();
    let (d, heads) = (config.embed_dim, config.num_heads);
    let values: Vec<f32> = (0..2 * 17 * d).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    let x = Tensor::<3>::from_data(TensorData::new(values, [2, 17, d]), (&Device::flex(), DType::F32));
    let scale = ((d / heads) as f64).powf(-0.5);
    let attend = |qkv, in_bf16| match in_bf16 {
        true => vitrum_kernels::attention_bf16(qkv, 17, heads, scale, None),
        false => vitrum_kernels::attention(qkv, heads, scale, None),
    };
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let Model::Vit(vit) = loaded(&float, precision).model else { panic!("a ViT") };
        let EncoderBlock::Block(block) = &vit.blocks[0] else { panic!("a plain block") };
        let attn = &block.attn;
        let place = BlockArgs::new([4, 4]);
        let found = attn.forward(x.clone(), place, &mut Silent);
        let layer = |layer: &Linear, x: Tensor<3>| match (layer.int8(), layer.packed()) {
            (Some(weight), _) => vitrum_kernels::linear_int8(x, weight, vitrum_kernels::Activation::Identity),
            (_, Some(weight)) => vitrum_kernels::linear_packed(x, weight),
            _ => vitrum_kernels::linear(x, layer.weight.val(), layer.bias.as_ref().map(|bias| bias.val())),
        };
        let in_bf16 = match precision {
            Precision::F32 => false,
            Precision::Bf16 => true,
            _ => vitrum_kernels::bf16_level() == "avx512_bf16",
        };
        let context = |in_bf16| attend(layer(attn.qkv.linears()[0].1, x.clone()), in_bf16);
        let expected = layer(&attn.proj, context(in_bf16));
        assert_eq!(found.into_data(), expected.into_data(), "{precision:?}");
        assert_ne!(context(true).into_data(), context(false).into_data(), "{precision:?}");
    }
}

#[test]
fn what_does_not_go_with_bf16_is_refused() {
    let (folder, _) = folders(&["blocks.0.*"]);
    let refused =
        |options: LoadOptions<'_>| load(&options, &Device::flex()).expect_err("refused").to_string();
    let (float, int8) = (folder.path().join("float"), folder.path().join("int8"));
    let text = refused(LoadOptions { precision: Precision::Bf16, ..options(&int8) });
    assert!(text.contains("model.safetensors: int8 weights, which do not run in bf16"));
    let text = refused(LoadOptions { dtype: DType::F64, precision: Precision::Bf16, ..options(&float) });
    assert!(text.contains("precision bf16: the rest is computed in f32, not in f64"), "{text}");
    for precision in [Precision::Bf16, Precision::Int8] {
        let text = refused(LoadOptions { needs_weights: false, precision, ..LoadOptions::new("resnet10t") });
        let expected = format!("precision {}: a resnet has no linear layers", precision.name());
        assert!(text.starts_with(&expected), "{text}");
    }

    // In code, int8 layers stay beside others in bf16.
    let mixed = loaded(&int8, Precision::F32).model.round_to_bf16();
    assert_eq!((mixed.quantized_layers(), mixed.bf16_layers(), mixed.precision()), (4, 4, Precision::Int8));
    assert!(logits(&mixed).iter().all(|x| x.is_finite()));
}

#[test]
fn a_fresh_model_is_rounded_too() {
    let options =
        LoadOptions { needs_weights: false, precision: Precision::Bf16, ..LoadOptions::new("test_vit") };
    let loaded = load(&options, &Device::flex()).unwrap();
    assert_eq!(loaded.model.precision(), Precision::Bf16);
}

/// The classes of 200 photographs in f32 and in bf16. Two may differ; what did when this was written stands in
/// `docs/models.md`.
#[test]
fn a_real_model_in_bf16_agrees_with_itself() {
    let (Some(model), Some(images)) =
        (real_data("vit_tiny_patch16_224"), real_data("imagenet-sample/images"))
    else {
        return;
    };
    let float = Classifier::load(&model).unwrap();
    let rounded = Classifier::new(loaded(&model, Precision::Bf16), Device::flex()).unwrap();
    let mut files: Vec<_> = std::fs::read_dir(images).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 200);
    let (mut differ, mut largest) = (Vec::new(), 0f64);
    for batch in files.chunks(8) {
        let open = |file| decode::open(file, &DecodeOptions::timm()).unwrap();
        let pictures: Vec<_> = batch.iter().map(open).collect();
        let answers = [&float, &rounded].map(|model| model.predict(&pictures, 1).unwrap());
        for (i, file) in batch.iter().enumerate() {
            let (exact, found) = (&answers[0][i][0], &answers[1][i][0]);
            if exact.index == found.index {
                largest = largest.max((exact.prob - found.prob).abs());
            } else {
                differ.push((file, exact.clone(), found.clone()));
            }
        }
    }
    println!("{} of 200 differ, probabilities of the others by {largest:.4}: {differ:?}", differ.len());
    assert!(differ.len() <= 2, "{differ:?}");
}
