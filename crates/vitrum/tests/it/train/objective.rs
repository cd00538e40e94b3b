//! Losses and their gradients against timm's, also of extreme logits.

use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum::train::objective::ClassLoss;
use vitrum::train::recipe::Recipe;

use super::{golden, relative, soft_targets, values};

const SHAPE: [usize; 2] = [6, 5];

fn check(dtype: DType, bar: f64) {
    let golden = golden("loss.safetensors");
    let device = Device::flex().autodiff();
    let tensor =
        |values: &[f64]| Tensor::<2>::from_data(TensorData::new(values.to_vec(), SHAPE), (&device, dtype));
    let soft = tensor(&golden["soft"]);
    let labels: Vec<usize> = (0..6).map(|i| i % 5).collect();
    let hard = |smoothing| soft_targets(&labels, smoothing, &device, dtype);
    let binary = |threshold, sum_classes| ClassLoss::Binary { threshold, sum_classes };
    let usual: Vec<f64> = values("logits", &SHAPE).iter().map(|x| 3.0 * x).collect();
    for (kind, logits) in [("usual", &usual), ("extreme", &golden["extreme"])] {
        for (name, objective, targets) in [
            ("ce", ClassLoss::CrossEntropy, soft.clone()),
            ("labels", ClassLoss::CrossEntropy, hard(0.0)),
            ("smooth", ClassLoss::CrossEntropy, hard(0.1)),
            ("bce", binary(None, false), soft.clone()),
            ("bce_labels", binary(None, false), hard(0.1)),
            ("bce_threshold", binary(Some(0.2), false), soft.clone()),
            ("bce_sum", binary(None, true), soft.clone()),
        ] {
            let name = format!("{kind}.{name}");
            let x = tensor(logits).require_grad();
            let loss = objective.loss(x.clone(), targets);
            let gradient: Vec<f64> = x.grad(&loss.backward()).unwrap().into_data().iter::<f64>().collect();
            let loss: Vec<f64> = loss.into_data().iter::<f64>().collect();
            let [off_loss, off_gradient] = [(&loss, "loss"), (&gradient, "grad")]
                .map(|(ours, what)| relative(ours, &golden[&format!("{name}.{what}")]));
            assert!(off_loss <= bar && off_gradient <= bar, "{name}: {off_loss:.2e} {off_gradient:.2e}");
        }
    }
}

#[test]
fn every_loss_in_f64() {
    check(DType::F64, 1e-12);
}

#[test]
fn every_loss_in_f32() {
    check(DType::F32, 1e-6);
}

#[test]
fn recipes_choose_the_loss() {
    let recipe = Recipe::default();
    assert_eq!(ClassLoss::from(&recipe), ClassLoss::CrossEntropy);
    let recipe = Recipe { bce_loss: true, bce_target_thresh: Some(0.2), bce_sum: true, ..recipe };
    assert_eq!(ClassLoss::from(&recipe), ClassLoss::Binary { threshold: Some(0.2), sum_classes: true });
}
