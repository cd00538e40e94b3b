//! Fused steps against their definition, to the bit: odd lengths, shared buffers, views, any number of threads.

use burn::tensor::{DType, Device, Tensor, TensorData};
use vitrum_kernels::optim::{
    Adam, Descent, Lerp, Lion, Momentum, Rule, Slot, sums_of_squares, update, update_reference,
};

use crate::support::{random, with_threads};

/// Lengths near those of vectors and blocks.
const LENGTHS: [usize; 9] = [1, 3, 7, 16, 17, 1000, (1 << 15) - 1, 1 << 15, (1 << 16) + 5];

fn slots<R: Rule<S>, const S: usize>(rules: &[R], device: &Device, dtype: DType) -> Vec<Slot<R, S>> {
    LENGTHS
        .iter()
        .enumerate()
        .map(|(i, &n)| {
            let seed = 10 * i as u64;
            let draw = |k: u64| random([n], 1.0, seed + k, device, dtype);
            let state = std::array::from_fn(|k| draw(2 + k as u64).abs());
            Slot { param: draw(0), grad: draw(1), state, rule: rules[i % rules.len()] }
        })
        .collect()
}

fn bits(tensor: &Tensor<1>) -> Vec<u64> {
    tensor.clone().into_data().iter::<f64>().map(f64::to_bits).collect()
}

/// Bits of parameters and states.
fn all_bits<R, const S: usize>(slots: &[Slot<R, S>]) -> Vec<Vec<u64>> {
    slots.iter().flat_map(|slot| std::iter::once(&slot.param).chain(&slot.state)).map(bits).collect()
}

fn check<R: Rule<S>, const S: usize>(rules: &[R]) {
    let device = Device::flex();
    for dtype in [DType::F32, DType::F64] {
        let before = slots(rules, &device, dtype);
        let expected = all_bits(&update_reference(before.clone()));
        assert_ne!(expected, all_bits(&before), "the step must do something");
        for threads in [1, 2, 5] {
            let found = with_threads(threads, || update(slots(rules, &device, dtype)));
            assert!(all_bits(&found) == expected, "{dtype:?}, {threads} threads");
        }
    }
}

fn adam(decoupled: bool, nesterov: bool) -> [Adam; 2] {
    let step = |step, weight_decay| Adam {
        lr: 1e-2,
        weight_decay,
        decoupled,
        nesterov,
        betas: [0.9, 0.999],
        eps: 1e-8,
        step,
    };
    [step(1, 0.1), step(7, 0.0)]
}

#[test]
fn fused_adam_equals_its_definition() {
    check(&adam(false, false));
    check(&adam(true, false));
    check(&adam(true, true));
    check(&adam(true, false).map(|rule| Adam { betas: [0.3, 0.9], ..rule }));
}

#[test]
fn fused_momentum_equals_its_definition() {
    for nesterov in [false, true] {
        let rule = Momentum { lr: 0.1, weight_decay: 0.05, momentum: 0.9, nesterov, first: false };
        check(&[rule, Momentum { first: true, weight_decay: 0.0, ..rule }]);
    }
    check(&[Descent { lr: 0.1, weight_decay: 0.05 }, Descent { lr: 0.2, weight_decay: 0.0 }]);
}

#[test]
fn fused_lion_equals_its_definition() {
    check(&[Lion { lr: 0.1, weight_decay: 0.05, betas: [0.9, 0.99] }]);
}

#[test]
fn fused_lerp_equals_its_definition() {
    check(&[Lerp { weight: 1e-4 }, Lerp { weight: 0.7 }, Lerp { weight: 0.5 }]);
}

#[test]
fn the_sign_of_nothing_is_nothing() {
    let device = Device::flex();
    let tensor = |values: [f32; 4]| Tensor::<1>::from_data(TensorData::from(values), &device);
    let rule = Lion { lr: 1.0, weight_decay: 0.0, betas: [0.9, 0.99] };
    let slot = Slot {
        param: tensor([0.0; 4]),
        grad: tensor([0.0, -0.0, 1e-30, -1e-30]),
        state: [tensor([0.0; 4])],
        rule,
    };
    let found = update(vec![slot]).remove(0).param.into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(found, [0.0, 0.0, -1.0, 1.0]);
}

#[test]
fn shared_buffers_are_not_changed() {
    let device = Device::flex();
    let mut before = slots(&adam(true, false), &device, DType::F32);
    let kept = before.clone();
    let bits_before = all_bits(&kept);
    // A view into a larger buffer, and a strided view.
    let wide: Tensor<1> = random([3000], 1.0, 99, &device, DType::F32);
    let wide_bits = bits(&wide);
    before[5].param = wide.clone().narrow(0, 7, 1000);
    before[5].grad = wide.clone().reshape([1000, 3]).swap_dims(0, 1).narrow(0, 1, 1).reshape([1000]);
    let expected = all_bits(&update_reference(before.clone()));
    assert!(all_bits(&update(before)) == expected);
    assert!(all_bits(&kept) == bits_before, "a clone changed");
    assert!(bits(&wide) == wide_bits, "the buffer behind a view changed");
}

#[test]
fn types_may_be_mixed() {
    let device = Device::flex();
    let mixed = || {
        let mut slots = slots(&adam(true, false), &device, DType::F32);
        slots.extend(self::slots(&adam(true, false), &device, DType::F64));
        slots
    };
    assert!(all_bits(&update(mixed())) == all_bits(&update_reference(mixed())));
}

#[test]
fn sums_of_squares_do_not_depend_on_threads() {
    let device = Device::flex();
    for dtype in [DType::F32, DType::F64] {
        let tensors: Vec<Tensor<1>> =
            LENGTHS.iter().map(|&n| random([n], 1.0, n as u64, &device, dtype)).collect();
        let found = with_threads(1, || sums_of_squares(&tensors));
        assert_eq!(found, with_threads(3, || sums_of_squares(&tensors)));
        for (sum, tensor) in found.iter().zip(&tensors) {
            let exact: f64 = tensor.clone().into_data().iter::<f64>().map(|x| x * x).sum();
            assert!((sum - exact).abs() <= 1e-12 * exact, "{sum} for {exact}");
        }
    }
}
