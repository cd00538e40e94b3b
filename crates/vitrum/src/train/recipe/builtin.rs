//! The recipes of the crate's folder `recipes/`, built into the library.

use super::{Overlay, RecipeError, nearest, parse};

macro_rules! recipes {
    ($($name:literal),* $(,)?) => {
        /// Name and text of each recipe.
        pub const BUILTIN: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../../recipes/", $name, ".toml")))),*];
    };
}

recipes![
    "cifar/cifar100_vit_tiny_patch4",
    "cifar/cifar10_deit_64",
    "cifar/cifar10_resnet_64",
    "cifar/cifar10_test_vit_patch4",
    "cifar/cifar10_vit_tiny_patch4",
    "demo",
    "finetune/beit_base",
    "finetune/bit_hyperrule",
    "finetune/cifar10_from_mae",
    "finetune/linear_probe",
    "finetune/mae_vit_base",
    "finetune/small_folder",
    "imagenet/augreg_s16_300ep",
    "imagenet/bigvision_s16_90ep",
    "imagenet/convnext_tiny",
    "imagenet/cpvt_tiny",
    "imagenet/deit_small",
    "imagenet/deit_small_distilled",
    "imagenet/hybrid_r26_s32_300ep",
    "imagenet/pit_small",
    "imagenet/pit_small_distilled",
    "imagenet/regnety_040",
    "imagenet/resnet50",
    "imagenet/resnet50_a2",
    "imagenet/swin_tiny",
    "imagenet/t2t_vit_14",
    "imagenet/t2t_vit_7",
    "imagenet/twins_svt_base",
    "imagenet/vit_b16_finetune_384",
    "imagenet/vit_b16_paper_scratch",
    "pretrain/cifar10_mae_tiny",
    "pretrain/demo_mae",
    "pretrain/mae_vit_base_800ep",
];

/// A built-in recipe by its name, with or without the folder: `demo`, `imagenet/deit_small`, `deit_small`.
///
/// # Errors
/// [`RecipeError::UnknownRecipe`] with the most similar name.
pub fn builtin(name: &str) -> Result<Overlay, RecipeError> {
    let plain = name.trim_end_matches(".toml");
    let short = |full: &'static str| full.rsplit('/').next().unwrap_or(full);
    match BUILTIN.iter().find(|(full, _)| [*full, short(full)].contains(&plain)) {
        Some((full, text)) => parse(text, full),
        None => {
            let names: Vec<String> =
                BUILTIN.iter().flat_map(|(full, _)| [*full, short(full)]).map(String::from).collect();
            let nearest = nearest(plain, &names);
            Err(RecipeError::UnknownRecipe { name: name.into(), nearest })
        }
    }
}
