//! Cross attention, biases per window and padded keys: the fast path against its definition, gradients, edge cases.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use vitrum_kernels::{
    attention, attention_padded, attention_reference, cross_attention, cross_attention_bf16,
    cross_attention_kv, cross_attention_reference, cross_attention_weights,
};

use crate::support::*;

/// Sizes: batch, queries, keys, heads, columns per head of q and k, columns per head of v.
type Sizes = [usize; 6];

/// Arguments. The mask hides some keys of each batch entry, and all keys of the last.
#[derive(Clone)]
struct Case {
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    heads: usize,
    scale: f64,
    bias: Option<Tensor<4>>,
    mask: Option<Tensor<2, Bool>>,
}

fn case([b, queries, keys, a, e, ev]: Sizes, bias: Option<[usize; 2]>, masked: bool, dtype: DType) -> Case {
    let device = Device::flex();
    let seed = (b * 1000 + queries * 100 + keys * 10 + a + e + ev) as u64;
    Case {
        q: random([b, queries, a * e], 2.0, seed, &device, dtype),
        k: random([b, keys, a * e], 2.0, seed + 1, &device, dtype),
        v: random([b, keys, a * ev], 2.0, seed + 2, &device, dtype),
        heads: a,
        scale: (e as f64).powf(-0.5),
        bias: bias.map(|[n, a]| random([n, a, queries, keys], 2.0, seed + 3, &device, dtype)),
        mask: masked.then(|| mask(b, keys)),
    }
}

fn is_hidden(b: usize, entry: usize, key: usize) -> bool {
    (key + entry) % 3 == 1 || b > 1 && entry + 1 == b
}

fn mask(b: usize, keys: usize) -> Tensor<2, Bool> {
    let flags: Vec<bool> = (0..b * keys).map(|i| is_hidden(b, i / keys, i % keys)).collect();
    Tensor::from_data(TensorData::new(flags, [b, keys]), &Device::flex())
}

fn fast(case: Case) -> Tensor<3> {
    cross_attention(case.q, case.k, case.v, case.heads, case.scale, case.bias, case.mask)
}

fn side_by_side(case: Case) -> Tensor<3> {
    let kv = Tensor::cat(vec![case.k, case.v], 2);
    cross_attention_kv(case.q, kv, case.heads, case.scale, case.bias, case.mask)
}

fn reference(case: Case) -> Tensor<3> {
    cross_attention_reference(case.q, case.k, case.v, case.heads, case.scale, case.bias, case.mask)
}

fn lifted<const R: usize>(x: &Tensor<R>) -> Tensor<R> {
    let device = Device::flex().autodiff();
    Tensor::from_data(x.clone().into_data(), (&device, x.dtype())).require_grad()
}

/// Context, and gradients of q, k, v and bias for the loss Σ context · w.
fn with_gradients(
    op: impl Fn(Case) -> Tensor<3>,
    case: &Case,
    w: &Tensor<3>,
) -> (Tensor<3>, [Tensor<3>; 3], Option<Tensor<4>>) {
    let (q, k, v) = (lifted(&case.q), lifted(&case.k), lifted(&case.v));
    let bias = case.bias.as_ref().map(lifted);
    let traced = Case { q: q.clone(), k: k.clone(), v: v.clone(), bias: bias.clone(), ..case.clone() };
    let context = op(traced);
    let grads = (context.clone() * lifted(w)).sum().backward();
    let of = |x: Tensor<3>| x.grad(&grads).expect("a gradient");
    (context.inner(), [q, k, v].map(of), bias.map(|bias| bias.grad(&grads).expect("a gradient of the bias")))
}

fn loss_weights(case: &Case) -> Tensor<3> {
    let ([b, queries, _], [.., width]) = (case.q.dims(), case.v.dims());
    random([b, queries, width], 1.0, 7, &Device::flex(), case.q.dtype())
}

fn compare(sizes: Sizes, bias: Option<[usize; 2]>, masked: bool, dtype: DType) {
    let case = case(sizes, bias, masked, dtype);
    let w = loss_weights(&case);
    let limit = if dtype == DType::F64 { 1e-13 } else { 2e-6 };
    let expected = with_gradients(reference, &case, &w);
    let plain = fast(case.clone());
    for (form, op) in [("apart", fast as fn(Case) -> Tensor<3>), ("side by side", side_by_side)] {
        let name = format!("{sizes:?} bias {bias:?} masked {masked} {dtype:?} {form}");
        let found = with_gradients(op, &case, &w);
        assert_eq!(values(&plain), values(&found.0), "{name}");
        let gap = distance_among(&found.0, &expected.0, 1.0);
        assert!(gap <= limit, "{name}: context is off by {gap:e}");
        for (part, (found, expected)) in ["q", "k", "v"].iter().zip(found.1.iter().zip(&expected.1)) {
            let gap = distance_among(found, expected, 1.0);
            assert!(gap <= 2.0 * limit, "{name}: gradient of {part} is off by {gap:e}");
        }
        if let (Some(found), Some(expected)) = (found.2, &expected.2) {
            let gap = distance_among(&found, expected, 1.0);
            assert!(gap <= 3.0 * limit, "{name}: gradient of the bias is off by {gap:e}");
        }
    }
}

#[test]
fn cross_fast_equals_reference_at_odd_sizes() {
    for dtype in [DType::F32, DType::F64] {
        for (queries, keys) in [(1, 1), (1, 197), (100, 3), (65, 130), (3, 257), (130, 49)] {
            for (a, e, ev) in [(1, 2, 2), (3, 5, 5), (2, 64, 64), (2, 8, 33), (1, 80, 3), (2, 3, 70)] {
                compare([2, queries, keys, a, e, ev], None, false, dtype);
            }
        }
    }
}

#[test]
fn cross_fast_equals_reference_with_biases_and_masks() {
    for dtype in [DType::F32, DType::F64] {
        for bias in [None, Some([1, 1]), Some([1, 3]), Some([2, 1]), Some([3, 3]), Some([6, 1]), Some([6, 3])]
        {
            for (queries, keys, e) in [(1, 4, 3), (49, 49, 32), (7, 130, 16), (66, 17, 5)] {
                for masked in [false, true] {
                    compare([6, queries, keys, 3, e, e], bias, masked, dtype);
                }
            }
        }
    }
}

/// A bias per window equals the same bias repeated for each image.
#[test]
fn windows_fast_equals_reference() {
    let device = Device::flex();
    let repeated = |bias: &Tensor<4>| bias.clone().repeat_dim(0, 3);
    for a in [1, 2] {
        let qkv: Tensor<3> = random([12, 49, 96], 2.0, 1, &device, DType::F32);
        let bias: Tensor<4> = random([4, a, 49, 49], 2.0, 2, &device, DType::F32);
        let found = attention(qkv.clone(), 2, 0.3, Some(bias.clone()));
        assert_eq!(values(&found), values(&attention(qkv.clone(), 2, 0.3, Some(repeated(&bias)))));
        let expected = attention_reference(qkv.clone(), 2, 0.3, Some(repeated(&bias)));
        assert!(distance(&found, &expected) < 2e-6);
        assert!(distance(&found, &attention_reference(qkv.clone(), 2, 0.3, Some(bias.clone()))) < 2e-6);
        let gradients = |whole: bool| {
            let (x, y) = (lifted(&qkv), lifted(&bias));
            let given = if whole { repeated(&y) } else { y.clone() };
            let grads = attention(x.clone(), 2, 0.3, Some(given)).powi_scalar(2).sum().backward();
            (x.grad(&grads).expect("a gradient"), y.grad(&grads).expect("a gradient"))
        };
        let ((x, y), (whole_x, whole_y)) = (gradients(false), gradients(true));
        assert_eq!(values(&x), values(&whole_x));
        assert!(distance(&y, &whole_y) < 2e-6);
    }
}

#[test]
fn cross_gradients_are_those_of_central_differences() {
    for (sizes, bias) in
        [([2, 3, 4, 2, 3, 2], Some([1, 2])), ([4, 2, 3, 1, 2, 3], Some([2, 1])), ([2, 1, 5, 1, 3, 3], None)]
    {
        let case = case(sizes, bias, true, DType::F64);
        let w = loss_weights(&case);
        let (_, gradients, d_bias) = with_gradients(fast, &case, &w);
        let loss = |case: Case| dot(fast(case), &w);
        let expected = [
            central_differences(&case.q, 1e-5, |q| loss(Case { q, ..case.clone() })),
            central_differences(&case.k, 1e-5, |k| loss(Case { k, ..case.clone() })),
            central_differences(&case.v, 1e-5, |v| loss(Case { v, ..case.clone() })),
        ];
        for (found, expected) in gradients.iter().zip(&expected) {
            assert!(distance(found, expected) < 1e-8, "{sizes:?}");
        }
        if let Some(d_bias) = d_bias {
            let bias = case.bias.clone().expect("a bias");
            let expected =
                central_differences(&bias, 1e-5, |bias| loss(Case { bias: Some(bias), ..case.clone() }));
            assert!(distance(&d_bias, &expected) < 1e-8, "bias {sizes:?}");
        }
    }
}

/// Sets the rows of hidden keys to NaN.
fn spoil(x: &Tensor<3>) -> Tensor<3> {
    let [b, keys, width] = x.dims();
    let mask = mask(b, keys).reshape([b, keys, 1]).expand([b, keys, width]);
    x.clone().mask_fill(mask, f32::NAN)
}

#[test]
fn padding_masks_hide_even_nan() {
    for keys in [5, 49, 150] {
        for dtype in [DType::F32, DType::F64, DType::F16] {
            let clean = case([3, 20, keys, 2, 16, 16], Some([1, 2]), true, dtype);
            let w = loss_weights(&clean);
            let spoiled = Case { k: spoil(&clean.k), v: spoil(&clean.v), ..clean.clone() };
            let (expected, found) = (with_gradients(fast, &clean, &w), with_gradients(fast, &spoiled, &w));
            assert_eq!(values(&expected.0), values(&found.0));
            for (expected, found) in expected.1.iter().zip(&found.1) {
                assert_eq!(values(expected), values(found), "{keys} {dtype:?}");
                assert!(values(found).iter().all(|x| x.is_finite()));
            }
            assert_eq!(expected.2.map(|x| values(&x)), found.2.map(|x| values(&x)));
            for gradient in &found.1[1..] {
                for (i, x) in values(gradient).iter().enumerate() {
                    assert!(*x == 0.0 || !is_hidden(3, i / 32 / keys, i / 32 % keys), "{x}");
                }
            }
            let last = found.0.narrow(0, 2, 1);
            assert!(values(&last).iter().all(|&x| x == 0.0), "an entry without keys");
        }
        let clean = case([3, 20, keys, 2, 16, 16], None, true, DType::F32);
        let bf16 = |c: Case| cross_attention_bf16(c.q, c.k, c.v, c.heads, c.scale, c.bias, c.mask);
        let spoiled = Case { k: spoil(&clean.k), v: spoil(&clean.v), ..clean.clone() };
        assert_eq!(values(&bf16(clean.clone())), values(&bf16(spoiled)));
        assert!(distance(&bf16(clean.clone()), &reference(clean)) < 1e-2);
    }
}

#[test]
fn padding_masks_of_packed_projections() {
    let qkv: Tensor<3> = random([3, 70, 48], 2.0, 1, &Device::flex(), DType::F32);
    let parts = |x: &Tensor<3>| [0, 1, 2].map(|part| x.clone().narrow(2, part * 16, 16));
    let [q, k, v] = parts(&qkv);
    let found = attention_padded(qkv.clone(), 2, 0.4, None, mask(3, 70));
    assert_eq!(values(&found), values(&cross_attention(q, k, v, 2, 0.4, None, Some(mask(3, 70)))));
    let gradient = |packed: bool| {
        let x = lifted(&qkv);
        let [q, k, v] = parts(&x);
        let y = match packed {
            true => attention_padded(x.clone(), 2, 0.4, None, mask(3, 70)),
            false => cross_attention(q, k, v, 2, 0.4, None, Some(mask(3, 70))),
        };
        values(&x.grad(&y.powi_scalar(2).sum().backward()).expect("a gradient"))
    };
    assert_eq!(gradient(true), gradient(false));
}

#[test]
fn cross_nan_is_not_swallowed() {
    let case = case([1, 9, 70, 2, 4, 4], None, false, DType::F32);
    let nan = Tensor::full([1, 1, 1], f32::NAN, &Device::flex());
    let k = case.k.clone().slice_assign([0..1, 40..41, 0..1], nan);
    let context = fast(Case { k, ..case });
    assert!(values(&context.clone().narrow(2, 0, 4)).iter().all(|x| x.is_nan()));
    assert!(values(&context.narrow(2, 4, 4)).iter().all(|x| x.is_finite()));
}

#[test]
fn nothing_in_zeros_out() {
    for sizes in
        [[0, 5, 4, 2, 3, 3], [2, 0, 4, 2, 3, 3], [2, 5, 0, 2, 3, 3], [2, 5, 4, 2, 3, 0], [2, 5, 4, 2, 0, 3]]
    {
        for dtype in [DType::F32, DType::F16] {
            if dtype == DType::F16 && sizes != [2, 5, 0, 2, 3, 3] {
                continue; // Burn's own operations do not support all of these.
            }
            let case = case(sizes, Some([1, 2]), true, dtype);
            let w = loss_weights(&case);
            let (context, gradients, d_bias) = with_gradients(fast, &case, &w);
            assert_eq!(context.dims(), [sizes[0], sizes[1], sizes[3] * sizes[5]]);
            assert!(values(&context).iter().all(|x| x.is_finite()));
            if sizes[2] == 0 {
                assert!(values(&context).iter().all(|&x| x == 0.0));
                assert!(values(&gradients[0]).iter().all(|&x| x == 0.0));
            }
            assert_eq!(gradients[0].dims(), case.q.dims());
            assert_eq!(d_bias.expect("a gradient").dims(), case.bias.expect("a bias").dims());
        }
    }
}

#[test]
fn views_of_rows_are_read_where_they_lie() {
    let device = Device::flex();
    let wide: Tensor<3> = random([4, 30, 100], 1.0, 5, &device, DType::F32);
    let q = wide.clone().narrow(1, 2, 9).narrow(2, 3, 24);
    let k = wide.clone().swap_dims(0, 1).narrow(0, 5, 4).narrow(2, 40, 24); // [4, 4, 24]
    let v = wide.swap_dims(1, 2).narrow(1, 7, 4).narrow(2, 0, 10); // [4, 4, 10]
    let shared = q.clone().narrow(0, 0, 1).expand([4, 9, 24]);
    for q in [q, shared] {
        let found = cross_attention(q.clone(), k.clone(), v.clone(), 2, 0.5, None, None);
        let expected = cross_attention_reference(q, k.clone(), v.clone(), 2, 0.5, None, None);
        assert!(distance(&found, &expected) < 2e-6);
    }
}

#[test]
fn cross_one_thread_and_many_give_the_same_bits() {
    let case = case([6, 150, 99, 3, 16, 16], Some([3, 3]), true, DType::F32);
    let w = loss_weights(&case);
    let run = |threads| {
        let (case, w) = (case.clone(), w.clone());
        with_threads(threads, move || {
            let (y, gradients, d_bias) = with_gradients(fast, &case, &w);
            (values(&y), gradients.map(|x| values(&x)), d_bias.map(|x| values(&x)))
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn half_precision_of_other_keys_takes_the_portable_way() {
    for bias in [None, Some([1, 2]), Some([2, 1]), Some([4, 2])] {
        let full = case([4, 20, 13, 2, 8, 5], bias, true, DType::F32);
        let cast = |x: &Tensor<3>| x.clone().cast(DType::F16);
        let bias = full.bias.clone().map(|bias| bias.cast(DType::F16));
        let half = Case { q: cast(&full.q), k: cast(&full.k), v: cast(&full.v), bias, ..full.clone() };
        let w = loss_weights(&full);
        let expected = with_gradients(reference, &full, &w);
        let found = with_gradients(fast, &half, &cast(&w));
        assert!(distance(&found.0.cast(DType::F32), &expected.0) < 1e-2);
        for (found, expected) in found.1.into_iter().zip(&expected.1) {
            assert!(distance(&found.cast(DType::F32), expected) < 1e-2);
        }
        if let (Some(found), Some(expected)) = (found.2, &expected.2) {
            assert!(distance(&found.cast(DType::F32), expected) < 1e-2);
        }
    }
}

#[test]
fn cross_weights_are_the_softmax_of_the_scores() {
    let Case { q, k, v, heads, scale, bias, mask } = case([2, 5, 9, 3, 4, 4], Some([1, 3]), true, DType::F64);
    let weights = cross_attention_weights(q.clone(), k.clone(), heads, scale, bias.clone(), mask.clone());
    assert_eq!(weights.dims(), [2, 3, 5, 9]);
    let sums = values(&weights.clone().sum_dim(3));
    assert!(sums.iter().enumerate().all(|(i, sum)| (sum - if i < 15 { 1.0 } else { 0.0 }).abs() < 1e-12));
    let heads_of_v = v.clone().reshape([2, 9, 3, 4]).swap_dims(1, 2);
    let context = weights.matmul(heads_of_v).swap_dims(1, 2).reshape([2, 5, 12]);
    assert!(distance(&cross_attention(q, k, v, heads, scale, bias, mask), &context) < 1e-13);
}

#[test]
#[should_panic(expected = "k must be [1, K, 8] as q is, found [1, 3, 6]")]
fn keys_must_be_as_wide_as_queries() {
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &Device::flex());
    cross_attention(zeros([1, 2, 8]), zeros([1, 3, 6]), zeros([1, 3, 8]), 2, 1.0, None, None);
}

#[test]
#[should_panic(expected = "its first axis divide 6, found [4, 1, 2, 3]")]
fn windows_must_divide_the_batch() {
    let zeros = |shape: [usize; 3]| Tensor::<3>::zeros(shape, &Device::flex());
    let bias = Some(Tensor::zeros([4, 1, 2, 3], &Device::flex()));
    cross_attention(zeros([6, 2, 8]), zeros([6, 3, 8]), zeros([6, 3, 8]), 2, 1.0, bias, None);
}
