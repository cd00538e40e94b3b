//! Training augmentation equals Pillow's, torchvision's and timm's: `fixtures/export_augment.py`.

use rand::SeedableRng;
use serde_json::Value;
use vitrum::data::augment::auto_augment::{Plan, Scheme};
use vitrum::data::augment::crop::{RandomCrop, RandomResizedCrop};
use vitrum::data::augment::erasing::EraseMode;
use vitrum::data::augment::geometry::{PadMode, Sampling, flip_horizontal, flip_vertical, pad};
use vitrum::data::augment::jitter::{ColorJitter, Jitter};
use vitrum::data::augment::mix::{Blend, cut_box, cut_sides};
use vitrum::data::augment::op::{Applied, AugmentOp, Hparams, Op};
use vitrum::data::augment::{
    AugmentError, AutoAugment, Crop, CropBox, CropFlip, MixConfig, MixMode, Mixup, RandomErasing, TrainPlan,
    TrainTransform, TrainTransformConfig, blur, color, crop_flip, smoothed_one_hot,
};
use vitrum::data::random::{DataRng, batch_rng, sample_rng};
use vitrum::data::{Interpolation, Preprocess, RgbImage};

use super::pattern::pattern;
use super::{digest, golden_lines, number};
use crate::formula;

fn lines(name: &str) -> Vec<String> {
    golden_lines(&format!("augment/{name}"))
}

fn rows(name: &str) -> Vec<Value> {
    serde_json::from_str(&lines(name).join("\n")).unwrap()
}

/// Kind, seed, width, height; kind 3 is one colour.
fn picture(fields: [u64; 4]) -> RgbImage {
    let [kind, seed, width, height] = fields;
    let (width, height) = (width as u32, height as u32);
    if kind == 3 {
        return RgbImage::filled(width, height, [31, 57, 91].map(|n| (seed * n % 256) as u8)).unwrap();
    }
    pattern(kind, seed, width, height)
}

fn sampling(name: &str) -> Sampling {
    Sampling::of(Interpolation::of_name(name).unwrap()).unwrap()
}

fn float_digest(values: &[f32]) -> String {
    digest(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())
}

/// Panics with the first few of what differs.
fn none_differ(wrong: &[String], of: usize) {
    let first = &wrong[..wrong.len().min(8)];
    assert!(wrong.is_empty(), "{} of {of} differ, first:\n{}", wrong.len(), first.join("\n"));
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn whole<const N: usize>(value: &Value) -> [u64; N] {
    let list: Vec<u64> = value.as_array().unwrap().iter().map(|x| x.as_u64().unwrap()).collect();
    list.try_into().unwrap()
}

fn rng(seed: u64) -> DataRng {
    DataRng::seed_from_u64(seed)
}

// ── one image, given choices ──

#[test]
fn every_operation_equals_timm_on_pillow() {
    let (lines, mut wrong) = (lines("ops.txt"), Vec::new());
    let mut seen = std::collections::BTreeSet::new();
    for line in &lines {
        let f: Vec<&str> = line.split(' ').collect();
        let op = Op::of_name(f[0]).unwrap();
        let applied = Applied { op, argument: number(f[1]), sampling: sampling(f[2]) };
        let image = picture([6, 7, 8, 9].map(|at| number(f[at])));
        let out = applied.apply(image, [3, 4, 5].map(|at| number(f[at])));
        seen.insert(op.name());
        if digest(out.data()) != f[10] {
            wrong.push(line.clone());
        }
    }
    // GaussianBlurRand draws its radius inside timm's function; it is GaussianBlur with that radius.
    assert_eq!(seen.len(), Op::ALL.len() - 1);
    none_differ(&wrong, lines.len());
}

#[test]
fn flips_padding_crops_and_colours_equal_torchvision() {
    let (lines, mut wrong) = (lines("pixels.txt"), Vec::new());
    for line in &lines {
        let f: Vec<&str> = line.split(' ').collect();
        let v: Vec<f64> = f[1].split(',').map(number).collect();
        let image = picture([2, 3, 4, 5].map(|at| number(f[at])));
        let int = |at: usize| v[at] as u32;
        let cropped = |image: &RgbImage, filter| {
            let area = CropFlip { x: int(0), y: int(1), w: int(2), h: int(3), flip: v[6] == 1.0 };
            crop_flip(image, &area, [int(4), int(5)], filter).unwrap()
        };
        let padded = |image: &RgbImage, mode| {
            let crop = RandomCrop::new([int(2), int(2)], int(3), mode);
            crop.apply(image, [int(0), int(1)], Interpolation::Bicubic).unwrap()
        };
        let out = match f[0] {
            "hflip" => flip_horizontal(image),
            "vflip" => flip_vertical(&image),
            "grey" => image.to_grey(),
            "pad_constant" => pad(&image, int(0), PadMode::Constant).unwrap(),
            "pad_reflect" => pad(&image, int(0), PadMode::Reflect).unwrap(),
            "hue" => color::hue(image, v[0]),
            "brightness" => Jitter::Brightness(v[0]).apply(image),
            "contrast" => Jitter::Contrast(v[0]).apply(image),
            "saturation" => Jitter::Saturation(v[0]).apply(image),
            "padded_constant" => padded(&image, PadMode::Constant),
            "padded_reflect" => padded(&image, PadMode::Reflect),
            name => cropped(&image, Interpolation::of_name(name.strip_prefix("crop_").unwrap()).unwrap()),
        };
        if digest(out.data()) != f[6] {
            wrong.push(line.clone());
        }
    }
    assert!(lines.len() > 300);
    none_differ(&wrong, lines.len());
}

#[test]
fn the_blur_of_torchvision_is_equal_but_for_ties() {
    let (mut values, mut off) = (0, 0);
    for line in lines("blur.txt") {
        let f: Vec<&str> = line.split(' ').collect();
        let image = picture([1, 2, 3, 4].map(|at| number(f[at])));
        let out = blur::gaussian_blur_23(&image, number(f[0]));
        for (at, &ours) in out.data().iter().enumerate() {
            let theirs = u8::from_str_radix(&f[5][2 * at..2 * at + 2], 16).unwrap();
            assert!(ours.abs_diff(theirs) <= 1, "{} {at}: {ours} {theirs}", &line[..20]);
            values += 1;
            off += u32::from(ours != theirs);
        }
    }
    assert!(values > 10_000 && off <= values / 1000, "{off} of {values} differ by a level");
}

#[test]
fn nothing_but_given_pixels_moves_when_an_operation_does_nothing() {
    let image = picture([0, 3, 19, 11]);
    let same = [(Op::Posterize, 8.0), (Op::Solarize, 256.0), (Op::SolarizeAdd, 0.0), (Op::Color, 1.0)];
    let moved = [(Op::Rotate, 0.0), (Op::ShearX, 0.0), (Op::TranslateYRel, 0.0), (Op::GaussianBlur, 0.0)];
    for (op, argument) in same.into_iter().chain(moved) {
        for sampling in [Sampling::Nearest, Sampling::Bilinear, Sampling::Bicubic] {
            let out = Applied { op, argument, sampling }.apply(image.clone(), [9; 3]);
            assert_eq!(out, image, "{op:?} {sampling:?}");
        }
    }
    // timm's tables ask for no bits at all; Pillow before 13 made that black.
    assert_eq!(color::posterize(image, 0), RgbImage::filled(19, 11, [0; 3]).unwrap());
}

#[test]
fn wild_arguments_do_no_harm() {
    for argument in [f64::NAN, f64::INFINITY, -1e300, 1e300, 1e9, -1e9, 33_000.0] {
        for op in Op::ALL {
            for sampling in [Sampling::Nearest, Sampling::Bilinear, Sampling::Bicubic] {
                let image = picture([0, 1, 6, 4]);
                let out = Applied { op, argument, sampling }.apply(image, [9; 3]);
                assert_eq!((out.width(), out.height()), (6, 4), "{op:?} {argument}");
            }
        }
        let image = picture([0, 1, 6, 4]);
        blur::gaussian_blur_23(&image, argument);
        color::hue(image, argument);
    }
}

// ── levels and texts ──

#[test]
fn levels_mean_what_they_mean_to_timm() {
    let hparams = Hparams { translate_const: 100.0, ..Hparams::default() };
    let (lines, mut wrong) = (lines("levels.txt"), Vec::new());
    for line in &lines {
        let f: Vec<&str> = line.split(' ').collect();
        let op = Op::of_name(f[0]).unwrap();
        let sign: f64 = number(f[2]);
        let argument = op.argument(number(f[1]), if op.has_sign() { sign } else { 1.0 }, &hparams);
        if argument != number::<f64>(f[3]) {
            wrong.push(format!("{line} but {argument}"));
        }
    }
    assert!(lines.len() >= 27 * 2 * 21);
    none_differ(&wrong, lines.len());
}

#[test]
fn texts_mean_what_they_mean_to_timm() {
    for row in rows("policies.json") {
        let text = row["text"].as_str().unwrap();
        let auto = AutoAugment::parse(text, Hparams::default()).unwrap();
        let std = if row["std"] == "inf" { f64::INFINITY } else { row["std"].as_f64().unwrap() };
        assert_eq!(auto.hparams.magnitude_std, std, "{text}");
        assert_eq!(auto.hparams.magnitude_max, row["max"].as_f64().unwrap(), "{text}");
        let expected: Vec<AugmentOp> = row["ops"]
            .as_array()
            .unwrap()
            .iter()
            .map(|op| AugmentOp {
                op: Op::of_name(op[0].as_str().unwrap()).unwrap(),
                prob: op[1].as_f64().unwrap(),
                magnitude: op[2].as_f64().unwrap(),
            })
            .collect();
        let ops = match auto.scheme {
            Scheme::Policy(found) => {
                let lengths: Vec<u64> = found.iter().map(|row| row.len() as u64).collect();
                assert_eq!(serde_json::json!(lengths), row["rows"], "{text}");
                found.concat()
            }
            Scheme::Rand { ops, layers, weights } => {
                assert_eq!(layers as u64, row["layers"].as_u64().unwrap(), "{text}");
                let expected = row["weights"].as_array().map(|_| floats(&row["weights"]));
                assert_eq!(weights.is_some(), expected.is_some(), "{text}");
                for (ours, theirs) in weights.iter().flatten().zip(expected.iter().flatten()) {
                    assert!((ours - theirs).abs() < 1e-15, "{text}");
                }
                ops
            }
            Scheme::Mix { ops, alpha, width, depth, blended } => {
                assert_eq!(alpha, row["alpha"].as_f64().unwrap());
                assert_eq!(width as u64, row["width"].as_u64().unwrap());
                assert_eq!(depth, row["depth"].as_u64().filter(|n| *n > 0).map(|n| n as usize));
                assert_eq!(blended, row["blended"].as_bool().unwrap());
                ops
            }
        };
        assert_eq!(ops, expected, "{text}");
    }
}

#[test]
fn texts_that_mean_nothing_are_errors_with_a_hint() {
    for (text, said) in [
        ("randaugment", "there is no 'randaugment'"),
        ("none", "hint: `rand-m9-mstd0.5-inc1`"),
        ("rand-m9-q3", "there is no section 'q3'"),
        ("rand-m9-w0", "there is no section 'w0'"),
        ("rand-inc", "'' behind 'inc' is not a whole number"),
        ("rand-m9.5", "'9.5' behind 'm' is not a whole number"),
        ("rand-p1x", "'1x' behind 'p' is not a number"),
        ("rand-m9-", "there is no section ''"),
        ("rand-tfoo", "there is no list 'foo'"),
        ("rand-n15-t3aw", "15 different operations of 14"),
        ("augmix-w0", "0 chains"),
        ("augmix-a0", "alpha 0"),
        ("augmix-n2", "there is no section 'n2'"),
        ("original-m9", "there is no section 'm9'"),
    ] {
        let error = AutoAugment::parse(text, Hparams::default()).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("hint: ") && error.contains(text), "{text}: {error}");
    }
}

// ── boxes ──

#[test]
fn random_resized_crops_equal_timm_for_given_numbers() {
    let lines = lines("crops.txt");
    let mut fallbacks = 0;
    for line in &lines {
        let f: Vec<&str> = line.split(' ').collect();
        let (width, height) = (number(f[0]), number(f[1]));
        let [least, most, narrow, wide] = [2, 3, 4, 5].map(|at| number(f[at]));
        let [x, y, w, h] = [7, 8, 9, 10].map(|at| number(f[at]));
        let uniforms: Vec<f64> = f[11..].iter().map(|text| number(text)).collect();
        let mut sides =
            uniforms.chunks(2).map(|pair| RandomResizedCrop::sides(width, height, pair[0], pair[1]));
        let found = sides.find(Option::is_some).flatten();
        if f[6] == "box" {
            assert_eq!(found, Some([w, h]), "{line}");
            assert!(sides.next().is_none(), "timm drew on: {line}");
        } else {
            let crop = RandomResizedCrop::new([least, most], [narrow, wide]).unwrap();
            assert_eq!((found, crop.fallback(width, height)), (None, CropBox { x, y, w, h }), "{line}");
            fallbacks += 1;
        }
    }
    assert!(fallbacks > 20 && lines.len() > 150 - 20);
}

#[test]
fn erased_parts_equal_timm_for_given_numbers() {
    let erasing = RandomErasing::new(1.0, EraseMode::Const, 1).unwrap();
    let lines = lines("erasing.txt");
    for line in &lines {
        let f: Vec<&str> = line.split(' ').collect();
        let (width, height, count) = (number(f[0]), number(f[1]), number(f[2]));
        let uniforms: Vec<f64> = f[3].split(',').map(number).collect();
        let integers: Vec<u32> = f[4].split(',').filter(|text| *text != "-").map(number).collect();
        let sides = uniforms.chunks(2);
        let sides = sides.filter_map(|pair| RandomErasing::sides(width, height, count, pair[0], pair[1]));
        let parts: Vec<CropBox> = sides
            .zip(integers.chunks(2))
            .map(|([w, h], corner)| CropBox { x: corner[1], y: corner[0], w, h })
            .collect();
        assert_eq!(parts.len() * 2, integers.len(), "{line}");
        let mut values = vec![1.0_f32; 2 * width as usize * height as usize];
        erasing.apply(&mut values, [height as usize, width as usize], &parts, &mut rng(0));
        let (first, second) = values.split_at(values.len() / 2);
        assert_eq!(first, second);
        let mask: Vec<u8> = first.iter().map(|value| u8::from(*value == 0.0)).collect();
        assert_eq!(digest(&mask), f[5], "{line}");
    }
    assert_eq!(lines.len(), 200);
}

#[test]
fn fillings_are_one_colour_or_noise() {
    let part = [CropBox { x: 1, y: 2, w: 40, h: 30 }];
    let fill = |mode| {
        let mut values = vec![5.0_f32; 3 * 50 * 60];
        RandomErasing::new(1.0, mode, 1).unwrap().apply(&mut values, [50, 60], &part, &mut rng(1));
        let inside = |i: usize| (1..41).contains(&(i % 60)) && (2..32).contains(&(i / 60 % 50));
        assert!((0..values.len()).all(|i| inside(i) == (values[i] != 5.0)));
        (0..3)
            .map(|c| (c * 3000..(c + 1) * 3000).filter(|&i| inside(i)).map(|i| values[i]).collect())
            .collect()
    };
    let channels: Vec<Vec<f32>> = fill(EraseMode::Const);
    assert!(channels.concat().iter().all(|value| *value == 0.0));
    let channels: Vec<Vec<f32>> = fill(EraseMode::Rand);
    assert!(channels.iter().all(|c| c.iter().all(|value| *value == c[0])));
    assert!(channels[0][0] != channels[1][0] && channels[1][0] != channels[2][0]);
    let noise: Vec<f32> = fill(EraseMode::Pixel).concat();
    let mean = noise.iter().sum::<f32>() / 3600.0;
    let variance = noise.iter().map(|value| value * value).sum::<f32>() / 3600.0;
    assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.1, "{mean} {variance}");
}

// ── whole chains, given choices ──

fn applied(op: &Value, sampling: Sampling) -> Applied {
    let (name, argument) = (op[0].as_str().unwrap(), op[1].as_f64().unwrap());
    Applied { op: Op::of_name(name).unwrap(), argument, sampling }
}

fn applied_list(ops: &Value, sampling: Sampling) -> Vec<Applied> {
    ops.as_array().unwrap().iter().map(|op| applied(op, sampling)).collect()
}

#[test]
fn augmix_equals_timm_for_given_choices() {
    let rows: Vec<Value> = rows("chains.json").into_iter().filter(|row| row["kind"] == "augmix").collect();
    assert_eq!(rows.len(), 12);
    for row in rows {
        let hparams = Hparams { fill: [124, 116, 104], ..Hparams::default() };
        let auto = AutoAugment::parse(row["text"].as_str().unwrap(), hparams).unwrap();
        let Scheme::Mix { blended, .. } = auto.scheme else { panic!("{row}") };
        let chains = row["chains"].as_array().unwrap();
        let plan = Plan::Mix {
            chains: chains.iter().map(|chain| applied_list(chain, Sampling::Bicubic)).collect(),
            weights: floats(&row["weights"]).into_iter().map(|weight| weight as f32).collect(),
            share: row["share"].as_f64().unwrap() as f32,
            blended,
        };
        let out = auto.apply(picture(whole(&row["image"])), &plan);
        assert_eq!(digest(out.data()), row["digest"].as_str().unwrap(), "{row}");
    }
}

#[test]
fn whole_transforms_equal_timm_for_given_choices() {
    let rows: Vec<Value> = rows("chains.json").into_iter().filter(|row| row["kind"] == "pipeline").collect();
    assert_eq!(rows.len(), 24);
    for row in rows {
        let options = &row["options"];
        let [height, width] = whole(&row["size"]).map(|side: u64| side as usize);
        let single = |key: &str| floats(&row[key]).into_iter().map(|x| x as f32).collect();
        let name = options["interpolation"].as_str().unwrap();
        let filter = Interpolation::of_name(name).unwrap();
        let p = |key: &str| options[key].as_f64().unwrap_or(0.0);
        let config = TrainTransformConfig {
            preprocess: Preprocess {
                input_size: [3, height, width],
                mean: single("mean"),
                std: single("std"),
                ..Preprocess::default()
            },
            hflip: p("hflip"),
            vflip: p("vflip"),
            color_jitter: options["color_jitter"].as_f64().unwrap_or(0.4),
            grayscale_prob: p("grayscale_prob"),
            aa: options["auto_augment"].as_str().map(String::from),
            reprob: p("re_prob"),
            remode: "const".into(),
            recount: 3,
            train_interpolation: name.into(),
            ..TrainTransformConfig::default()
        };
        let transform = TrainTransform::new(&config).unwrap();
        let image = picture(whole(&row["image"]));
        let [x, y, w, h] = whole(&row["crop"]).map(|side: u64| side as u32);
        let factor = |at: &Value| (at[0].as_u64().unwrap(), at[1].as_f64().unwrap());
        let jitter = row["jitter"].as_array().unwrap().iter().map(|at| match factor(at) {
            (0, factor) => Jitter::Brightness(factor),
            (1, factor) => Jitter::Contrast(factor),
            (2, factor) => Jitter::Saturation(factor),
            (_, factor) => Jitter::Hue(factor),
        });
        let given = TrainPlan {
            crop: Crop::Resized { area: CropBox { x, y, w, h }, filter },
            hflip: p("hflip") == 1.0,
            vflip: p("vflip") == 1.0,
            auto: config.aa.as_ref().map(|_| Plan::Chain(applied_list(&row["ops"], sampling(name)))),
            jitter: jitter.collect(),
            grey: p("grayscale_prob") == 1.0,
            blur: None,
            erase: row["erased"]
                .as_array()
                .unwrap()
                .iter()
                .map(|part| whole(part).map(|side: u64| side as u32))
                .map(|[x, y, w, h]| CropBox { x, y, w, h })
                .collect(),
        };
        let out = transform.apply_recorded(&image, &given, &mut rng(0)).unwrap();
        assert_eq!(float_digest(&out), row["digest"].as_str().unwrap(), "{row}");
        // What this library itself would choose has the same steps.
        let own = transform.draw(image.width(), image.height(), &mut rng(1));
        assert_eq!((own.hflip, own.vflip, own.grey), (given.hflip, given.vflip, given.grey));
        assert_eq!(own.jitter.len(), given.jitter.len(), "{options}");
        assert_eq!(own.auto.is_some(), given.auto.is_some());
        assert_eq!(own.erase.is_empty(), given.erase.is_empty());
        assert!(matches!(own.crop, Crop::Resized { filter: own, .. } if own == filter));
    }
}

// ── mixing ──

fn mix_of(row: &Value) -> MixConfig {
    MixConfig {
        mixup: 0.8,
        cutmix: 1.0,
        cutmix_minmax: row["minmax"].as_array().map(|_| floats(&row["minmax"]).try_into().unwrap()),
        mixup_mode: MixMode::of_name(row["mode"].as_str().unwrap()).unwrap(),
        smoothing: row["smoothing"].as_f64().unwrap(),
        ..MixConfig::default()
    }
}

#[test]
fn mixing_equals_timm_for_given_shares_and_boxes() {
    let (shape, labels) = ([4, 2, 9, 12], [3, 0, 6, 3]);
    let size = [9, 12];
    let mut cuts_seen = 0;
    for row in rows("mix.json") {
        let config = mix_of(&row);
        let round = |lam: f64| if config.mixup_mode == MixMode::Batch { lam } else { f64::from(lam as f32) };
        let mut boxes = row["boxes"].as_array().unwrap().iter();
        let drawn = floats(&row["lams"]).into_iter().zip(row["cuts"].as_array().unwrap());
        let mut blends: Vec<Blend> = drawn
            .map(|(lam, cut)| {
                if lam == 1.0 {
                    return Blend::Keep;
                }
                if cut == false {
                    return Blend::Mix { lam };
                }
                let found = boxes.next().unwrap();
                let [top, bottom, left, right] = whole(&found[0]).map(|edge| edge as u32);
                let area = CropBox { x: left, y: top, w: right - left, h: bottom - top };
                if config.cutmix_minmax.is_none() {
                    let centre = whole(&found[2]).map(|at| at as usize);
                    assert_eq!(cut_box(size, cut_sides(size, lam), centre), area, "{row}");
                }
                cuts_seen += 1;
                Blend::Cut { area, lam: round(found[1].as_f64().unwrap()) }
            })
            .collect();
        match config.mixup_mode {
            MixMode::Batch => blends = vec![blends[0]; 4],
            MixMode::Pair => blends.extend(blends.clone().into_iter().rev()),
            MixMode::Elem => {}
        }
        let mut values = formula::images(shape, 1.0);
        let mixup = Mixup::new(config, 7).unwrap();
        let targets = mixup.apply_recorded(&mut values, shape, &labels, &blends).unwrap();
        assert_eq!(float_digest(&values), row["values"].as_str().unwrap(), "{row}");
        assert_eq!(float_digest(&targets), row["targets"].as_str().unwrap(), "{row}");
    }
    assert!(cuts_seen > 10);
}

#[test]
fn own_boxes_have_the_share_they_state() {
    for (seed, minmax) in (0..400).zip([None, Some([0.2, 0.8])].into_iter().cycle()) {
        let mode = [MixMode::Batch, MixMode::Pair, MixMode::Elem][seed as usize % 3];
        let config =
            MixConfig { cutmix: 1.0, cutmix_minmax: minmax, mixup_mode: mode, ..MixConfig::default() };
        let blends = Mixup::new(config, 5).unwrap().draw([6, 3, 20, 30], &mut batch_rng(1, 2, seed));
        assert_eq!(blends.len(), 6);
        for (i, blend) in blends.iter().enumerate() {
            let Blend::Cut { area, lam } = *blend else { panic!("{blend:?}") };
            let share = 1.0 - f64::from(area.w * area.h) / 600.0;
            assert!((share - lam).abs() < 1e-7, "{blend:?}");
            assert!(area.x + area.w <= 30 && area.y + area.h <= 20);
            if let Some([least, most]) = minmax {
                assert!((least * 30.0 - 1.0..most * 30.0).contains(&f64::from(area.w)), "{area:?}");
            }
            match mode {
                MixMode::Batch => assert_eq!(*blend, blends[0]),
                MixMode::Pair => assert_eq!(*blend, blends[5 - i]),
                MixMode::Elem => {}
            }
        }
    }
}

#[test]
fn labels_keep_their_mass_and_images_their_sum() {
    for (seed, mode) in (0..60).zip([MixMode::Batch, MixMode::Pair, MixMode::Elem].into_iter().cycle()) {
        let config = MixConfig { mixup: 0.8, cutmix: 1.0, mixup_mode: mode, ..MixConfig::default() };
        let mixup = Mixup::new(config, 7).unwrap();
        assert!(mixup.is_on());
        let count = 4 + seed as usize % 3;
        let shape = [count, 2, 5, 6];
        let original = formula::images(shape, 1.0);
        let labels: Vec<usize> = (0..count).map(|i| (i * 3 + seed as usize) % 7).collect();
        let mut values = original.clone();
        let targets = mixup.apply(&mut values, shape, &labels, &mut batch_rng(1, 0, seed)).unwrap();
        for row in targets.chunks(7) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6, "{row:?}");
        }
        if mode != MixMode::Elem {
            // Both images of a pair give what they take.
            let sum = |values: &[f32]| values.iter().map(|v| f64::from(*v)).sum::<f64>();
            assert!((sum(&values) - sum(&original)).abs() < 1e-4, "{mode:?}");
        }
        let mut again = original.clone();
        assert_eq!(mixup.apply(&mut again, shape, &labels, &mut batch_rng(1, 0, seed)).unwrap(), targets);
        assert_eq!(again, values);
    }
}

#[test]
fn without_mixing_labels_are_smoothed_and_nothing_else() {
    let targets = smoothed_one_hot(&[1, 0], 4, 0.1).unwrap();
    let (on, off) = ((1.0 - 0.1 + 0.1 / 4.0) as f32, (0.1 / 4.0) as f32);
    assert_eq!(targets, [off, on, off, off, on, off, off, off]);
    let mixup = Mixup::new(MixConfig::default(), 4).unwrap();
    assert!(!mixup.is_on());
    let mut values = vec![1.0, 2.0, 3.0, 4.0];
    assert_eq!(mixup.apply(&mut values, [2, 1, 1, 2], &[1, 0], &mut rng(0)).unwrap(), targets);
    assert_eq!(values, [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(mixup.to_string(), "label smoothing 0.1");
}

#[test]
fn batches_that_do_not_fit_are_errors() {
    let mixup = Mixup::new(MixConfig { mixup: 1.0, ..MixConfig::default() }, 4).unwrap();
    let mut values = vec![0.0; 24];
    let mut apply = |shape, labels: &[usize]| mixup.apply(&mut values, shape, labels, &mut rng(0));
    assert!(matches!(apply([2, 3, 2, 3], &[0, 1]), Err(AugmentError::Batch { .. })));
    assert!(matches!(apply([2, 3, 2, 2], &[0]), Err(AugmentError::Batch { labels: 1, .. })));
    assert!(matches!(apply([2, usize::MAX, 2, 2], &[0, 1]), Err(AugmentError::Batch { .. })));
    let label = apply([2, 3, 2, 2], &[0, 4]).unwrap_err();
    assert_eq!(label, AugmentError::Label { at: 1, label: 4, num_classes: 4 });
    let outside = Blend::Cut { area: CropBox { x: 1, y: 0, w: 2, h: 1 }, lam: 0.5 };
    let result = mixup.apply_recorded(&mut values, [2, 3, 2, 2], &[0, 1], &[outside; 2]);
    assert!(matches!(result, Err(AugmentError::CropBox { .. })));
    for config in [
        MixConfig { mixup: -1.0, ..MixConfig::default() },
        MixConfig { cutmix: f64::NAN, ..MixConfig::default() },
        MixConfig { cutmix_minmax: Some([0.8, 0.2]), ..MixConfig::default() },
        MixConfig { mixup_prob: 1.5, ..MixConfig::default() },
        MixConfig { smoothing: -0.1, ..MixConfig::default() },
    ] {
        assert!(matches!(Mixup::new(config.clone(), 4), Err(AugmentError::Field { .. })), "{config:?}");
    }
    assert!(MixMode::of_name("half").unwrap_err().to_string().contains("hint: expected `batch`"));
}

// ── how choices are distributed ──

const DRAWS: u64 = 20_000;

/// Both means are of 20,000 draws: three deviations of their difference (a few for the many asked for).
fn near(ours: f64, theirs: f64, std: f64, what: &str) {
    let error = std * (2.0 / DRAWS as f64).sqrt();
    assert!((ours - theirs).abs() <= 3.0 * error.max(1e-9), "{what}: {ours} beside {theirs} ± {error}");
}

fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    (mean, (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / n).sqrt())
}

fn statistics(what: &str) -> Vec<Value> {
    rows("statistics.json").into_iter().filter(|row| row["what"] == what).collect()
}

#[test]
fn crops_are_distributed_as_torchvisions() {
    for row in statistics("crop") {
        let [width, height] = whole(&row["image"]).map(|side| side as u32);
        let scale = floats(&row["scale"]).try_into().unwrap();
        let crop = RandomResizedCrop::new(scale, [3.0 / 4.0, 4.0 / 3.0]).unwrap();
        let draws = (0..DRAWS).map(|index| {
            let CropBox { x, y, w, h } = crop.draw(width, height, &mut sample_rng(1, 2, index, 0));
            let [w64, h64, x64, y64] = [w, h, x, y].map(f64::from);
            let free = |whole: u32, part: u32| f64::from((whole - part).max(1));
            let area = w64 * h64 / f64::from(width * height);
            [area, (w64 / h64).ln(), y64 / free(height, h), x64 / free(width, w)]
        });
        let draws: Vec<[f64; 4]> = draws.collect();
        for (at, what) in ["area", "shape", "top", "left"].into_iter().enumerate() {
            let values: Vec<f64> = draws.iter().map(|draw| draw[at]).collect();
            let ((mean, std), theirs) = (mean_and_std(&values), row["std"][at].as_f64().unwrap());
            near(mean, row["mean"][at].as_f64().unwrap(), theirs, what);
            assert!((std / theirs - 1.0).abs() < 0.05, "{what}: {std} {theirs}");
        }
    }
}

fn chain(plan: Plan) -> Vec<Applied> {
    match plan {
        Plan::Chain(chain) => chain,
        Plan::Mix { .. } => panic!("no chain"),
    }
}

#[test]
fn operations_are_as_frequent_as_timms() {
    for row in statistics("ops") {
        let text = row["text"].as_str().unwrap();
        let auto = AutoAugment::parse(text, Hparams::default()).unwrap();
        let mut counts = std::collections::BTreeMap::new();
        for index in 0..DRAWS {
            let chain = chain(auto.draw(&mut sample_rng(3, 0, index, 0)));
            chain.iter().for_each(|step| *counts.entry(step.op.name()).or_insert(0.0) += 1.0);
        }
        let theirs = row["frequency"].as_object().unwrap();
        assert_eq!(counts.len(), theirs.len(), "{text}");
        for (name, count) in counts {
            let (ours, theirs) = (count / DRAWS as f64, theirs[name].as_f64().unwrap());
            // Poisson's deviation is above that of what comes once at most. 54 comparisons: four deviations.
            let error = 4.0 * (2.0 * theirs / DRAWS as f64).sqrt();
            assert!((ours - theirs).abs() < error, "{text} {name}: {ours} {theirs}");
        }
    }
}

#[test]
fn levels_are_as_noisy_as_timms() {
    let [row] = statistics("level").try_into().unwrap();
    let op = AugmentOp { op: Op::Rotate, prob: 1.0, magnitude: 9.0 };
    let hparams = Hparams { magnitude_std: 0.5, ..Hparams::default() };
    let draw = |index| op.draw(&hparams, &mut sample_rng(4, 0, index, 0)).unwrap().argument;
    let degrees: Vec<f64> = (0..DRAWS).map(draw).collect();
    let sizes: Vec<f64> = degrees.iter().map(|degrees| degrees.abs()).collect();
    near(mean_and_std(&degrees).0, row["mean"].as_f64().unwrap(), 27.0, "mean");
    let (mean, std) = mean_and_std(&sizes);
    near(mean, row["abs_mean"].as_f64().unwrap(), row["abs_std"].as_f64().unwrap(), "size");
    near(std, row["abs_std"].as_f64().unwrap(), 1.5, "deviation");
    let most = sizes.iter().filter(|size| **size == 30.0).count() as f64 / DRAWS as f64;
    near(most, row["at_most"].as_f64().unwrap(), 0.15, "at the highest level");
    let uniform = Hparams { magnitude_std: f64::INFINITY, ..Hparams::default() };
    let draw = |index| op.draw(&uniform, &mut sample_rng(5, 0, index, 0)).unwrap().argument.abs();
    let sizes: Vec<f64> = (0..DRAWS).map(draw).collect();
    near(mean_and_std(&sizes).0, 13.5, 7.8, "uniform");
}

#[test]
fn shares_of_mixup_are_beta() {
    for row in statistics("beta") {
        let alpha = row["alpha"].as_f64().unwrap();
        let mixup = Mixup::new(MixConfig { mixup: alpha, ..MixConfig::default() }, 2).unwrap();
        let draw = |index| match mixup.draw([2, 1, 1, 1], &mut batch_rng(6, 0, index))[0] {
            Blend::Mix { lam } => lam,
            Blend::Keep => 1.0,
            Blend::Cut { .. } => panic!("no CutMix"),
        };
        let shares: Vec<f64> = (0..DRAWS).map(draw).collect();
        let (mean, std) = mean_and_std(&shares);
        near(mean, 0.5, std, "mean");
        near(std, 0.5 / (2.0 * alpha + 1.0).sqrt(), 0.5, "deviation");
        let below = shares.iter().filter(|share| **share < 0.1).count() as f64 / DRAWS as f64;
        let theirs = row["below"].as_f64().unwrap();
        near(below, theirs, (theirs * (1.0 - theirs)).sqrt(), "below 0.1");
    }
    // Far below what anybody uses: every draw at an end, none not a number.
    let mixup = Mixup::new(MixConfig { mixup: 1e-9, ..MixConfig::default() }, 2).unwrap();
    for index in 0..200 {
        match mixup.draw([2, 1, 1, 1], &mut batch_rng(7, 0, index))[0] {
            Blend::Mix { lam } => assert!((0.0..=1.0).contains(&lam), "{lam}"),
            blend => assert_eq!(blend, Blend::Keep),
        }
    }
}

#[test]
fn switching_and_probabilities_are_kept() {
    let config = MixConfig {
        mixup: 0.8,
        cutmix: 1.0,
        mixup_prob: 0.7,
        mixup_switch_prob: 0.3,
        ..MixConfig::default()
    };
    let mixup = Mixup::new(config, 2).unwrap();
    let count = |wanted: fn(&Blend) -> bool| {
        let hits =
            (0..DRAWS).filter(|index| wanted(&mixup.draw([2, 1, 16, 16], &mut batch_rng(8, 0, *index))[0]));
        hits.count() as f64 / DRAWS as f64
    };
    near(count(|blend| *blend == Blend::Keep), 0.3, 0.46, "neither");
    near(count(|blend| matches!(blend, Blend::Cut { .. })), 0.21, 0.41, "CutMix");
}

#[test]
fn jitter_goes_as_far_as_asked_in_every_order() {
    let jitter = ColorJitter::new(0.4, 0.2, 1.5, 0.1).unwrap();
    let mut orders = std::collections::BTreeSet::new();
    for index in 0..2000 {
        let steps = jitter.draw(&mut sample_rng(9, 0, index, 0));
        orders.insert(format!("{:?}", steps.iter().map(std::mem::discriminant).collect::<Vec<_>>()));
        for step in steps {
            match step {
                Jitter::Brightness(x) => assert!((0.6..=1.4).contains(&x)),
                Jitter::Contrast(x) => assert!((0.8..=1.2).contains(&x)),
                Jitter::Saturation(x) => assert!((0.0..=2.5).contains(&x)),
                Jitter::Hue(x) => assert!((-0.1..=0.1).contains(&x)),
            }
        }
    }
    assert_eq!(orders.len(), 24);
}

// ── the transform ──

fn config(size: [usize; 3]) -> TrainTransformConfig {
    let preprocess = Preprocess { input_size: size, ..Preprocess::default() };
    let one = |values: Vec<f32>| values[..size[0]].to_vec();
    let (mean, std) = (one(preprocess.mean.clone()), one(preprocess.std.clone()));
    TrainTransformConfig {
        preprocess: Preprocess { mean, std, ..preprocess },
        ..TrainTransformConfig::default()
    }
}

#[test]
fn same_stream_same_values_whatever_the_steps() {
    let mut seen = std::collections::BTreeSet::new();
    for (case, aa) in [
        "",
        "rand-m9-mstd0.5-inc1",
        "rand-m15-mmax30-n4-p1",
        "augmix-m5-w2",
        "original",
        "v0r-mstd1",
        "3a",
        "v0",
    ]
    .into_iter()
    .enumerate()
    {
        let channels = if case % 2 == 0 { 3 } else { 1 };
        let config = TrainTransformConfig {
            aa: Some(aa.into()),
            vflip: 0.5,
            grayscale_prob: 0.2,
            gaussian_blur_prob: 0.3,
            reprob: 0.5,
            recount: 2,
            crop_pad: (case == 3).then_some(4),
            ..config([channels, 20, 28])
        };
        let transform = TrainTransform::new(&config).unwrap();
        assert!(transform.is_random());
        for index in 0..40 {
            let [width, height] = [(1, 1), (50, 3), (3, 50), (20, 28), (64, 48)][index as usize % 5].into();
            let image = pattern(index % 3, index, width, height);
            let first = transform.apply(&image, &mut sample_rng(1, 2, index, 0)).unwrap();
            assert_eq!(first.len(), channels * 20 * 28);
            assert!(first.iter().all(|value| value.is_finite()));
            let second = transform.apply(&image, &mut sample_rng(1, 2, index, 0)).unwrap();
            assert_eq!(first, second, "{aa} {index}");
            seen.insert(float_digest(&first));
        }
    }
    assert!(seen.len() > 300, "{}", seen.len());
}

#[test]
fn without_augmentation_it_is_validation() {
    let config = TrainTransformConfig {
        no_aug: true,
        aa: Some("v0".into()),
        reprob: 1.0,
        grayscale_prob: 1.0,
        ..config([3, 24, 32])
    };
    let transform = TrainTransform::new(&config).unwrap();
    assert!(!transform.is_random());
    let image = pattern(2, 1, 70, 50);
    let expected = config.preprocess.apply(&image).unwrap();
    assert_eq!(transform.apply(&image, &mut rng(5)).unwrap(), expected);
    assert_eq!(transform.describe(), "resize and crop to 24x32 as in validation; normalise");
}

#[test]
fn grey_models_get_one_channel_of_the_grey_picture() {
    let transform = TrainTransform::new(&config([1, 16, 16])).unwrap();
    let (image, area) = (pattern(0, 1, 40, 30), CropBox { x: 3, y: 2, w: 20, h: 25 });
    let plan = TrainPlan::of_crop(Crop::Resized { area, filter: Interpolation::Bicubic });
    let out = transform.apply_recorded(&image, &plan, &mut rng(0)).unwrap();
    let three = TrainTransform::new(&TrainTransformConfig {
        preprocess: Preprocess {
            mean: vec![0.485; 3],
            std: vec![0.229; 3],
            ..config([3, 16, 16]).preprocess
        },
        ..config([3, 16, 16])
    });
    let of_grey = three.unwrap().apply_recorded(&image.to_grey(), &plan, &mut rng(0)).unwrap();
    assert_eq!(out, of_grey[..256]);
}

#[test]
fn a_long_thin_image_costs_no_more_than_its_crop() {
    let config =
        TrainTransformConfig { crop_pad: Some(4), crop_pad_mode: PadMode::Reflect, ..config([3, 32, 32]) };
    let transform = TrainTransform::new(&config).unwrap();
    for (width, height) in [(1, 60_000), (60_000, 1)] {
        let out = transform.apply(&pattern(0, 0, width, height), &mut rng(1)).unwrap();
        assert_eq!(out.len(), 3 * 32 * 32);
    }
}

#[test]
fn the_steps_can_be_read() {
    let config = TrainTransformConfig {
        aa: Some("rand-m9-mstd0.5-inc1".into()),
        reprob: 0.25,
        ..TrainTransformConfig::default()
    };
    let text = TrainTransform::new(&config).unwrap().describe();
    assert_eq!(
        text,
        "crop 0.080 to 1.000 of the area, 0.750 to 1.333 as wide as high, to 224x224 (bilinear or bicubic); flip \
         left to right with probability 0.5; rand-m9-mstd0.5-inc1 (2 of 15 operations at 9, each with probability \
         0.5, levels ± 0.5); normalise; a part erased to noise with probability 0.25"
    );
    let config = TrainTransformConfig { crop_pad: Some(4), ..config_small() };
    assert_eq!(
        TrainTransform::new(&config).unwrap().describe(),
        "resize to cover 32x32 (bicubic), 4 black pixels around, crop; flip left to right with probability 0.5; \
         brightness ± 0.4, contrast ± 0.4, saturation ± 0.4; normalise"
    );
}

fn config_small() -> TrainTransformConfig {
    TrainTransformConfig { train_interpolation: "bicubic".into(), ..config([3, 32, 32]) }
}

#[test]
fn wrong_fields_are_errors_that_name_them() {
    type Change = fn(&mut TrainTransformConfig);
    let change: [(&str, Change); 14] = [
        ("hflip", |c| c.hflip = 1.1),
        ("vflip", |c| c.vflip = -0.1),
        ("scale", |c| c.scale = [0.5, 0.1]),
        ("ratio", |c| c.ratio = [0.0, 1.0]),
        ("color_jitter", |c| c.color_jitter = -1.0),
        ("grayscale_prob", |c| c.grayscale_prob = f64::NAN),
        ("gaussian_blur_prob", |c| c.gaussian_blur_prob = 2.0),
        ("reprob", |c| c.reprob = 7.0),
        ("remode", |c| c.remode = "black".into()),
        ("recount", |c| c.recount = 0),
        ("crop_pad", |c| c.crop_pad = Some(1 << 20)),
        ("train_interpolation", |c| c.train_interpolation = "cubic".into()),
        ("aa", |c| c.aa = Some("rand-z1".into())),
        ("std", |c| c.preprocess.std = vec![0.0; 3]),
    ];
    for (field, change) in change {
        let mut config = TrainTransformConfig::default();
        change(&mut config);
        let error = TrainTransform::new(&config).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
    }
    // Pillow resizes by lanczos and does not rotate by it.
    let mut config = TrainTransformConfig { train_interpolation: "lanczos".into(), ..Default::default() };
    assert!(TrainTransform::new(&config).is_ok());
    config.aa = Some("v0".into());
    let error = TrainTransform::new(&config).unwrap_err().to_string();
    assert!(error.contains("hint: expected `random`, `bilinear`"), "{error}");
}

#[test]
fn boxes_outside_are_errors() {
    let image = pattern(0, 0, 10, 8);
    for (x, y, w, h) in [(0, 0, 11, 8), (0, 0, 0, 8), (10, 0, 1, 1), (5, 5, u32::MAX, 1), (0, 8, 1, 1)] {
        let area = CropFlip { x, y, w, h, flip: false };
        let result = crop_flip(&image, &area, [4, 4], Interpolation::Bilinear);
        assert!(matches!(result, Err(AugmentError::CropBox { width: 10, height: 8, .. })), "{area:?}");
    }
    let area = CropFlip { x: 0, y: 0, w: 5, h: 5, flip: false };
    let result = crop_flip(&image, &area, [0, 4], Interpolation::Bilinear);
    assert!(matches!(result, Err(AugmentError::Resize(_))));
    let transform = TrainTransform::new(&config_small()).unwrap();
    let plan = TrainPlan::of_crop(Crop::Padded { x: 0, y: 0, filter: Interpolation::Bilinear });
    assert!(transform.apply_recorded(&image, &plan, &mut rng(0)).is_err());
    let transform =
        TrainTransform::new(&TrainTransformConfig { crop_pad: Some(4), ..config_small() }).unwrap();
    assert!(transform.apply_recorded(&image, &plan, &mut rng(0)).is_ok());
    let plan = TrainPlan::of_crop(Crop::Padded { x: 50, y: 0, filter: Interpolation::Bilinear });
    assert!(matches!(
        transform.apply_recorded(&image, &plan, &mut rng(0)),
        Err(AugmentError::CropBox { .. })
    ));
}
