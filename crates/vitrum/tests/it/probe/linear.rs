//! The linear probe against MAE's `main_linprobe.py`.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum::layers::names::{Key, Map, Visit, map, visit};
use vitrum::layers::observe::Silent;
use vitrum::probe::linear::{CrossEntropy, LinearProbe, examples};
use vitrum::probe::{Linear, Part, ProbeError};
use vitrum::train::trainer::{Trainer, TrainerConfig};

use super::{clouds, golden, set, values};
use crate::formula;

const DIM: usize = 24;
const CLASSES: usize = 5;
const BATCH: usize = 16;
const UPDATES: u64 = 4;

/// The fixture's first weights.
struct First;

impl Map for First {
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        if key.name != "head.weight" {
            return param;
        }
        let values = formula::weight("head.weight", &[CLASSES, DIM]).into_iter().map(|value| 0.1 * value);
        let value = |old: Tensor<R>| {
            let files: Vec<f32> = values.collect();
            let memory: Vec<f32> =
                (0..DIM * CLASSES).map(|i| files[i % CLASSES * DIM + i / CLASSES]).collect();
            Tensor::from_data(TensorData::new(memory, old.shape()), (&old.device(), DType::F32))
        };
        param.map(value).set_require_grad(true)
    }
}

/// Parameters by key, in the order of files.
fn parameters<M: Module>(model: &M) -> std::collections::BTreeMap<String, Vec<f64>> {
    struct All(std::collections::BTreeMap<String, Vec<f64>>);
    impl Visit for All {
        fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
            let value = param.val();
            let dims = value.dims();
            let values: Vec<f64> = value.into_data().iter::<f64>().collect();
            self.0.insert(key.name.clone(), key.layout.to_files(values, &dims));
        }
    }
    let mut all = All(Default::default());
    visit(model, &mut all);
    all.0
}

fn gap(ours: &[f64], theirs: &[f64]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    crate::compare::largest(ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()))
}

fn shifted(key: &str, n: usize) -> Vec<f32> {
    // As in numpy: the formula's f32, widened, then rounded again.
    values(key, n, DIM, false).into_iter().map(|value| (3.0 * f64::from(value) + 1.0) as f32).collect()
}

#[test]
fn twenty_updates_are_those_of_maes_code() {
    let theirs = golden("linear.safetensors");
    let device = Device::flex();
    let linear = Linear { epochs: 5, warmup_epochs: 2, ..Linear::default() };
    let config = TrainerConfig::from_recipe(&linear.recipe(BATCH, 4.0), UPDATES).unwrap();
    let probe = map(LinearProbe::fresh(DIM, CLASSES, 1, &device).unwrap(), &mut First);
    let before = parameters(&probe);
    let mut trainer = Trainer::with_config(probe, Box::new(CrossEntropy), config, &device).unwrap();
    assert_eq!(trainer.num_epochs(), 5);
    let expected = theirs["rates"].iter().zip(&theirs["losses"]);
    assert_eq!(expected.len(), 20);
    for (step, (rate, loss)) in expected.enumerate() {
        assert!((trainer.lr() - rate).abs() < 1e-15, "{step}: {}", trainer.lr());
        let labels: Vec<usize> = (0..BATCH).map(|image| (step + image * 3) % CLASSES).collect();
        let train = set(Part::Train, DIM, shifted(&format!("linear.{step}"), BATCH), labels);
        let batch = examples(&train, &(0..BATCH).collect::<Vec<_>>(), CLASSES, &device);
        let updated = trainer.update(vec![batch]).unwrap();
        assert_eq!(updated.skipped, None);
        assert!((updated.loss - loss).abs() < 1e-6, "{step}: {}", updated.loss);
    }
    let probe = trainer.model();
    let after = parameters(&probe);
    for key in ["head.weight", "head.bias", "norm.running_mean", "norm.running_var"] {
        let error = gap(&after[key], &theirs[key]);
        let bar = if key == "norm.running_var" { 3e-6 } else { 1e-6 }; // about 3 in size
        assert!(error < bar, "{key}: {error:.2e}");
        assert!(gap(&after[key], &before[key]) > 1e-4, "{key} moved");
    }
    for key in ["norm.weight", "norm.bias"] {
        assert_eq!(after[key], before[key], "{key} is fixed");
    }
    let x = Tensor::<2>::from_data(TensorData::new(shifted("linear.val", 8), [8, DIM]), &device);
    let logits: Vec<f64> = probe.logits(x, &mut Silent).into_data().iter::<f64>().collect();
    assert!(gap(&logits, &theirs["logits"]) < 2e-6);
}

#[test]
fn it_learns_and_repeats() {
    let features = clouds(6, 30, 8, 0.25);
    let linear =
        Linear { epochs: 30, warmup_epochs: 3, batch_size: 60, blr: vec![0.1, 20.0], ..Linear::default() };
    let device = Device::flex();
    let row = |linear: &Linear| linear.rows(&features, &device).unwrap().remove(0);
    // Of two rates the one that is better on held-out images learns from all.
    let chosen = row(&linear);
    assert_eq!(chosen.setting, "blr=20 batch=60 epochs=30");
    assert!(chosen.top1 > 90.0 && chosen.top5 > Some(99.0), "{chosen:?}");
    assert_eq!(chosen.images, 180);
    let [slow, fast] = [0.1, 20.0].map(|blr| row(&Linear { blr: vec![blr], ..linear.clone() }));
    assert!(slow.top1 < chosen.top1, "{slow:?}");
    assert_eq!(fast.top1, chosen.top1, "the same seed gives the same numbers");
    // Fewer images than a batch: all of them.
    let few = Linear { batch_size: 4096, blr: vec![1.0], epochs: 2, warmup_epochs: 0, ..linear };
    assert_eq!(few.rows(&features, &device).unwrap()[0].setting, "blr=1 batch=180 epochs=2");
}

#[test]
fn wrong_numbers_are_refused() {
    let features = clouds(3, 4, 4, 0.1);
    let rows = |linear: Linear| linear.rows(&features, &Device::flex()).unwrap_err();
    let field = |linear: Linear| match rows(linear) {
        ProbeError::Option { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(Linear { epochs: 10, ..Linear::default() }), "epochs");
    assert_eq!(field(Linear { batch_size: 1, ..Linear::default() }), "batch_size");
    assert_eq!(field(Linear { blr: vec![0.0], ..Linear::default() }), "blr");
    let error = rows(Linear { opt: "larsen".into(), ..Linear::default() }).to_string();
    assert!(error.contains("unknown optimiser 'larsen'") && error.contains("lars"), "{error}");
    // Classes that overlap: the weights grow until they overflow.
    let mixed = clouds(4, 30, 2, 9.0);
    let wild = Linear { blr: vec![1e38], opt: "momentum".into(), ..Linear::default() };
    let error = wild.rows(&mixed, &Device::flex()).unwrap_err();
    assert!(matches!(error, ProbeError::Diverged { .. }), "{error}");
}
