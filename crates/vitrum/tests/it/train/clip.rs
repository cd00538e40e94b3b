//! Clipping against torch's and timm's.

use burn::tensor::{DType, Device};
use vitrum::train::clip::{ClipMode, clip};

use super::{as_torch, golden, gradients, relative, toy};

fn check(dtype: DType, bar: f64) {
    let golden = golden("clip.safetensors");
    let device = Device::flex().autodiff();
    let mut compared = 0;
    for (name, mode, value, scale) in [
        ("norm", "norm", 1.0, 3.0),
        ("norm_within", "norm", 100.0, 1.0),
        ("value", "value", 0.2, 1.0),
        ("agc", "agc", 0.02, 1.0),
        ("agc_some", "agc", 1.0, 1.0),
    ] {
        let model = toy(&device, dtype);
        let grads = gradients(&model, 0, scale, &device, dtype);
        let (clipped, norm) = clip(grads, &model, mode.parse::<ClipMode>().unwrap(), value);
        assert!(relative(&[norm], &golden[&format!("{name}.total")]) <= bar, "{name}: {norm}");
        for grad in clipped.iter() {
            let Some(theirs) = golden.get(&format!("{name}.{}", grad.key)) else { continue };
            let ours = as_torch(&grad.key, grad.value.clone().into_data().iter::<f64>().collect());
            let error = relative(&ours, theirs);
            assert!(error <= bar, "{name}: {} {error:.2e}", grad.key);
            compared += 1;
        }
    }
    assert_eq!(compared, 20);
}

#[test]
fn every_mode_in_f64() {
    check(DType::F64, 1e-12);
}

#[test]
fn every_mode_in_f32() {
    check(DType::F32, 1e-6);
}

#[test]
fn unknown_modes_are_refused() {
    let error = "norn".parse::<ClipMode>().unwrap_err();
    assert!(error.to_string().contains("did you mean norm"), "{error}");
}
