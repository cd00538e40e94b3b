//! Families that only these tests know, one of each coming kind, taken through everything that a model goes through:
//! first values, a file and back, updates with and without computing twice, a resumed run, an answer.

use std::fmt::Debug;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vitrum::checkpoint::apply::{ApplyError, Excuses, Report, collect, fill};
use vitrum::checkpoint::write::{WriteOptions, write_safetensors};
use vitrum::checkpoint::{HostTensor, read};
use vitrum::layers::batch_norm::BatchNorm;
use vitrum::layers::init::{Draw, TOKEN, WeightInit, norm};
use vitrum::layers::observe::{Observer, Silent, Within};
use vitrum::layers::{Linear, parameter};
use vitrum::models::shapes::{Steps, Walk};
use vitrum::models::{
    Backbone, Chain, Classify, Config, ConfigError, Depth, Features, ImageInput, Input, Inputs, Level,
    Network, Want,
};
use vitrum::train::objective::{Batch, ClassLoss, Classification, Objective, Targets};
use vitrum::train::trainer::{Trainer, Updated};
use vitrum::train::{Recipe, TrainError};

use crate::formula;

const CLASSES: usize = 3;

// ---- Two levels whose grid changes, with BatchNorm

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PyramidConfig {
    size: usize,
    width: usize,
}

/// Pixels as tokens, then two stages; between them four neighbours become one token of twice the width.
#[derive(Module, Debug)]
struct Pyramid {
    stem: Linear,
    bn: BatchNorm,
    stages: Vec<Stage>,
    head: Linear,
}

#[derive(Module, Debug)]
struct Stage {
    merge: Option<Linear>,
    fc: Linear,
    bn: BatchNorm,
}

impl Stage {
    fn forward(&self, x: Level, watch: &mut dyn Observer) -> Level {
        let [_, mut rows, mut columns] = x.grid;
        let mut tokens = x.tokens;
        if let Some(merge) = &self.merge {
            let [b, _, c] = tokens.dims();
            let x = tokens.reshape([b, rows / 2, 2, columns / 2, 2 * c]).swap_dims(2, 3);
            (rows, columns) = (rows / 2, columns / 2);
            tokens = merge.forward(x.reshape([b, rows * columns, 4 * c]));
        }
        let y = self.bn.forward(self.fc.forward(tokens.clone()), &mut Within::new(watch, format_args!("bn")));
        let tokens = watch.tokens(format_args!(""), tokens + y);
        Level::of_image(tokens, 0, [rows, columns])
    }
}

impl Pyramid {
    fn stage(&self, index: usize, mut x: Features, watch: &mut dyn Observer) -> Features {
        let finest = x.levels.last().expect("a level").clone();
        let level =
            self.stages[index].forward(finest, &mut Within::new(watch, format_args!("stages.{index}")));
        if index == 0 {
            x.levels.pop(); // the stem's map is no level
        }
        x.levels.push(level);
        x
    }
}

impl Backbone for Pyramid {
    fn features(&self, inputs: Inputs, _: Want<'_>, watch: &mut dyn Observer) -> Features {
        let first = self.first(inputs, watch);
        (0..self.stages.len()).fold(first, |x, index| self.stage(index, x, watch))
    }

    fn embedding(&self, features: Features, _: &mut dyn Observer) -> Tensor<2> {
        features.last().tokens.mean_dim(1).squeeze_dim(1)
    }
}

impl Classify for Pyramid {
    fn num_classes(&self) -> usize {
        CLASSES
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        // The finer level takes part, so that its gradient passes by the second stage.
        let fine = features.levels[0].tokens.clone().mean_dim(1).mean_dim(2).squeeze_dim(1); // [B, 1]
        self.head.forward(self.embedding(features, watch)) + fine
    }
}

impl Chain for Pyramid {
    fn links(&self) -> usize {
        self.stages.len()
    }

    fn first(&self, inputs: Inputs, watch: &mut dyn Observer) -> Features {
        let images = inputs.images();
        let [b, c, h, w] = images.dims();
        let pixels = images.reshape([b, c, h * w]).swap_dims(1, 2);
        let x = self.bn.forward(self.stem.forward(pixels), &mut Within::new(watch, format_args!("bn")));
        Level::of_image(watch.tokens(format_args!("stem"), x), 0, [h, w]).into()
    }

    fn link(&self, index: usize, x: Features, watch: &mut dyn Observer) -> Features {
        self.stage(index, x, watch)
    }

    fn last(&self, x: Features, _: &mut dyn Observer) -> Features {
        x
    }
}

impl Network for Pyramid {
    fn linears(&self) -> Vec<(String, &Linear)> {
        self.stages.iter().enumerate().map(|(i, stage)| (format!("stages.{i}.fc"), &stage.fc)).collect()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        self.stages
            .iter_mut()
            .enumerate()
            .map(|(i, stage)| (format!("stages.{i}.fc"), &mut stage.fc))
            .collect()
    }

    fn depth(&self, key: &str) -> Depth {
        match key.strip_prefix("stages.").and_then(|rest| rest.split('.').next()?.parse().ok()) {
            Some(index) => Depth::Layer(index),
            None if key.starts_with("head.") => Depth::Head,
            None => Depth::Stem,
        }
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head"]
    }

    fn chain(&self) -> Option<&dyn Chain> {
        Some(self)
    }

    fn backbone(&self) -> Option<&dyn Backbone> {
        Some(self)
    }

    fn classify(&self) -> Option<&dyn Classify> {
        Some(self)
    }
}

impl Config for PyramidConfig {
    type Model = Pyramid;

    fn validate(&self) -> Result<(), ConfigError> {
        match self.size.is_multiple_of(2) {
            true => Ok(()),
            false => Err(ConfigError::Field { field: "size", reason: format!("is {}, not even", self.size) }),
        }
    }

    fn build(&self, device: &Device) -> Pyramid {
        let d = self.width;
        let stage =
            |merge, d| Stage { merge, fc: Linear::new(d, d, true, device), bn: BatchNorm::new(d, device) };
        Pyramid {
            stem: Linear::new(3, d, true, device),
            bn: BatchNorm::new(d, device),
            stages: vec![stage(None, d), stage(Some(Linear::new(4 * d, 2 * d, false, device)), 2 * d)],
            head: Linear::new(2 * d, CLASSES, true, device),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: 3, size: [self.size; 2] })
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        self.validate()?;
        Ok(Walk::new(Steps::default().0, 0, 0))
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        match layer.rsplit('.').next()? {
            "bn" => norm(part),
            "stem" | "fc" | "merge" | "head" => WeightInit::Moco.linear(part, shape),
            _ => None,
        }
    }
}

// ---- Two inputs

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PairConfig {
    words: usize,
    width: usize,
}

/// A picture and a text to one space; a link for each of two layers, which both towers share.
#[derive(Module, Debug)]
struct Pair {
    patches: Linear,
    words: Param<Tensor<2>>,
    layers: Vec<Linear>,
}

impl Chain for Pair {
    fn links(&self) -> usize {
        self.layers.len()
    }

    fn first(&self, inputs: Inputs, _: &mut dyn Observer) -> Features {
        let Inputs::ImageText(images, text) = inputs else { panic!("expected images with texts") };
        let [b, c, h, w] = images.dims();
        let [_, t] = text.dims();
        let image = self.patches.forward(images.reshape([b, c, h * w]).swap_dims(1, 2));
        let words = self.words.val().select(0, text.reshape([b * t]));
        let d = words.dims()[1];
        let text = words.reshape([b, t, d]);
        Features {
            levels: vec![
                Level::of_image(image, 0, [h, w]),
                Level { tokens: text, prefix: 0, grid: [1, 1, t] },
            ],
        }
    }

    fn link(&self, index: usize, mut x: Features, watch: &mut dyn Observer) -> Features {
        for level in &mut x.levels {
            let y = self.layers[index].forward(level.tokens.clone()).tanh();
            level.tokens = watch.tokens(format_args!("layers.{index}"), y);
        }
        x
    }

    fn last(&self, x: Features, _: &mut dyn Observer) -> Features {
        x
    }
}

impl Network for Pair {
    fn linears(&self) -> Vec<(String, &Linear)> {
        self.layers.iter().enumerate().map(|(i, layer)| (format!("layers.{i}"), layer)).collect()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        self.layers.iter_mut().enumerate().map(|(i, layer)| (format!("layers.{i}"), layer)).collect()
    }

    fn depth(&self, key: &str) -> Depth {
        if key.starts_with("layers.") { Depth::Layer(0) } else { Depth::Stem }
    }

    fn chain(&self) -> Option<&dyn Chain> {
        Some(self)
    }
}

impl Config for PairConfig {
    type Model = Pair;

    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn build(&self, device: &Device) -> Pair {
        let layer = || Linear::new(self.width, self.width, true, device);
        Pair {
            patches: Linear::new(3, self.width, true, device),
            words: parameter([self.words, self.width], device),
            layers: vec![layer(), layer()],
        }
    }

    fn input(&self) -> Input {
        Input::ImageText { image: ImageInput { channels: 3, size: [4, 4] }, context: 5 }
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        Ok(Walk::new(Steps::default().0, 0, 0))
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        match key.rsplit_once('.') {
            None if key == "words" => Some(Draw::Normal(0.5)),
            Some((_, part)) => WeightInit::Jax.linear(part, shape),
            None => None,
        }
    }
}

/// Each picture nearest to its own text.
struct Contrast;

impl Objective<Pair> for Contrast {
    fn check(&self, _: &Pair) -> Result<(), TrainError> {
        Ok(())
    }

    fn loss(&self, _: &Pair, features: Features, batch: &Batch, _: &mut dyn Observer) -> Tensor<1> {
        assert!(matches!(batch.targets, Targets::Nothing));
        let [image, text] = [0, 1].map(|i| features.levels[i].tokens.clone().mean_dim(1).squeeze_dim::<2>(1));
        let n = image.dims()[0];
        let logits = image.matmul(text.transpose()) * 4.0;
        let own = Tensor::eye(n, &logits.device());
        ClassLoss::CrossEntropy.loss(logits, own)
    }
}

// ---- An answer that is no logits

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PainterConfig {
    width: usize,
}

/// Every pixel through a narrow layer and back.
#[derive(Module, Debug)]
struct Painter {
    encode: Linear,
    token: Param<Tensor<3>>,
    decode: Linear,
}

impl Painter {
    fn pixels(images: Tensor<4>) -> Tensor<3> {
        let [b, c, h, w] = images.dims();
        images.reshape([b, c, h * w]).swap_dims(1, 2)
    }
}

impl Backbone for Painter {
    fn features(&self, inputs: Inputs, _: Want<'_>, watch: &mut dyn Observer) -> Features {
        self.last(self.link(0, self.first(inputs, watch), watch), watch)
    }

    fn embedding(&self, features: Features, _: &mut dyn Observer) -> Tensor<2> {
        features.last().tokens.mean_dim(1).squeeze_dim(1)
    }
}

impl Chain for Painter {
    fn links(&self) -> usize {
        1
    }

    fn first(&self, inputs: Inputs, _: &mut dyn Observer) -> Features {
        let images = inputs.images();
        let [_, _, h, w] = images.dims();
        Level::of_image(self.encode.forward(Self::pixels(images)), 0, [h, w]).into()
    }

    fn link(&self, _: usize, x: Features, _: &mut dyn Observer) -> Features {
        let x = x.last();
        Level { tokens: (x.tokens.clone() + self.token.val()).tanh(), ..x }.into()
    }

    fn last(&self, x: Features, _: &mut dyn Observer) -> Features {
        x
    }
}

impl Network for Painter {
    fn linears(&self) -> Vec<(String, &Linear)> {
        Vec::new()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        Vec::new()
    }

    fn depth(&self, key: &str) -> Depth {
        if key.starts_with("decode.") { Depth::Head } else { Depth::Stem }
    }

    fn decays(&self, key: &str) -> bool {
        key != "token"
    }

    fn chain(&self) -> Option<&dyn Chain> {
        Some(self)
    }

    fn backbone(&self) -> Option<&dyn Backbone> {
        Some(self)
    }
}

impl Config for PainterConfig {
    type Model = Painter;

    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn build(&self, device: &Device) -> Painter {
        Painter {
            encode: Linear::new(3, self.width, true, device),
            token: parameter([1, 1, self.width], device),
            decode: Linear::new(self.width, 3, true, device),
        }
    }

    fn input(&self) -> Input {
        Input::Image(ImageInput { channels: 3, size: [4, 4] })
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        Ok(Walk::new(Steps::default().0, 0, 0))
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        match key.rsplit_once('.') {
            None if key == "token" => Some(TOKEN),
            Some(("encode" | "decode", part)) => WeightInit::Jax.linear(part, shape),
            _ => None,
        }
    }
}

/// The pixels themselves.
struct Paint;

impl Objective<Painter> for Paint {
    fn check(&self, _: &Painter) -> Result<(), TrainError> {
        Ok(())
    }

    fn loss(&self, model: &Painter, features: Features, batch: &Batch, _: &mut dyn Observer) -> Tensor<1> {
        let painted = model.decode.forward(features.last().tokens);
        let gap = painted - Painter::pixels(batch.inputs.clone().images());
        (gap.clone() * gap).mean()
    }
}

// ---- Clips

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ClipsConfig {
    frames: usize,
}

/// Frames' pixels as tokens, one layer, the mean over frames and pixels.
#[derive(Module, Debug)]
struct Clips {
    layer: Linear,
    head: Linear,
}

impl Backbone for Clips {
    fn features(&self, inputs: Inputs, _: Want<'_>, watch: &mut dyn Observer) -> Features {
        let Inputs::Clips(clips) = inputs else { panic!("expected clips [B, C, F, H, W]") };
        let [b, c, f, h, w] = clips.dims();
        let x = self.layer.forward(clips.reshape([b, c, f * h * w]).swap_dims(1, 2)).tanh();
        let tokens = watch.tokens(format_args!("layer"), x);
        Level { tokens, prefix: 0, grid: [f, h, w] }.into()
    }

    fn embedding(&self, features: Features, _: &mut dyn Observer) -> Tensor<2> {
        features.last().tokens.mean_dim(1).squeeze_dim(1)
    }
}

impl Classify for Clips {
    fn num_classes(&self) -> usize {
        CLASSES
    }

    fn head(&self, features: Features, watch: &mut dyn Observer) -> Tensor<2> {
        self.head.forward(self.embedding(features, watch))
    }
}

impl Network for Clips {
    fn linears(&self) -> Vec<(String, &Linear)> {
        vec![("layer".into(), &self.layer)]
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut Linear)> {
        vec![("layer".into(), &mut self.layer)]
    }

    fn depth(&self, key: &str) -> Depth {
        if key.starts_with("head.") { Depth::Head } else { Depth::Layer(0) }
    }

    fn heads(&self) -> &'static [&'static str] {
        &["head"]
    }

    fn backbone(&self) -> Option<&dyn Backbone> {
        Some(self)
    }

    fn classify(&self) -> Option<&dyn Classify> {
        Some(self)
    }
}

impl Config for ClipsConfig {
    type Model = Clips;

    fn validate(&self) -> Result<(), ConfigError> {
        Ok(())
    }

    fn build(&self, device: &Device) -> Clips {
        Clips { layer: Linear::new(3, 6, true, device), head: Linear::new(6, CLASSES, true, device) }
    }

    fn input(&self) -> Input {
        Input::Clip { frames: self.frames, image: ImageInput { channels: 3, size: [4, 4] } }
    }

    fn walk(&self) -> Result<Walk, ConfigError> {
        Ok(Walk::new(Steps::default().0, 0, 0))
    }

    fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
        let (layer, part) = key.rsplit_once('.')?;
        ["layer", "head"].contains(&layer).then(|| WeightInit::Jax.linear(part, shape))?
    }
}

// ---- What every family goes through

fn numbers<const R: usize>(name: &str, shape: [usize; R], device: &Device) -> Tensor<R> {
    let values: Vec<f32> = formula::weight(name, &shape);
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

fn soft(device: &Device) -> Targets {
    let rows = vec![1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.5, 0.2, 0.2, 0.6];
    Targets::Soft(Tensor::from_data(TensorData::new(rows, [4, CLASSES]), (device, DType::F32)))
}

fn images(name: &str, device: &Device) -> Batch {
    Batch::new(Inputs::Images(numbers(name, [4, 3, 4, 4], device)), soft(device))
}

fn recipe(recomputed: bool) -> Recipe {
    Recipe {
        lr: Some(1e-2),
        warmup_epochs: 0.0,
        grad_checkpointing: recomputed,
        model_ema: true,
        model_ema_decay: 0.5,
        ..Recipe::default()
    }
}

/// All numbers of a model by key.
fn state<M: Module>(model: &M) -> Vec<(String, Vec<f32>)> {
    collect(model).tensors.into_iter().map(|(key, tensor)| (key, tensor.to_f32())).collect()
}

fn trainer<M: Network>(
    model: M,
    objective: impl Fn() -> Box<dyn Objective<M>>,
    recomputed: bool,
) -> Trainer<M> {
    Trainer::with_objective(model, objective(), &recipe(recomputed), 10, &Device::flex()).expect("a trainer")
}

/// First values, a file and back, updates both ways, a resumed run.
fn goes_through<C: Config + Debug>(
    config: &C,
    objective: impl Fn() -> Box<dyn Objective<C::Model>>,
    batch: impl Fn(&str, &Device) -> Batch,
) -> C::Model {
    let device = Device::flex();
    let train = device.clone().autodiff();
    let model = config.init(&device, 5).expect("first values");
    assert_eq!(state(&model), state(&config.init(&device, 5).expect("again")), "the same seed");
    assert_ne!(state(&model), state(&config.init(&device, 6).expect("another")), "another seed");
    let text = serde_json::to_string(config).expect("a configuration as JSON");
    assert_eq!(serde_json::from_str::<C>(&text).expect("and back"), *config);

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &collect(&model), &WriteOptions::default()).expect("written");
    let load = |tensors| {
        let skeleton = config.skeleton(&device).expect("a skeleton");
        let first = |key: &str, shape: &[usize]| config.first(key, shape);
        fill(skeleton, tensors, DType::F32, &Excuses::default(), &first, Report::default())
    };
    let (loaded, report) = load(read(&path).expect("read")).expect("its own weights");
    assert_eq!((state(&loaded), report.loaded.len()), (state(&model), state(&model).len()));
    let mut other = read(&path).expect("read");
    other.tensors.insert("stray.weight".into(), HostTensor::from_f32(vec![1], &[1.0]).expect("a number"));
    let Err(ApplyError::Refused(report)) = load(other) else { panic!("a stray tensor was taken") };
    assert_eq!(report.unexpected, ["stray.weight"]);

    let run = |recomputed, updates: &[&str], from: Option<&Trainer<C::Model>>| {
        let mut trainer = trainer(loaded.clone(), &objective, recomputed);
        if let Some(from) = from {
            trainer.load_state(from.state()).expect("its own state");
        }
        let told: Vec<Updated> = updates
            .iter()
            .map(|name| trainer.update(vec![batch(name, &train)]).expect("an update"))
            .collect();
        assert!(told.iter().all(|update| update.skipped.is_none() && update.loss.is_finite()), "{told:?}");
        (trainer, told)
    };
    let (plain, told) = run(false, &["a", "b", "c"], None);
    let (twice, told_twice) = run(true, &["a", "b", "c"], None);
    for (a, b) in told.iter().zip(&told_twice) {
        assert!((a.loss - b.loss).abs() <= 1e-6 * a.loss.abs(), "{} and {}", a.loss, b.loss);
    }
    for ((key, a), (_, b)) in state(&plain.model()).iter().zip(&state(&twice.model())) {
        let gap = crate::compare::largest(a.iter().zip(b).map(|(a, b)| (a - b).abs()));
        assert!(gap < 1e-5, "{key} differs by {gap} when links are computed twice");
    }
    let moved = state(&plain.model()).iter().zip(&state(&loaded)).filter(|(a, b)| a != b).count();
    assert_eq!(moved, state(&loaded).len(), "every parameter and statistic moves");

    let (half, _) = run(true, &["a", "b"], None);
    let (resumed, _) = run(true, &["c"], Some(&half));
    assert_eq!(state(&resumed.model()), state(&twice.model()), "a resumed run is the unbroken one");
    let average = |trainer: &Trainer<C::Model>| state(&trainer.ema_model().expect("an average"));
    assert_eq!(average(&resumed), average(&twice));
    plain.model()
}

fn classification<M: Network>() -> Box<dyn Objective<M>> {
    Box::new(Classification { loss: ClassLoss::CrossEntropy })
}

#[test]
fn levels_may_change_their_grid() {
    let model = goes_through(&PyramidConfig { size: 4, width: 4 }, classification, images);
    let batch = images("d", &Device::flex());
    let features = model.features(batch.inputs.clone(), Want::Levels, &mut Silent);
    let shapes: Vec<_> = features.levels.iter().map(|level| (level.grid, level.tokens.dims())).collect();
    assert_eq!(shapes, [([1, 4, 4], [4, 16, 4]), ([1, 2, 2], [4, 4, 8])]);
    assert_eq!(features.levels[0].clone().map().dims(), [4, 4, 4, 4]);
    assert_eq!(model.forward(batch.inputs).dims(), [4, CLASSES]);
}

#[test]
fn a_model_may_have_two_inputs() {
    let pairs = |name: &str, device: &Device| {
        let words: Vec<i64> = (0..20).map(|i| (i * 7 + name.len() as i64 + i / 5) % 6).collect();
        let text = Tensor::<2, Int>::from_data(TensorData::new(words, [4, 5]), device);
        Batch::new(Inputs::ImageText(numbers(name, [4, 3, 4, 4], device), text), Targets::Nothing)
    };
    let model = goes_through(&PairConfig { words: 6, width: 5 }, || Box::new(Contrast), pairs);
    assert!(model.backbone().is_none() && model.classify().is_none());
    let refused = Trainer::new(model, &recipe(false), 1, &Device::flex());
    assert!(refused.err().is_some_and(|error| error.to_string().contains("class")));
}

#[test]
fn an_answer_may_be_no_logits() {
    let nothing = |name: &str, device: &Device| Batch { targets: Targets::Nothing, ..images(name, device) };
    let model = goes_through(&PainterConfig { width: 4 }, || Box::new(Paint), nothing);
    assert!(model.linears().is_empty() && model.heads().is_empty());
}

#[test]
fn clips_go_through_too() {
    let clips = |name: &str, device: &Device| {
        Batch::new(Inputs::Clips(numbers(name, [4, 3, 2, 4, 4], device)), soft(device))
    };
    let model = goes_through(&ClipsConfig { frames: 2 }, classification, clips);
    let batch = clips("d", &Device::flex());
    assert_eq!(model.forward(batch.inputs).dims(), [4, CLASSES]);
}

#[test]
fn a_parameter_without_a_first_value_is_an_error_with_its_name() {
    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Silent(PainterConfig);
    impl Config for Silent {
        type Model = Painter;
        fn validate(&self) -> Result<(), ConfigError> {
            Ok(())
        }
        fn build(&self, device: &Device) -> Painter {
            self.0.build(device)
        }
        fn input(&self) -> Input {
            self.0.input()
        }
        fn walk(&self) -> Result<Walk, ConfigError> {
            self.0.walk()
        }
        fn first(&self, key: &str, shape: &[usize]) -> Option<Draw> {
            if key == "decode.weight" { None } else { self.0.first(key, shape) }
        }
    }
    let error = Silent(PainterConfig { width: 4 }).init(&Device::flex(), 0).unwrap_err();
    assert!(matches!(error, ConfigError::NoFirstValue(_)));
    assert!(error.to_string().starts_with("decode.weight"), "{error}");
}

// ---- Statistics of BatchNorm

fn running(model: &Pyramid) -> Vec<f32> {
    let all = state(model).into_iter().filter(|(key, _)| key.contains("running_"));
    all.flat_map(|(_, values)| values).collect()
}

/// Running statistics after batches, as PyTorch moves them, of the first layer.
#[test]
fn statistics_move_once_for_each_batch() {
    let (device, train) = (Device::flex(), Device::flex().autodiff());
    let config = PyramidConfig { size: 4, width: 4 };
    let model = config.init(&device, 5).unwrap();
    let stem = |name: &str| {
        let images = images(name, &device).inputs.images();
        model.stem.forward(images.reshape([4, 3, 16]).swap_dims(1, 2)).reshape([64, 4])
    };
    let mut expected: (Vec<f64>, Vec<f64>) = (vec![0.0; 4], vec![1.0; 4]);
    for name in ["a", "b"] {
        let rows: Vec<f64> = stem(name).into_data().iter::<f64>().collect();
        for channel in 0..4 {
            let values: Vec<f64> = rows.iter().skip(channel).step_by(4).copied().collect();
            let mean = values.iter().sum::<f64>() / 64.0;
            let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 63.0;
            expected.0[channel] = 0.9 * expected.0[channel] + 0.1 * mean;
            expected.1[channel] = 0.9 * expected.1[channel] + 0.1 * var;
        }
    }
    for recomputed in [false, true] {
        let mut trainer = trainer(model.clone(), classification, recomputed);
        trainer.update(vec![images("a", &train), images("b", &train)]).unwrap();
        let found = trainer.model();
        let mean: Vec<f64> = found.bn.running_mean.val().into_data().iter::<f64>().collect();
        let var: Vec<f64> = found.bn.running_var.val().into_data().iter::<f64>().collect();
        for (a, b) in mean.iter().chain(&var).zip(expected.0.iter().chain(&expected.1)) {
            assert!((a - b).abs() < 1e-5, "{a} and {b}, recomputed {recomputed}");
        }
    }
}

#[test]
fn a_skipped_update_leaves_the_statistics() {
    let train = Device::flex().autodiff();
    let model = PyramidConfig { size: 4, width: 4 }.init(&Device::flex(), 5).unwrap();
    let before = running(&model);
    for recomputed in [false, true] {
        let mut trainer = trainer(model.clone(), classification, recomputed);
        let broken = images("a", &train);
        let broken = Batch { inputs: Inputs::Images(broken.inputs.images() * f32::INFINITY), ..broken };
        let told = trainer.update(vec![images("b", &train), broken]).unwrap();
        assert!(told.skipped.is_some());
        assert_eq!(running(&trainer.model()), before, "recomputed {recomputed}");
    }
}

#[test]
fn statistics_stay_in_f32_in_a_pass_in_bf16_and_are_averaged() {
    let train = Device::flex().autodiff();
    let model = PyramidConfig { size: 4, width: 4 }.init(&Device::flex(), 5).unwrap();
    let recipe = |amp: &str| Recipe { amp_dtype: amp.into(), ..recipe(false) };
    let of = |amp: &str| {
        let mut trainer =
            Trainer::with_objective(model.clone(), classification(), &recipe(amp), 10, &Device::flex())
                .unwrap();
        trainer.update(vec![images("a", &train)]).unwrap();
        trainer.update(vec![images("b", &train)]).unwrap();
        trainer
    };
    let (exact, narrow) = (of("none"), of("bf16"));
    assert_eq!(narrow.model().bn.running_mean.val().dtype(), DType::F32);
    for (a, b) in running(&exact.model()).iter().zip(&running(&narrow.model())) {
        assert!((a - b).abs() < 2e-2, "{a} in f32, {b} in bf16");
    }
    assert_ne!(running(&exact.model()), running(&narrow.model()), "bf16 rounds");
    // The average took in both: it is neither the first values nor the last.
    let average = running(&exact.ema_model().unwrap());
    assert_ne!(average, running(&exact.model()));
    assert_ne!(average, running(&model));
}

#[test]
fn in_evaluation_the_running_statistics_answer() {
    let device = Device::flex();
    let model = PyramidConfig { size: 4, width: 4 }.init(&device, 5).unwrap();
    let batch = images("a", &device).inputs.images();
    let all = model.forward(Inputs::Images(batch.clone())).into_data().try_to_vec::<f32>().unwrap();
    let one = model.forward(Inputs::Images(batch.narrow(0, 1, 1))).into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(one[..], all[CLASSES..2 * CLASSES], "an image's answer does not depend on the others");
}
