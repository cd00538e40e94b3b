//! Twenty steps of every optimiser against torch's and timm's; resuming; what is left alone.

use std::collections::BTreeMap;

use burn::backend::Flex;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde::Deserialize;
use vitrum::layers::conv::{Conv, ConvConfig};
use vitrum::layers::names::{Key, Map, map};
use vitrum::models::{Depth, Network};
use vitrum::train::clip::{ClipMode, clip};
use vitrum::train::groups::{GroupConfig, Groups};
use vitrum::train::optim::{
    Grad, GradMap, OptimConfig, OptimError, OptimName, Optimizer, StateDict, StateError,
};
use vitrum::train::recipe::Recipe;

use super::{Toy, as_torch, golden, golden_json, gradients, parameters, relative, shape_of, toy, values};

/// Case of the fixture, optimiser, learning rate, betas, epsilon.
type Case = (&'static str, OptimName, f64, Option<[f64; 2]>, Option<f64>);

const CASES: [Case; 14] = [
    ("adamw", OptimName::AdamW, 0.01, None, None),
    ("adamw_betas", OptimName::AdamW, 0.01, Some([0.3, 0.8]), Some(1e-3)),
    ("adam", OptimName::Adam, 0.01, None, None),
    ("nadamw", OptimName::NAdamW, 0.01, None, None),
    ("sgd", OptimName::Sgd, 0.1, None, None),
    ("momentum", OptimName::Momentum, 0.1, None, None),
    ("lamb", OptimName::Lamb, 0.01, None, None),
    ("lars", OptimName::Lars, 1.0, None, None),
    ("lars_moco", OptimName::LarsMoco, 1.0, None, None),
    ("lion", OptimName::Lion, 0.01, None, None),
    ("adafactor", OptimName::Adafactor, 0.01, None, None),
    ("adafactor_betas", OptimName::Adafactor, 0.01, Some([0.9, 0.999]), None),
    ("muon", OptimName::Muon, 0.02, None, None),
    ("nmuon", OptimName::NMuon, 0.02, None, None),
];
const STEPS: usize = 20;

/// Decay 0.1 but on vectors; the fixture's scales come in through gradients' groups of one layer each.
fn config() -> GroupConfig {
    GroupConfig { weight_decay: 0.1, layer_decay: None, no_weight_decay: Vec::new() }
}

/// A run of `steps` steps from `start`, one group per learning rate.
struct Run {
    model: Toy,
    optimizer: Optimizer,
    device: Device,
    dtype: DType,
    lr: f64,
}

impl Run {
    fn new(case: &Case, dtype: DType) -> Self {
        let (_, name, lr, betas, eps) = *case;
        let device = Device::flex().autodiff();
        let optimizer = Optimizer::new(OptimConfig { betas, eps, ..OptimConfig::new(name) }).unwrap();
        Self { model: toy(&device, dtype), optimizer, device, dtype, lr }
    }

    fn step(self, step: usize) -> Self {
        let Self { model, mut optimizer, device, dtype, lr } = self;
        let grads = gradients(&model, step, 1.0, &device, dtype);
        let groups = groups(&model);
        let rate = lr * (1.0 - step as f64 / 40.0);
        let model = optimizer.step(model, &grads, &groups, rate).unwrap();
        Self { model, optimizer, device, dtype, lr }
    }
}

/// The fixture's groups: the table decays, the vector and the second convolution learn more slowly.
fn groups(model: &Toy) -> Groups {
    let plain = Groups::new(model, &config()).unwrap();
    let changed = plain.iter().map(|(key, group)| {
        let mut group = *group;
        group.lr_scale = match key {
            "bias" => 0.5,
            "conv" => 0.25,
            _ => 1.0,
        };
        if key == "pos_embed" {
            group.weight_decay = 0.1;
        }
        (key.to_string(), group)
    });
    changed.collect()
}

fn check(dtype: DType, bar: f64) {
    let golden = golden("optim.safetensors");
    for case in &CASES {
        let run = (0..STEPS).fold(Run::new(case, dtype), Run::step);
        for (key, ours) in parameters(&run.model) {
            let name = format!("{}.{key}", case.0);
            let error = relative(&ours, &golden[&name]);
            assert!(error <= bar, "{name}: {error:.2e}");
            assert!(relative(&values(&key, shape_of(&key)), &golden[&name]) > 1e-3, "{name} moved");
        }
    }
}

#[test]
fn every_optimiser_in_f64() {
    check(DType::F64, 1e-12);
}

#[test]
fn every_optimiser_in_f32() {
    check(DType::F32, 5e-6);
}

/// The same tensors twice: as kernels, and in the order of files.
#[derive(Module, Debug)]
struct Twins {
    kernels: Vec<Conv>,
    files: Vec<Param<Tensor<4>>>,
}

impl Network for Twins {
    fn linears(&self) -> Vec<(String, &vitrum::layers::Linear)> {
        Vec::new()
    }

    fn linears_mut(&mut self) -> Vec<(String, &mut vitrum::layers::Linear)> {
        Vec::new()
    }

    fn depth(&self, _: &str) -> Depth {
        Depth::Head
    }
}

/// Shapes in files, `[N, C, kh, kw]`: plain, by channel, pointwise, and larger than any network's.
const KERNELS: [[usize; 4]; 5] =
    [[18, 17, 3, 2], [20, 1, 5, 5], [17, 24, 1, 1], [19, 1, 18, 17], [18, 17, 17, 18]];

impl Twins {
    fn tensor(name: &str, place: usize, device: &Device) -> Tensor<4> {
        let shape = KERNELS[place];
        let values = values(&format!("{name}.{place}.weight"), &shape);
        Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
    }

    fn new(device: &Device) -> Self {
        let conv = |(place, [n, c, kh, kw]): (usize, [usize; 4])| {
            let mut conv = ConvConfig { kernel: [kh, kw], ..ConvConfig::new(c, n, 1) }.init(device);
            let kernel = Self::tensor("start", place, device).permute([2, 3, 1, 0]).require_grad();
            conv.weight = Param::initialized(ParamId::new(), kernel);
            conv
        };
        let file =
            |place| Param::initialized(ParamId::new(), Self::tensor("start", place, device).require_grad());
        let kernels = KERNELS.into_iter().enumerate().map(conv).collect();
        Self { kernels, files: (0..KERNELS.len()).map(file).collect() }
    }

    fn gradients(&self, step: usize, device: &Device) -> GradMap {
        let part = |place: usize| {
            let grad = Self::tensor(&format!("grad.{step}"), place, device);
            let kernel = self.kernels[place].weight.val() * grad.clone().permute([2, 3, 1, 0]);
            kernel.sum() + (self.files[place].val() * grad).sum()
        };
        let loss = (0..KERNELS.len()).map(part).reduce(|a, b| a + b).unwrap();
        GradMap::collect(self, loss.backward())
    }

    /// Refuses twins that differ.
    fn compare(parameters: &BTreeMap<String, Vec<f64>>, what: &str) {
        for (place, shape) in KERNELS.iter().enumerate() {
            let [kernel, file] = [format!("kernels.{place}.weight"), format!("files.{place}")];
            let error = relative(&parameters[&kernel], &parameters[&file]);
            assert!(error <= 1e-12, "{what}: kernel {shape:?} {error:.2e}");
        }
    }
}

/// Kernels, whose memory has another order, move as the same tensors in the order of files.
#[test]
fn the_order_of_a_kernel_changes_nothing() {
    let device = Device::flex().autodiff();
    for (what, name, lr, betas, eps) in CASES {
        let mut optimizer = Optimizer::new(OptimConfig { betas, eps, ..OptimConfig::new(name) }).unwrap();
        let mut twins = Twins::new(&device);
        let before = parameters(&twins);
        for step in 0..3 {
            let grads = twins.gradients(step, &device);
            let groups = Groups::new(&twins, &config()).unwrap();
            twins = optimizer.step(twins, &grads, &groups, lr).unwrap();
        }
        let after = parameters(&twins);
        assert!(after.iter().all(|(key, values)| relative(values, &before[key]) > 1e-4), "{what} moves all");
        Twins::compare(&after, what);
    }
    let twins = Twins::new(&device);
    for (mode, value) in [(ClipMode::Agc, 0.05), (ClipMode::Norm, 1.0), (ClipMode::Value, 0.02)] {
        let (clipped, _) = clip(twins.gradients(0, &device), &twins, mode, value);
        let in_files = |grad: &Grad| {
            let values = grad.value.clone().into_data().iter::<f64>().collect();
            (grad.key.clone(), grad.layout.to_files(values, &grad.shape))
        };
        Twins::compare(&clipped.iter().map(in_files).collect(), &format!("{mode:?}"));
    }
}

#[derive(Deserialize)]
struct Defaults {
    betas: Option<[f64; 2]>,
    eps: Option<f64>,
    momentum: Option<f64>,
}

/// Stating timm's defaults changes nothing.
#[test]
fn defaults_are_those_of_timms_factory() {
    let theirs: BTreeMap<String, Defaults> = golden_json("defaults.json");
    assert_eq!(theirs.len(), OptimName::ALL.len() - 1);
    for name in OptimName::ALL.into_iter().filter(|name| *name != OptimName::LarsMoco) {
        let Defaults { betas, eps, momentum } = theirs[name.as_str()];
        let config = OptimConfig::new(name);
        let stated = OptimConfig { betas, eps, momentum: momentum.unwrap_or(0.9), ..config };
        assert_eq!(moved(config), moved(stated), "{name:?}");
        let other = OptimConfig { betas: Some([0.5, 0.6]), eps: Some(0.1), momentum: 0.3, ..config };
        assert_ne!(moved(config), moved(other), "{name:?}");
    }
}

/// Parameters after three steps.
fn moved(config: OptimConfig) -> BTreeMap<String, Vec<f64>> {
    let case = ("", config.name, 0.01, None, None);
    let mut run = Run::new(&case, DType::F64);
    run.optimizer = Optimizer::new(config).unwrap();
    parameters(&(0..3).fold(run, Run::step).model)
}

/// A run that is stopped, written, read and gone on with ends at the same bits.
#[test]
fn resumed_runs_go_on_bit_by_bit() {
    for case in &CASES {
        for dtype in [DType::F32, DType::F64] {
            let half = (0..7).fold(Run::new(case, dtype), Run::step);
            let StateDict { tensors, scalars } = half.optimizer.state_dict();
            let scalars = serde_json::from_str(&serde_json::to_string(&scalars).unwrap()).unwrap();
            let state = StateDict { tensors, scalars };

            let mut resumed = Run::new(case, dtype);
            resumed.optimizer.load_state_dict(&state, &Device::flex()).unwrap();
            resumed.model = half.model.clone();
            assert_eq!(resumed.optimizer.state_dict(), state, "{}", case.0);
            let [through, resumed] = [half, resumed].map(|run| (7..12).fold(run, Run::step));
            assert_eq!(parameters(&through.model), parameters(&resumed.model), "{}", case.0);
            assert_eq!(through.optimizer.state_dict(), resumed.optimizer.state_dict(), "{}", case.0);
        }
    }
}

#[test]
fn states_that_do_not_fit_are_refused() {
    let run = (0..2).fold(Run::new(&CASES[0], DType::F32), Run::step);
    let state = run.optimizer.state_dict();
    let device = Device::flex();

    let mut other = Optimizer::new(OptimConfig::new(OptimName::Lion)).unwrap();
    let error = other.load_state_dict(&state, &device).unwrap_err();
    assert!(matches!(&error, StateError::OtherOptimizer { .. }), "{error}");

    let mut torn = state.clone();
    torn.scalars.remove("steps");
    let mut same = Optimizer::new(OptimConfig::new(OptimName::AdamW)).unwrap();
    assert_eq!(same.load_state_dict(&torn, &device), Err(StateError::Missing { name: "steps".into() }));

    let mut wrong = state.clone();
    let data = wrong.tensors["exp_avg/patch"].clone();
    wrong.tensors.insert("exp_avg/bias".into(), data);
    same.load_state_dict(&wrong, &device).unwrap();
    let model = toy(&run.device, DType::F32);
    let grads = gradients(&model, 0, 1.0, &run.device, DType::F32);
    let error = same.step(model.clone(), &grads, &groups(&model), 0.1).unwrap_err();
    assert!(matches!(&error, OptimError::State(StateError::Shape { .. })), "{error}");
    assert_eq!(same.updates(), 2, "a refused step does not count");

    let error = Optimizer::new(OptimConfig::new(OptimName::AdamW))
        .unwrap()
        .step(model, &grads, &Groups::default(), 0.1)
        .unwrap_err();
    assert_eq!(error, OptimError::UnknownKey { key: "qkv.weight".into(), place: "groups" });
}

#[test]
fn recipes_are_checked() {
    let recipe = |change: fn(&mut Recipe)| {
        let mut recipe = Recipe::default();
        change(&mut recipe);
        OptimConfig::from_recipe(&recipe)
    };
    assert_eq!(recipe(|_| {}), Ok(OptimConfig::new(OptimName::AdamW)));
    let error = recipe(|r| r.opt = "adamv".into()).unwrap_err();
    assert!(error.to_string().contains("hint: did you mean adam"), "{error}");
    for change in [
        (|r| r.opt_betas = Some(vec![0.9])) as fn(&mut Recipe),
        |r| r.opt_betas = Some(vec![0.9, 1.0]),
        |r| r.opt_eps = Some(-1.0),
        |r| r.momentum = 1.0,
        |r| (r.opt, r.momentum) = ("sgd".into(), 0.0),
    ] {
        assert!(matches!(recipe(change), Err(OptimError::Field { .. })));
    }
}

/// Ids, whether parameters are trained, and those without gradient stay; plain descent has no state.
#[test]
fn what_is_not_moved_stays() {
    let device = Device::flex().autodiff();
    let model = toy(&device, DType::F32);
    let frozen = model.patch.clone().set_require_grad(false);
    let model = Toy { patch: frozen, ..model };
    let before = parameters(&model);
    let ids = [model.bias.id, model.patch.id, model.conv.id];
    let grads = gradients(&model, 3, 1.0, &device, DType::F32); // none for `bias`
    assert!(grads.get("patch").is_none() && grads.get("bias").is_none() && grads.len() == 5);

    let config = OptimConfig { momentum: 0.0, ..OptimConfig::new(OptimName::Momentum) };
    let mut optimizer = Optimizer::new(config).unwrap();
    let groups = groups(&model);
    let model = optimizer.step(model, &grads, &groups, 0.1).unwrap();
    assert!(optimizer.state_dict().tensors.is_empty());
    assert_eq!(ids, [model.bias.id, model.patch.id, model.conv.id]);
    assert!(!model.patch.is_require_grad() && model.conv.is_require_grad() && model.bias.is_require_grad());
    assert!(model.conv.val().device().is_autodiff());
    for (key, after) in parameters(&model) {
        let stays = key == "bias" || key == "patch";
        assert_eq!(before[&key] == after, stays, "{key}");
    }
    // The moved model can be trained on.
    assert_eq!(gradients(&model, 0, 1.0, &device, DType::F32).len(), 6);
}

/// A step writes into the parameter's own buffer when nobody else reads it.
#[test]
fn steps_are_in_place() {
    fn place(param: &Param<Tensor<4>>) -> usize {
        let tensor = param.val().inner().try_into_primitive::<Flex>().unwrap();
        tensor.bytes().as_ptr() as usize
    }
    let run = (0..2).fold(Run::new(&CASES[0], DType::F32), Run::step);
    let before = place(&run.model.patch);
    let run = run.step(2);
    assert_eq!(place(&run.model.patch), before);
    let kept = run.model.clone();
    let values = parameters(&kept);
    let run = run.step(3);
    assert_ne!(place(&run.model.patch), before, "others read it");
    assert_eq!(parameters(&kept), values);
}

#[test]
fn gradients_add_up_and_are_examined() {
    let device = Device::flex().autodiff();
    let model = toy(&device, DType::F64);
    let [a, b] = [2, 3].map(|step| gradients(&model, step, 1.0, &device, DType::F64));
    let both = a.clone().plus(b.clone());
    assert_eq!(both.len(), 7);
    assert_eq!(b.clone().plus(a.clone()).len(), 7, "either may lack one");
    let mean = both.scale(0.5);
    let values_of = |grads: &GradMap, key: &str| -> Vec<f64> {
        grads.get(key).unwrap().value.clone().into_data().iter::<f64>().collect()
    };
    let expected: Vec<f64> = values_of(&a, "qkv.weight")
        .iter()
        .zip(values_of(&b, "qkv.weight"))
        .map(|(a, b)| (a + b) / 2.0)
        .collect();
    assert_eq!(values_of(&mean, "qkv.weight"), expected);
    assert_eq!(
        as_torch("qkv.weight", values_of(&a, "qkv.weight")),
        values("grad.2.qkv.weight", &[20, 18]),
        "linear weights are turned"
    );
    let half_of_a: Vec<f64> = values_of(&a, "bias").iter().map(|a| a / 2.0).collect();
    assert_eq!(values_of(&mean, "bias"), half_of_a);

    assert_eq!(a.first_non_finite(), None);
    let huge = a.clone().scale(1e200);
    assert_eq!(huge.first_non_finite(), None, "large is not infinite");
    for bad in [f64::NAN, f64::INFINITY] {
        let model = Toy { conv: model.conv.clone().map(|x| x), ..model.clone() };
        let loss = (model.conv.val() * bad).sum() + model.bias.val().sum();
        let grads = GradMap::collect(&model, loss.backward());
        assert_eq!(grads.first_non_finite(), Some("conv"));
        assert!(!grads.norm().is_finite());
    }
}

/// LARS without anything to scale by is momentum: weights of zero, and timm's without decay.
#[test]
fn lars_without_a_ratio_is_momentum() {
    let device = Device::flex().autodiff();
    let moved = |name: OptimName, weights: f64, decay: f64| {
        let model = map(toy(&device, DType::F64), &mut Times(weights));
        let grads = gradients(&model, 0, 1.0, &device, DType::F64);
        let config = GroupConfig { weight_decay: decay, ..config() };
        let groups = Groups::new(&model, &config).unwrap();
        let mut optimizer = Optimizer::new(OptimConfig::new(name)).unwrap();
        parameters(&optimizer.step(model, &grads, &groups, 0.1).unwrap())
    };
    for name in [OptimName::Lars, OptimName::LarsMoco] {
        assert_eq!(moved(name, 0.0, 0.1), moved(OptimName::Momentum, 0.0, 0.1), "{name:?}");
    }
    assert_eq!(moved(OptimName::Lars, 1.0, 0.0), moved(OptimName::Momentum, 1.0, 0.0));
    assert_ne!(moved(OptimName::LarsMoco, 1.0, 0.0), moved(OptimName::Momentum, 1.0, 0.0));
}

struct Times(f64);

impl Map for Times {
    fn float<const R: usize>(&mut self, _: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        param.map(|value| (value * self.0).detach().require_grad())
    }
}
