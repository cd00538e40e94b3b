//! Convolutions, pooling, norms and gates of maps: the fast paths against their definitions, gradients, edge cases.

use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::{
    Activation, ConvForm, Folding, MapNorm, PackedConv, Pool, Squeeze, activate, batch_norm, conv,
    conv_folded, conv_packed, conv_reference, gate, gate_reference, group_norm, map_norm_reference, pool,
    pool_reference, squeeze, squeeze_reference,
};

use crate::support::*;

/// Tensors of any rank, flat, with their shapes.
type Inputs = Vec<(Vec<f64>, Vec<usize>)>;

fn input<const R: usize>(shape: [usize; R], size: f64, seed: u64) -> (Vec<f64>, Vec<usize>) {
    let values = values(&random(shape, size, seed, &Device::flex(), DType::F32));
    (values, shape.to_vec())
}

fn lift<const R: usize>(inputs: &Inputs, index: usize, device: &Device, dtype: DType) -> Tensor<R> {
    let (values, shape) = &inputs[index];
    let data = burn::tensor::TensorData::new(values.clone(), shape.clone());
    let tensor = Tensor::from_data(data, (device, dtype));
    if device.is_autodiff() { tensor.require_grad() } else { tensor }
}

/// The result and the gradients of a loss Σ y · w for these tensors, flat.
macro_rules! pass {
    ($inputs:expr, $dtype:expr, |$($name:ident: $rank:literal),*| $y:expr) => {{
        let device = Device::flex().autodiff();
        let mut index = 0;
        $(
            let $name: Tensor<$rank> = lift(&$inputs, index, &device, $dtype);
            index += 1;
        )*
        let _ = index;
        let y = { $(let $name = $name.clone();)* $y };
        let w = random(y.dims(), 1.0, 99, &device, $dtype);
        let grads = (y.clone() * w).sum().backward();
        let mut found = vec![values(&y.inner())];
        $(found.push(values(&$name.grad(&grads).expect(stringify!($name))));)*
        found
    }};
}

/// The largest differences, each relative to the largest expected number.
fn distances(found: &[Vec<f64>], expected: &[Vec<f64>]) -> Vec<f64> {
    assert_eq!(found.len(), expected.len());
    let distance = |(found, expected): (&Vec<f64>, &Vec<f64>)| {
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(1e-3, |most: f64, x| most.max(x.abs()));
        let gap = |(f, e): (&f64, &f64)| if f.is_nan() { f64::INFINITY } else { (f - e).abs() / largest };
        found.iter().zip(expected).map(gap).fold(0.0, f64::max)
    };
    found.iter().zip(expected).map(distance).collect()
}

/// Maps, channels, results, form.
struct Case(usize, usize, usize, ConvForm);

fn form(grid: [usize; 2], kernel: usize, stride: usize, padding: usize, groups: usize) -> ConvForm {
    ConvForm::new(grid, [kernel; 2]).stride([stride; 2]).padding([padding; 2]).groups(groups)
}

fn cases() -> Vec<Case> {
    vec![
        Case(2, 3, 20, form([29, 31], 7, 2, 3, 1)), // a stem
        Case(1, 3, 8, form([16, 20], 4, 4, 0, 1)),  // patches
        Case(2, 24, 33, form([9, 13], 3, 1, 1, 1)),
        Case(3, 20, 17, form([10, 7], 3, 2, 1, 1)),
        Case(2, 40, 64, form([6, 5], 1, 1, 0, 1)), // pointwise
        Case(2, 32, 24, form([7, 8], 1, 2, 0, 1)), // pointwise with steps
        Case(2, 24, 24, form([9, 8], 3, 1, 1, 3)), // groups
        Case(1, 36, 18, form([11, 12], 3, 2, 1, 2)),
        Case(1, 16, 16, form([8, 8], 2, 2, 0, 1)), // patches of a map
        Case(2, 18, 5, ConvForm::new([9, 8], [2, 3]).stride([1, 2]).dilation([2, 1]).padding([1, 2])),
        Case(2, 17, 9, ConvForm::new([9, 10], [3, 3]).stride([2, 2]).same()),
        Case(2, 3, 9, ConvForm::new([10, 9], [7, 7]).stride([2, 2]).same()),
        Case(1, 8, 6, form([5, 4], 3, 3, 0, 1)), // pixels that nothing reads
        Case(1, 4, 3, form([1, 1], 1, 2, 0, 1)), // fewer numbers than a register
        Case(2, 37, 37, form([9, 12], 7, 1, 3, 37)), // depthwise
        Case(1, 64, 64, form([5, 4], 7, 1, 3, 64)), // only edges
        Case(2, 21, 21, form([10, 9], 3, 2, 1, 21)),
        Case(2, 16, 16, form([20, 9], 5, 1, 2, 16)),
        Case(
            1,
            9,
            9,
            ConvForm::new([9, 8], [2, 4]).stride([2, 1]).dilation([1, 2]).padding([0, 1]).groups(9),
        ),
        Case(1, 11, 11, form([12, 11], 11, 1, 5, 11)),
        Case(1, 130, 70, form([14, 15], 3, 1, 1, 1)), // several blocks of the sum
        Case(2, 40, 37, form([13, 20], 3, 1, 1, 1)),  // tiles of 2x2 results, from here on
        Case(3, 33, 64, form([10, 12], 3, 1, 0, 1)),
        Case(1, 32, 50, form([9, 18], 3, 1, 2, 1)),
        Case(1, 96, 66, form([10, 10], 3, 1, 1, 2)),
        Case(2, 300, 32, ConvForm { after: [1, 2], ..form([16, 14], 3, 1, 1, 1) }),
    ]
}

fn inputs(case: &Case) -> Inputs {
    let Case(b, c, n, form) = *case;
    let [kh, kw] = form.kernel;
    let x = input([b, form.grid[0] * form.grid[1], c], 1.0, 1);
    vec![x, input([kh, kw, c / form.groups, n], 0.5, 2), input([n], 1.0, 3)]
}

#[test]
fn convolutions_fast_equals_the_definition() {
    for case in &cases() {
        let (inputs, form) = (inputs(case), case.3);
        let expected =
            pass!(inputs, DType::F64, |x: 3, weight: 4, bias: 1| conv_reference(x, weight, Some(bias), form));
        for (dtype, limit) in [(DType::F32, 2e-6), (DType::F64, 2e-14), (DType::F16, 2e-2)] {
            let found = pass!(inputs, dtype, |x: 3, weight: 4, bias: 1| conv(x, weight, bias, form));
            let found = distances(&found, &expected);
            assert!(found.iter().all(|&d| d < limit), "{form:?} {dtype:?}: {found:?}");
        }
        let found = pass!(inputs[..2].to_vec(), DType::F32, |x: 3, weight: 4| conv(x, weight, None, form));
        let without =
            pass!(inputs[..2].to_vec(), DType::F64, |x: 3, weight: 4| conv_reference(x, weight, None, form));
        assert!(distances(&found, &without).iter().all(|&d| d < 2e-6), "{form:?} without a bias");
    }
}

#[test]
fn convolutions_do_not_depend_on_threads_or_on_other_maps() {
    for case in &cases() {
        let (inputs, form) = (inputs(case), case.3);
        let all = |threads| {
            with_threads(
                threads,
                || pass!(inputs, DType::F32, |x: 3, weight: 4, bias: 1| conv(x, weight, bias, form)),
            )
        };
        let one = all(1);
        assert_eq!(one, all(2), "{form:?}");
        assert_eq!(one, all(3), "{form:?}");
        let device = Device::flex();
        let (x, weight): (Tensor<3>, Tensor<4>) =
            (lift(&inputs, 0, &device, DType::F32), lift(&inputs, 1, &device, DType::F32));
        let last = case.0 - 1;
        let alone = values(&conv(x.clone().slice_dim(0, last..case.0), weight.clone(), None, form));
        let together = values(&conv(x, weight, None, form));
        assert_eq!(alone, together[last * alone.len()..], "{form:?}");
    }
}

#[test]
fn what_follows_a_convolution_is_folded_into_it() {
    let device = Device::flex();
    for case in &cases() {
        let (inputs, form, n) = (inputs(case), case.3, case.2);
        let [rows, columns] = form.out();
        for activation in Activation::ALL {
            for parts in 0..8 {
                let vector = |seed| random([n], 1.0, seed, &device, DType::F32);
                let folding = Folding {
                    scale: (parts & 1 > 0).then(|| vector(4)),
                    shift: (parts & 2 > 0).then(|| vector(5)),
                    residual: (parts & 4 > 0)
                        .then(|| random([case.0, rows * columns, n], 1.0, 6, &device, DType::F32)),
                    activation,
                };
                let (x, weight): (Tensor<3>, Tensor<4>) =
                    (lift(&inputs, 0, &device, DType::F32), lift(&inputs, 1, &device, DType::F32));
                let mut expected = conv(x.clone(), weight.clone(), None, form);
                if let Some(scale) = &folding.scale {
                    expected = expected * scale.clone().unsqueeze();
                }
                if let Some(shift) = &folding.shift {
                    expected = expected + shift.clone().unsqueeze();
                }
                if let Some(residual) = &folding.residual {
                    expected = expected + residual.clone();
                }
                let expected = activate(expected, activation);
                let found = conv_folded(x.clone(), weight.clone(), form, folding.clone());
                assert!(distance(&found, &expected) < 2e-6, "{form:?} {activation:?} {parts}");
                let packed = PackedConv::pack(
                    weight.into_data().try_to_vec().unwrap(),
                    weight_shape(case),
                    form.groups,
                );
                let same = conv_packed(x, &packed, form, folding);
                assert_eq!(values(&same), values(&found), "{form:?} {activation:?} {parts}");
            }
        }
        let weight: Vec<f32> = inputs[1].0.iter().map(|&w| w as f32).collect();
        assert_eq!(PackedConv::pack(weight.clone(), weight_shape(case), form.groups).unpack(), weight);
    }
}

/// A thread that waits for its parts of a first pass may take up another first pass of the same layer.
#[test]
fn several_callers_may_begin_with_a_packed_kernel_at_once() {
    let (done, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("a thread pool");
        let x = random([1, 64, 256], 1.0, 1, &Device::flex(), DType::F32);
        for round in 0..100 {
            let kernel = PackedConv::pack(vec![0.5; 9 * 256 * 256], [3, 3, 256, 256], 1);
            let call = &|delay| {
                std::thread::sleep(std::time::Duration::from_micros(delay));
                pool.install(|| {
                    conv_packed(x.clone(), &kernel, form([8, 8], 3, 1, 1, 1), Folding::default())
                });
            };
            std::thread::scope(|scope| {
                for caller in 0..4 {
                    scope.spawn(move || call(caller * 25 * (round % 40)));
                }
            });
        }
        done.send(()).expect("the test waits");
    });
    let patience = std::time::Duration::from_secs(300);
    end.recv_timeout(patience).expect("the callers wait for each other");
}

fn weight_shape(case: &Case) -> [usize; 4] {
    let Case(_, c, n, form) = *case;
    [form.kernel[0], form.kernel[1], c / form.groups, n]
}

#[test]
fn folded_convolutions_on_other_devices_take_the_steps() {
    let case = &cases()[3];
    let (inputs, form) = (inputs(case), case.3);
    let fold = |scale: Tensor<1>, dtype| Folding {
        scale: Some(scale),
        shift: Some(random([case.2], 1.0, 5, &Device::flex().autodiff(), dtype)),
        activation: Activation::Relu,
        ..Folding::default()
    };
    let all = |dtype| pass!(inputs, dtype, |x: 3, weight: 4, scale: 1| conv_folded(x, weight, form, fold(scale, dtype)));
    let found = distances(&all(DType::F32), &all(DType::F64));
    assert!(found.iter().all(|&d| d < 1e-5), "{found:?}");
}

fn pools() -> Vec<(usize, usize, ConvForm)> {
    vec![
        (2, 64, form([15, 16], 3, 2, 1, 1)),
        (2, 21, ConvForm::new([9, 12], [3, 3]).stride([2, 2]).same()),
        (1, 5, form([8, 6], 2, 2, 0, 1)),
        (3, 18, ConvForm { after: [1, 1], ..form([9, 7], 2, 2, 0, 1) }), // as with ceil_mode
        (1, 40, form([6, 6], 3, 1, 1, 1)),
        (2, 8, form([7, 5], 1, 3, 0, 1)),
    ]
}

#[test]
fn pooling_fast_equals_the_definition() {
    for (b, c, form) in pools() {
        let inputs = vec![input([b, form.grid[0] * form.grid[1], c], 1.0, 1)];
        for kind in [Pool::Max, Pool::Avg] {
            let expected = pass!(inputs, DType::F64, |x: 3| pool_reference(x, form, kind));
            for (dtype, limit) in [(DType::F32, 1e-6), (DType::F64, 1e-14)] {
                let found = distances(&pass!(inputs, dtype, |x: 3| pool(x, form, kind)), &expected);
                assert!(found.iter().all(|&d| d < limit), "{form:?} {kind:?} {dtype:?}: {found:?}");
            }
            let with =
                |threads| with_threads(threads, || pass!(inputs, DType::F32, |x: 3| pool(x, form, kind)));
            assert_eq!(with(1), with(2));
        }
    }
}

#[test]
fn the_first_of_several_maxima_gets_the_gradient() {
    let device = Device::flex().autodiff();
    let x = Tensor::<3>::ones([1, 4, 9], &device).require_grad();
    let grads = pool(x.clone(), form([2, 2], 2, 2, 0, 1), Pool::Max).sum().backward();
    let found = values(&x.grad(&grads).unwrap());
    let expected: Vec<f64> = (0..36).map(|at| f64::from(u8::from(at < 9))).collect();
    assert_eq!(found, expected);
}

#[test]
fn nan_is_the_maximum_of_a_window() {
    let device = Device::flex();
    let values_of =
        |at: usize| -> Vec<f32> { (0..36).map(|i| if i / 9 == at { f32::NAN } else { 1.0 }).collect() };
    for at in 0..4 {
        let data = burn::tensor::TensorData::new(values_of(at), [1, 4, 9]);
        let x = Tensor::<3>::from_data(data, &device);
        let found = values(&pool(x, form([2, 2], 2, 2, 0, 1), Pool::Max));
        assert!(found.iter().all(|y| y.is_nan()), "{at}: {found:?}");
    }
}

/// The gradient of 2x2 windows of maps `[1, 4, C]`.
fn pooled_gradient(x: &[f32], grad: &[f32]) -> Vec<f64> {
    let device = Device::flex().autodiff();
    let tensor = |numbers: &[f32], n: usize| {
        let data = burn::tensor::TensorData::new(numbers.to_vec(), [1, n, numbers.len() / n]);
        Tensor::<3>::from_data(data, &device)
    };
    let x = tensor(x, 4).require_grad();
    let y = pool(x.clone(), form([2, 2], 2, 2, 0, 1), Pool::Max);
    values(&x.grad(&(y * tensor(grad, 1)).sum().backward()).unwrap())
}

#[test]
fn pooling_fast_equals_the_definition_for_infinite_gradients() {
    // Number i of a pixel is largest in pixel i % 4.
    let x: Vec<f32> = (0..4 * 37).map(|at| if at % 37 % 4 == at / 37 { 2.0 } else { 1.0 }).collect();
    let found = pooled_gradient(&x, &[f32::INFINITY; 37]);
    let expected: Vec<f64> = x.iter().map(|&x| if x > 1.0 { f64::INFINITY } else { 0.0 }).collect();
    assert_eq!(found, expected);
}

#[test]
fn pooling_fast_equals_the_definition_for_the_smallest_numbers() {
    let device = Device::flex();
    for units in [1, 2, 3] {
        let x: Vec<f32> =
            (0..4 * 37).map(|at| if at / 37 == 2 { f32::from_bits(units) } else { 0.0 }).collect();
        let maps = Tensor::<3>::from_data(burn::tensor::TensorData::new(x.clone(), [1, 4, 37]), &device);
        let most = values(&pool(maps, form([2, 2], 2, 2, 0, 1), Pool::Max));
        assert_eq!(most, vec![f64::from(f32::from_bits(units)); 37]);
        let expected: Vec<f64> = x.iter().map(|&x| if x > 0.0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(pooled_gradient(&x, &[1.0; 37]), expected);
    }
}

/// Rows, channels.
const NORMS: [(usize, usize, usize); 4] = [(2, 35, 32), (1, 7, 24), (3, 130, 17), (2, 500, 64)];

#[test]
fn batch_norm_fast_equals_the_definition() {
    for (b, n, c) in NORMS {
        let mut inputs =
            vec![input([b, n, c], 2.0, 1), input([c], 1.0, 2), input([c], 1.0, 3), input([b, n, c], 1.0, 4)];
        // A mean far from zero.
        inputs[0].0.iter_mut().for_each(|x| *x += 5.0);
        for relu in [false, true] {
            let norm = MapNorm { groups: None, eps: 1e-5, relu };
            let expected = pass!(inputs, DType::F64, |x: 3, weight: 1, bias: 1, residual: 3| {
                map_norm_reference(x, Some(weight), Some(bias), Some(residual), norm)
            });
            let plain =
                pass!(inputs[..1].to_vec(), DType::F64, |x: 3| map_norm_reference(x, None, None, None, norm));
            for (dtype, limit) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
                let found = pass!(inputs, dtype, |x: 3, weight: 1, bias: 1, residual: 3| {
                    batch_norm(x, weight, bias, Some(residual), 1e-5, relu).0
                });
                let found = distances(&found, &expected);
                assert!(found.iter().all(|&d| d < limit), "{b} {n} {c} {relu} {dtype:?}: {found:?}");
                let found =
                    pass!(inputs[..1].to_vec(), dtype, |x: 3| batch_norm(x, None, None, None, 1e-5, relu).0);
                let found = distances(&found, &plain);
                assert!(found.iter().all(|&d| d < limit), "{b} {n} {c} {relu} {dtype:?} plain: {found:?}");
            }
            let with = |threads| {
                with_threads(
                    threads,
                    || pass!(inputs, DType::F32, |x: 3, weight: 1, bias: 1| batch_norm(x, weight, bias, None, 1e-5, relu).0),
                )
            };
            assert_eq!(with(1), with(2));
        }
        let x: Tensor<3> = lift(&inputs, 0, &Device::flex(), DType::F32);
        let (_, mean, var) = batch_norm(x.clone(), None, None, None, 1e-5, false);
        let rows: Tensor<2> = x.cast(DType::F64).reshape([b * n, c]);
        let center = rows.clone().mean_dim(0);
        let spread = (rows - center.clone()).square().mean_dim(0);
        assert!(distance(&mean.cast(DType::F64), &center.squeeze_dim(0)) < 1e-6);
        assert!(distance(&var.cast(DType::F64), &spread.squeeze_dim(0)) < 2e-6);
    }
}

#[test]
fn group_norm_fast_equals_the_definition() {
    for (b, n, c) in [(2, 35, 32), (1, 7, 24), (3, 130, 18), (2, 100, 64)] {
        for groups in [1, 2, c] {
            let inputs = vec![input([b, n, c], 2.0, 1), input([c], 1.0, 2), input([c], 1.0, 3)];
            for relu in [false, true] {
                let norm = MapNorm { groups: Some(groups), eps: 1e-5, relu };
                let expected = pass!(inputs, DType::F64, |x: 3, weight: 1, bias: 1| {
                    map_norm_reference(x, Some(weight), Some(bias), None, norm)
                });
                for (dtype, limit) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
                    let found = pass!(inputs, dtype, |x: 3, weight: 1, bias: 1| {
                        group_norm(x, groups, weight, bias, 1e-5, relu)
                    });
                    let found = distances(&found, &expected);
                    assert!(
                        found.iter().all(|&d| d < limit),
                        "{b} {n} {c} {groups} {relu} {dtype:?}: {found:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn half_precision_norms_take_the_portable_way() {
    let inputs = vec![
        input([2, 30, 24], 2.0, 1),
        input([24], 1.0, 2),
        input([24], 1.0, 3),
        input([2, 30, 24], 1.0, 4),
    ];
    for relu in [false, true] {
        let all = |dtype| {
            pass!(inputs, dtype, |x: 3, weight: 1, bias: 1, residual: 3| {
                batch_norm(group_norm(x, 3, weight.clone(), bias.clone(), 1e-5, relu), weight, bias, Some(residual), 1e-5, relu).0
            })
        };
        let found = distances(&all(DType::F16), &all(DType::F64));
        assert!(found.iter().all(|&d| d < 5e-2), "{found:?}");
    }
}

#[test]
fn an_almost_constant_map_is_normalised_with_its_digits() {
    let device = Device::flex();
    let mut inputs = vec![input([2, 200, 8], 1e-3, 1)];
    inputs[0].0.iter_mut().for_each(|x| *x = f64::from((*x + 0.3) as f32));
    for groups in [None, Some(2)] {
        let norm = MapNorm { groups, eps: 1e-8, relu: false };
        let x64: Tensor<3> = lift(&inputs, 0, &device, DType::F64);
        let x: Tensor<3> = lift(&inputs, 0, &device, DType::F32);
        let expected = map_norm_reference(x64, None, None, None, norm);
        let found = match groups {
            None => batch_norm(x, None, None, None, 1e-8, false).0,
            Some(groups) => {
                let ones = Tensor::ones([8], &device);
                group_norm(x, groups, ones, Tensor::zeros([8], &device), 1e-8, false)
            }
        };
        assert!(distance(&found.cast(DType::F64), &expected) < 2e-4, "{groups:?}");
    }
}

#[test]
fn gates_fast_equals_the_definition() {
    for (b, n, c) in NORMS {
        let inputs = vec![input([b, n, c], 2.0, 1), input([b, c], 1.0, 2), input([c], 1.0, 3)];
        for residual in [false, true] {
            let expected = pass!(inputs, DType::F64, |x: 3, scale: 2, shift: 1| gate_reference(x, scale, Some(shift), residual));
            for (dtype, limit) in [(DType::F32, 2e-6), (DType::F64, 1e-13), (DType::F16, 2e-2)] {
                let found = pass!(inputs, dtype, |x: 3, scale: 2, shift: 1| gate(x, scale, shift, residual));
                let found = distances(&found, &expected);
                assert!(found.iter().all(|&d| d < limit), "{b} {n} {c} {dtype:?}: {found:?}");
            }
        }
        for kind in [Squeeze::Mean, Squeeze::Length] {
            let expected = pass!(inputs[..1].to_vec(), DType::F64, |x: 3| squeeze_reference(x, kind));
            for (dtype, limit) in [(DType::F32, 2e-6), (DType::F64, 1e-13), (DType::F16, 2e-2)] {
                let found =
                    distances(&pass!(inputs[..1].to_vec(), dtype, |x: 3| squeeze(x, kind)), &expected);
                assert!(found.iter().all(|&d| d < limit), "{b} {n} {c} {kind:?} {dtype:?}: {found:?}");
            }
        }
    }
}

#[test]
fn a_channel_of_zeros_has_a_gradient_of_zeros() {
    for dtype in [DType::F32, DType::F64, DType::F16, DType::BF16] {
        let device = Device::flex().autodiff();
        let x = Tensor::<3>::zeros([1, 6, 3], (&device, dtype)).require_grad();
        let grads = squeeze(x.clone(), Squeeze::Length).sum().backward();
        assert_eq!(values(&x.grad(&grads).unwrap()), vec![0.0; 18], "{dtype:?}");
    }
}

#[test]
fn nan_is_the_gradient_of_a_length_that_is_nan() {
    for dtype in [DType::F32, DType::F64, DType::F16] {
        let device = Device::flex().autodiff();
        let data = burn::tensor::TensorData::new(vec![1.0, 2.0, f64::NAN, 3.0], [1, 2, 2]);
        let x = Tensor::<3>::from_data(data, (&device, dtype)).require_grad();
        let grads = squeeze(x.clone(), Squeeze::Length).sum().backward();
        let found = values(&x.grad(&grads).unwrap());
        assert!(found[0].is_nan() && found[2].is_nan(), "{dtype:?}: {found:?}");
        assert!(found[1] > 0.0 && found[3] > 0.0, "{dtype:?}: {found:?}");
    }
}

#[test]
fn no_maps_or_channels_no_results() {
    let weight = |c: usize, n: usize| input([3, 3, c, n], 1.0, 2);
    let form = form([3, 4], 3, 1, 1, 1);
    for (b, c) in [(0, 4), (2, 0), (0, 0)] {
        let maps = || vec![input([b, 12, c], 1.0, 1)];
        let none = |results: usize| vec![Vec::<f64>::new(); results];
        let inputs: Inputs = maps().into_iter().chain([weight(c, 5)]).collect();
        let found = pass!(inputs, DType::F32, |x: 3, weight: 4| conv(x, weight, None, form));
        assert_eq!(found, [vec![0.0; b * 60], vec![], vec![0.0; 45 * c]]);
        for kind in [Pool::Max, Pool::Avg] {
            assert_eq!(pass!(maps(), DType::F32, |x: 3| pool(x, form, kind)), none(2));
        }
        for kind in [Squeeze::Mean, Squeeze::Length] {
            assert_eq!(pass!(maps(), DType::F32, |x: 3| squeeze(x, kind)), none(2));
        }
        let inputs: Inputs = maps().into_iter().chain([input([b, c], 1.0, 2)]).collect();
        let found = pass!(inputs, DType::F32, |x: 3, scale: 2| gate(x, scale, None, true));
        assert_eq!(found, none(3));
        let inputs: Inputs = maps().into_iter().chain([input([c], 1.0, 2), input([c], 1.0, 3)]).collect();
        let found = pass!(inputs, DType::F32, |x: 3, weight: 1, bias: 1| {
            batch_norm(x, weight, bias, None, 1e-5, true).0
        });
        assert_eq!(found, [vec![], vec![], vec![0.0; c], vec![0.0; c]]);
        if c > 0 {
            let found = pass!(inputs, DType::F32, |x: 3, weight: 1, bias: 1| {
                group_norm(x, 2, weight, bias, 1e-5, true)
            });
            assert_eq!(found, [vec![], vec![], vec![0.0; c], vec![0.0; c]]);
        }
    }
    let none = Tensor::<3>::zeros([0, 12, 4], &Device::flex());
    let (_, mean, var) = batch_norm(none, None, None, None, 1e-5, false);
    assert_eq!([values(&mean), values(&var)], [vec![0.0; 4], vec![0.0; 4]]);
}

/// Asserts that `work` panics with this message.
fn assert_panics(message: &str, work: impl FnOnce()) {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).expect_err(message);
    let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(said.contains(message), "{said:?} instead of {message:?}");
}

#[test]
fn forms_whose_sizes_exceed_any_memory_are_refused() {
    let device = Device::flex();
    let run = |x: [usize; 3], weight: [usize; 4], form: ConvForm| {
        conv(Tensor::zeros(x, &device), Tensor::ones(weight, &device), None, form);
    };
    let plain = form([4, 4], 1, 1, 0, 1);
    assert_panics("a number above", || {
        run([1, 16, 4], [1, 1, 4, 5], ConvForm { before: [usize::MAX, 0], after: [1, 0], ..plain });
    });
    assert_panics("a number above", || {
        run([1, 16, 8], [2, 2, 1, 8], ConvForm { dilation: [usize::MAX; 2], ..form([4, 4], 2, 1, 0, 8) });
    });
    let sides = [1 << 32; 2];
    assert_panics("a number above", || {
        run([1, 0, 4], [1, 1, 4, 5], ConvForm { grid: sides, stride: sides, ..plain });
    });
    assert_panics("a number above", || {
        pool(Tensor::zeros([1, 0, 4], &device), ConvForm { grid: sides, stride: sides, ..plain }, Pool::Max);
    });
    assert_panics("more numbers than fit", || {
        let sides = [1 << 24; 2];
        run([1, 1 << 48, 0], [1, 1, 0, 1 << 20], ConvForm { grid: sides, ..plain });
    });
    assert_panics("channels of the kernel", || {
        run([1, 16, 4], [1, 1, 2, 0], plain.groups((1 << 63) + 2));
    });
}

#[test]
fn wrong_groups_and_windows_are_named() {
    let device = Device::flex();
    let maps = || Tensor::<3>::zeros([1, 16, 4], &device);
    let plain = form([4, 4], 1, 1, 0, 1);
    assert_panics("conv: 3 channels of the result in 2 groups", || {
        conv(maps(), Tensor::ones([1, 1, 2, 3], &device), None, plain.groups(2));
    });
    assert_panics("conv_packed: the scale", || {
        let kernel = PackedConv::pack(vec![1.0; 4], [1, 1, 4, 1], 1);
        let scale = Some(Tensor::ones([2], &device));
        conv_packed(maps(), &kernel, plain, Folding { scale, ..Folding::default() });
    });
    assert_panics("pool: windows have no dilation", || {
        pool(maps(), form([4, 4], 2, 1, 0, 1).dilation([2, 2]), Pool::Max);
    });
    assert_panics("pool: a window can lie outside", || {
        pool(Tensor::zeros([1, 0, 4], &device), form([0, 0], 2, 1, 1, 1), Pool::Max);
    });
    let vector = |c: usize| Tensor::<1>::ones([c], &device);
    assert_panics("group_norm: maps must be [B, .., C]", || {
        group_norm(vector(4), 2, vector(4), vector(4), 1e-5, false);
    });
    assert_panics("group_norm: 0 channels in 2 groups", || {
        group_norm(Tensor::<3>::zeros([1, 4, 0], &device), 2, vector(0), vector(0), 1e-5, false);
    });
    assert_panics("group_norm: the weight", || {
        group_norm(maps(), 2, vector(5), vector(4), 1e-5, false);
    });
    assert_panics("batch_norm: the bias", || {
        batch_norm(maps(), vector(4), vector(5), None, 1e-5, false);
    });
}

#[test]
#[should_panic(expected = "maps must have 3 x 4 pixels")]
fn maps_must_have_the_size_of_the_form() {
    let device = Device::flex();
    conv(
        Tensor::zeros([1, 9, 4], &device),
        Tensor::ones([1, 1, 4, 5], &device),
        None,
        form([3, 4], 1, 1, 0, 1),
    );
}

#[test]
#[should_panic(expected = "the kernel does not fit")]
fn kernels_must_fit_on_the_maps() {
    let device = Device::flex();
    conv(
        Tensor::zeros([1, 4, 4], &device),
        Tensor::ones([5, 5, 4, 5], &device),
        None,
        form([2, 2], 5, 1, 1, 1),
    );
}

#[test]
#[should_panic(expected = "a window can lie outside")]
fn windows_must_meet_the_maps() {
    let device = Device::flex();
    pool(Tensor::zeros([1, 16, 4], &device), form([4, 4], 2, 2, 2, 1), Pool::Max);
}
