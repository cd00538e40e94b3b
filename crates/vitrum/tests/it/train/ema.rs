//! The moving average against timm's `ModelEmaV3`.

use burn::module::{Module, Param, ParamId};
use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum::train::ema::{Ema, EmaConfig};
use vitrum::train::optim::StateError;

use super::{golden, parameters, relative, values};

const SHAPES: [(&str, &[usize]); 2] = [("weight", &[5, 7]), ("bias", &[5])];

fn model(step: usize, device: &Device, dtype: DType) -> Linear {
    let data = |(key, shape): (&str, &[usize])| {
        TensorData::new(values(&format!("ema.{step}.{key}"), shape), shape.to_vec())
    };
    let [weight, bias] = SHAPES.map(data);
    let weight = Tensor::<2>::from_data(weight, (device, dtype)).swap_dims(0, 1).require_grad();
    let bias = Tensor::<1>::from_data(bias, (device, dtype)).require_grad();
    Linear {
        weight: Param::initialized(ParamId::new(), weight),
        bias: Some(Param::initialized(ParamId::new(), bias)),
    }
}

fn cases() -> [(&'static str, EmaConfig); 3] {
    let plain = EmaConfig { decay: 0.97, ..EmaConfig::default() };
    let late = EmaConfig {
        decay: 0.9,
        min_decay: 0.3,
        update_after_step: 4,
        use_warmup: true,
        warmup_gamma: 2.0,
        warmup_power: 0.75,
    };
    [("plain", plain), ("warmup", EmaConfig { use_warmup: true, ..plain }), ("late", late)]
}

fn check(dtype: DType, bar: f64) {
    let golden = golden("ema.safetensors");
    let device = Device::flex().autodiff();
    for (name, config) in cases() {
        let mut ema = Ema::new(&model(0, &device, dtype), config);
        for step in 1..=30 {
            ema.update(&model(step, &device, dtype), step as u64);
        }
        let decays: Vec<f64> = (1..=30).map(|step| config.decay_at(step)).collect();
        assert!(relative(&decays, &golden[&format!("{name}.decays")]) <= 1e-12, "{name}: {decays:?}");
        // A model alone has keys without a parent, and its weight is told by its container.
        let averaged = ema.apply_to(model(30, &device, dtype));
        let ours = parameters(&averaged);
        let weight: Vec<f64> = averaged.weight.val().swap_dims(0, 1).into_data().iter::<f64>().collect();
        assert!(relative(&weight, &golden[&format!("{name}.weight")]) <= bar, "{name}");
        assert!(relative(&ours["bias"], &golden[&format!("{name}.bias")]) <= bar, "{name}");
        assert!(averaged.weight.is_require_grad() && averaged.weight.val().device().is_autodiff());
    }
}

#[test]
fn thirty_updates_in_f64() {
    check(DType::F64, 1e-12);
}

#[test]
fn thirty_updates_in_f32() {
    check(DType::F32, 1e-6);
}

#[test]
fn averages_are_saved_and_gone_on_from() {
    let device = Device::flex().autodiff();
    let config = cases()[1].1;
    let at = |step| model(step, &device, DType::F32);
    let mut through = Ema::new(&at(0), config);
    (1..10).for_each(|step| through.update(&at(step), step as u64));
    let state = through.state_dict();
    let mut resumed = Ema::new(&at(11), config);
    resumed.load_state_dict(&state).unwrap();
    for ema in [&mut through, &mut resumed] {
        (10..20).for_each(|step| ema.update(&at(step), step as u64));
    }
    assert_eq!(through.state_dict(), resumed.state_dict());
    assert_ne!(through.state_dict(), state, "the saved copy does not move");

    let mut torn = state;
    torn.tensors.remove("bias");
    let before = resumed.state_dict();
    assert_eq!(resumed.load_state_dict(&torn), Err(StateError::Missing { name: "bias".into() }));
    assert_eq!(resumed.state_dict(), before);
}

#[test]
fn what_is_not_trained_is_not_averaged() {
    let device = Device::flex().autodiff();
    let frozen = |step| {
        let model = model(step, &device, DType::F32);
        Linear { weight: model.weight.set_require_grad(false), ..model }
    };
    let mut ema = Ema::new(&frozen(0), cases()[0].1);
    ema.update(&frozen(1), 1);
    ema.update(&frozen(2), 2);
    assert_eq!(ema.state_dict().tensors.into_keys().collect::<Vec<_>>(), ["bias"]);
    let applied = ema.apply_to(frozen(2).valid());
    assert_eq!(applied.weight.val().into_data(), frozen(2).weight.val().into_data());
    assert_ne!(
        applied.bias.unwrap().val().into_data(),
        frozen(2).bias.unwrap().val().into_data(),
        "the average is behind"
    );
}
