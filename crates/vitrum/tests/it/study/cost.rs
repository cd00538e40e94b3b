//! What runs cost, counted by hand.

use std::collections::BTreeSet;

use burn::tensor::Device;
use vitrum::study::{Costs, Data, Speed};

use super::{CHAIN, plan};

#[test]
fn updates_and_multiply_accumulates_are_counted() {
    let plan = plan("", CHAIN);
    let mut data = Data::default();
    let costs = Costs::count(&plan, &mut data).expect("costs");
    let at = |id: &str| plan.runs.iter().position(|run| run.id == id).expect(id);
    let all = &costs.runs[at("then-nothing-all-s1")];
    // 96 images in batches of 32, two epochs.
    assert_eq!((all.images, all.updates, all.batch, all.epochs), (96, 6, 32, 2.0));
    let images = data.images(&plan.runs[0]).expect("images");
    let macs = all.macs.expect("a named model");
    // Both epochs end in one validation, and the best weights are validated once more.
    let expected = (3 * 6 * 32 + 2 * images.val) as f64 * macs as f64;
    assert!((all.total_macs - expected).abs() < 1e-6 * expected, "{} and {expected}", all.total_macs);
    let half = &costs.runs[at("then-nothing-half-s1")];
    // 48 or, by class, a few more: one batch of 32 per epoch.
    assert!((45..=55).contains(&half.images), "{}", half.images);
    assert_eq!(half.updates, 2);
    let params = all.params.expect("a named model");
    // Weights and two values of each, in the newest and the best checkpoint, and the model.
    assert_eq!(all.bytes, 4 * params * (3 * 2 + 1));
}

#[test]
fn a_part_that_learns_alone_and_a_teacher_are_counted() {
    let runs = r#"
        [[runs]]
        name = "teacher"
        [[runs]]
        name = "head"
        keys = { linear_probe = true }
        [[runs]]
        name = "student"
        keys = { teacher = "{run:teacher}", distillation_type = "hard", model_kwargs = { depth = 1 } }
    "#;
    let plan = plan("", runs);
    let mut data = Data::default();
    let costs = Costs::count(&plan, &mut data).expect("costs");
    let val = data.images(&plan.runs[0]).expect("images").val as f64;
    let [teacher, head, student] = &costs.runs[..] else { panic!("three runs") };
    let forward = |cost: &vitrum::study::Cost| cost.macs.expect("a named model") as f64;
    let near =
        |found: f64, expected: f64| assert!((found / expected - 1.0).abs() < 1e-9, "{found}, {expected}");
    near(head.total_macs, (6.0 * 32.0 + 2.0 * val) * forward(head));
    // A teacher's own head has its number of classes, as in the plan.
    let asked = student.total_macs - (3.0 * 6.0 * 32.0 + 2.0 * val) * forward(student);
    assert!((asked / (6.0 * 32.0) / forward(teacher) - 1.0).abs() < 0.2, "{asked}");
}

#[test]
fn a_guess_needs_no_update_and_a_measurement_makes_some() {
    let plan = plan("", CHAIN);
    let mut data = Data::default();
    let mut costs = Costs::count(&plan, &mut data).expect("costs");
    assert_eq!(costs.seconds(0), None);
    let all: BTreeSet<usize> = (0..plan.runs.len()).collect();
    let device = Device::flex();
    let mut measured = Vec::new();
    costs
        .find_speed(&plan, &all, &mut data, Speed::Assumed(1e9), (&device, true), &mut |run| {
            measured.push(run.id.clone());
        })
        .expect("a guess");
    assert!(measured.is_empty());
    for index in all.iter().copied() {
        let expected = costs.runs[index].total_macs / 1e9;
        let found = costs.seconds(index).expect("a guess");
        assert!((found / expected - 1.0).abs() < 1e-9, "{found} and {expected}");
    }
    costs
        .find_speed(&plan, &all, &mut data, Speed::Measured, (&device, true), &mut |run| {
            measured.push(run.id.clone());
        })
        .expect("a measurement");
    // They differ in images and first values alone.
    assert_eq!(measured, ["start-s1"]);
    let seconds: Vec<f64> = all.iter().map(|&index| costs.update_seconds[index].expect("a time")).collect();
    assert!(seconds.iter().all(|value| *value > 0.0 && *value == seconds[0]), "{seconds:?}");
}
