//! Which patches are masked: numbers, places, shares.

use burn::tensor::Device;
use vitrum::layers::mask::{Masks, Patch};
use vitrum::models::mae::MaeConfig;
use vitrum::models::mim::MimConfig;
use vitrum::models::vit::VitConfig;
use vitrum::models::{Config, ModelConfig, Network};
use vitrum::tasks::{MaskKind, MaskSampler};

fn vit() -> VitConfig {
    VitConfig {
        img_size: [56, 56],
        patch_size: [4, 4],
        embed_dim: 16,
        depth: 1,
        num_heads: 2,
        num_classes: 0,
        ..MaeConfig::default().vit
    }
}

fn sampler(config: impl Into<ModelConfig>, kind: MaskKind, seed: u64) -> MaskSampler {
    let model = config.into().init(&Device::flex(), 1).unwrap();
    MaskSampler::new(model.reconstruct().unwrap(), kind, seed)
}

fn mae(mask_ratio: f64) -> MaeConfig {
    MaeConfig {
        vit: vit(),
        decoder_embed_dim: 8,
        decoder_depth: 1,
        decoder_num_heads: 2,
        mask_ratio,
        ..MaeConfig::default()
    }
}

fn count(masks: &Masks, is: impl Fn(&Patch) -> bool) -> usize {
    masks.patches().iter().filter(|patch| is(patch)).count()
}

/// 196 patches; the paper keeps 49 of them.
#[test]
fn every_image_shows_the_same_number() {
    for kind in MaskKind::ALL {
        for (ratio, seen) in [(0.75, 49), (0.5, 98), (0.9, 19)] {
            let masks = sampler(mae(ratio), kind, 1).of_batch(5, 0, 0);
            let each = masks.num_seen();
            match kind {
                // Squares of a whole number of patches: one of nine at 90 %.
                MaskKind::Grid => assert!(each.is_some(), "{kind:?} {ratio}"),
                _ => assert_eq!(each, Some(seen), "{kind:?} {ratio}"),
            }
        }
    }
    let grid = sampler(mae(0.75), MaskKind::Grid, 3).of_batch(1, 0, 0);
    assert_eq!(grid.num_seen(), Some(49));
}

#[test]
fn masks_depend_on_seed_epoch_and_batch_alone() {
    for kind in MaskKind::ALL {
        let (a, b) = (sampler(mae(0.75), kind, 1), sampler(mae(0.75), kind, 2));
        assert_eq!(a.of_batch(40, 3, 4), a.clone().of_batch(40, 3, 4));
        let others =
            [b.of_batch(40, 3, 4), a.of_batch(40, 4, 4), a.of_batch(40, 3, 5), a.of_validation(0, 40)];
        assert!(others.iter().all(|other| *other != a.of_batch(40, 3, 4)), "{kind:?}");
        // Validation does not depend on the size of batches.
        let whole = a.of_validation(0, 10);
        assert_eq!(whole.narrow(6, 4), a.of_validation(6, 4));
    }
}

/// Over many draws, every place is masked equally often.
#[test]
fn random_masks_are_even() {
    let masks = sampler(mae(0.75), MaskKind::Random, 5).of_batch(4000, 0, 0);
    let mut counts = vec![0; 196];
    for (at, patch) in masks.patches().iter().enumerate() {
        counts[at % 196] += usize::from(*patch == Patch::Hidden);
    }
    // 3000 expected, deviation 27.
    assert!(counts.iter().all(|count| (2860..=3140).contains(count)), "{counts:?}");
}

/// Blocks hang together: a masked patch has more masked neighbours than at random.
#[test]
fn blocks_hang_together() {
    let neighbours = |kind| {
        let masks = sampler(mae(0.5), kind, 5).of_batch(200, 0, 0);
        let is = |image: usize, at: usize| masks.patches()[image * 196 + at] != Patch::Seen;
        let pairs =
            (0..200).flat_map(|image| (0..195).map(move |at| (image, at))).filter(|(_, at)| at % 14 != 13);
        pairs.filter(|&(image, at)| is(image, at) == is(image, at + 1)).count() as f64 / (200.0 * 182.0)
    };
    let (random, block) = (neighbours(MaskKind::Random), neighbours(MaskKind::Block));
    assert!((random - 0.5).abs() < 0.02 && block > 0.75, "{random} {block}");
}

/// Half of the patches are chosen; of those 80 % become the token, 10 % another patch, 10 % stay.
#[test]
fn masked_patch_prediction_corrupts_as_the_paper() {
    let masks = sampler(MimConfig::mpp(vit()), MaskKind::Random, 7).of_batch(2000, 0, 0);
    let chosen = count(&masks, |patch| *patch != Patch::Seen);
    assert_eq!(chosen, 2000 * 98);
    let share = |n: usize| n as f64 / chosen as f64;
    let hidden = share(count(&masks, |patch| *patch == Patch::Hidden));
    let own = masks
        .patches()
        .iter()
        .enumerate()
        .filter(|(at, patch)| **patch == Patch::Other((at % 196) as u32))
        .count();
    // Another patch is the patch itself once in 196.
    assert!((hidden - 0.8).abs() < 0.004, "{hidden}");
    assert!((share(own) - 0.1 - 0.1 / 196.0).abs() < 0.004, "{}", share(own));
}

/// SimMIM masks squares of 32 pixels; 60 % of 7 x 7 squares, rounded up.
#[test]
fn simmim_masks_squares() {
    let config = MimConfig { mask_patch_size: Some(8), ..MimConfig::simmim(vit()) };
    let masks = sampler(config, MaskKind::Random, 7).of_batch(50, 0, 0);
    for image in masks.patches().chunks(196) {
        assert_eq!(image.iter().filter(|patch| **patch == Patch::Hidden).count(), 30 * 4);
        for (row, column) in
            (0..14).step_by(2).flat_map(|row| (0..14).step_by(2).map(move |column| (row, column)))
        {
            let square = [0, 1, 14, 15].map(|more| image[row * 14 + column + more]);
            assert!(square.iter().all(|patch| *patch == square[0]));
        }
    }
}

/// As `vitrum reconstruct --reveal` shows them: a row adds patches to those of the row before.
#[test]
fn a_lower_ratio_shows_more_of_the_same_image() {
    let squares = MimConfig { mask_patch_size: Some(8), ..MimConfig::simmim(vit()) };
    for model in [ModelConfig::from(mae(0.75)), squares.into()] {
        let usual = sampler(model, MaskKind::Random, 5);
        let [few, more, most] = [0.95, 0.6, 0.1].map(|ratio| usual.clone().ratio(ratio).of_validation(3, 1));
        for [few, more] in [[&few, &more], [&more, &most]] {
            let mut both = few.patches().iter().zip(more.patches());
            assert!(both.all(|(few, more)| *few != Patch::Seen || *more == Patch::Seen));
            assert!(count(few, |patch| *patch == Patch::Seen) < count(more, |patch| *patch == Patch::Seen));
        }
    }
}

#[test]
fn noise_chooses_the_smallest() {
    let masks = Masks::from_noise(&[0.3, 0.1, 0.2, 0.9, 0.5, 0.5, 0.1, 0.5], 4, 0.5);
    let seen: Vec<usize> = (0..8).filter(|at| masks.patches()[*at] == Patch::Seen).collect();
    // Equal values count in their order.
    assert_eq!(seen, [1, 2, 4, 6]);
    assert_eq!(Masks::from_noise(&[0.5; 4], 4, 0.999).num_seen(), Some(1));
}
