//! Attention within windows of maps: the fast path against its definition, and the definition against a plain loop.

use burn::tensor::{DType, Device, Tensor};
use vitrum_kernels::{Windows, window_attention, window_attention_reference};

use crate::support::*;

/// Images, heads, width of a head.
type Sizes = [usize; 3];

fn windows(grid: [usize; 2], window: [usize; 2], shift: [usize; 2]) -> Windows {
    Windows { grid, window, shift }
}

/// Square and other windows, shifted along both axes, one or none; a map of one window; windows of more tokens than a
/// tile has queries or keys.
fn cases() -> Vec<(Windows, Sizes)> {
    vec![
        (windows([14, 14], [7, 7], [0, 0]), [2, 3, 32]),
        (windows([14, 21], [7, 7], [3, 3]), [2, 3, 32]),
        (windows([6, 4], [3, 2], [1, 1]), [3, 2, 5]),
        (windows([6, 4], [3, 2], [1, 0]), [1, 1, 3]),
        (windows([6, 4], [3, 2], [0, 1]), [1, 2, 8]),
        (windows([4, 4], [4, 4], [0, 0]), [2, 2, 4]),
        (windows([4, 8], [4, 4], [2, 2]), [2, 2, 4]),
        (windows([1, 9], [1, 3], [0, 2]), [2, 1, 7]),
        (windows([24, 24], [12, 12], [6, 6]), [1, 2, 16]),
    ]
}

/// qkv, and a bias `[1, heads, N, N]` if `heads` is given.
fn inputs(
    windows: Windows,
    [b, a, e]: Sizes,
    heads: Option<usize>,
    device: &Device,
    dtype: DType,
) -> (Tensor<3>, Option<Tensor<4>>) {
    let (tokens, n) = (windows.grid[0] * windows.grid[1], windows.tokens());
    let qkv = random([b, tokens, 3 * a * e], 2.0, (tokens + a) as u64, device, dtype);
    (qkv, heads.map(|heads| random([1, heads, n, n], 2.0, n as u64, device, dtype)))
}

#[test]
fn fast_equals_reference_in_windows() {
    let (device, _) = devices();
    for dtype in [DType::F32, DType::F64] {
        let limit = if dtype == DType::F64 { 1e-13 } else { 2e-6 };
        for (windows, sizes) in cases() {
            let [b, a, e] = sizes;
            for heads in [None, Some(1), Some(a)] {
                let (qkv, bias) = inputs(windows, sizes, heads, &device, dtype);
                let scale = (e as f64).powf(-0.5);
                let op = |qkv, bias| window_attention(qkv, windows, a, scale, bias);
                let reference = |qkv, bias| window_attention_reference(qkv, windows, a, scale, bias);
                let w = random([b, qkv.dims()[1], a * e], 1.0, 7, &device, dtype);
                let plain = op(qkv.clone(), bias.clone());
                let fast = with_gradients(op, qkv.clone(), bias.clone(), &w);
                let slow = with_gradients(reference, qkv, bias, &w);
                let name = format!("{windows:?} {sizes:?} {heads:?} {dtype:?}");
                assert_eq!(values(&plain), values(&fast.0), "{name}: forward differs under autodiff");
                let [forward, d_qkv] =
                    [(&fast.0, &slow.0), (&fast.1, &slow.1)].map(|(f, s)| distance_among(f, s, 1.0));
                assert!(forward <= limit, "{name}: context is off by {forward:e}");
                assert!(d_qkv <= 2.0 * limit, "{name}: gradient of qkv is off by {d_qkv:e}");
                if let (Some(fast), Some(slow)) = (fast.2, slow.2) {
                    let d_bias = distance_among(&fast, &slow, 1.0);
                    assert!(d_bias <= 4.0 * limit, "{name}: gradient of the bias is off by {d_bias:e}");
                }
            }
        }
    }
}

/// The parts of a shifted map by the official code: regions of the map that was rolled back, cut at the last window and at
/// the shift.
fn region([row, column]: [usize; 2], windows: Windows) -> [usize; 2] {
    let cut = |at: usize, axis: usize| {
        let (size, window, shift) = (windows.grid[axis], windows.window[axis], windows.shift[axis]);
        let at = (at + size - shift) % size; // where the token is after the roll
        usize::from(at >= size - window) + usize::from(shift > 0 && at >= size - shift)
    };
    [cut(row, 0), cut(column, 1)]
}

/// One number per token: each attends to the tokens of its window, by the definition.
#[test]
fn the_definition_is_that_of_a_loop() {
    let (device, _) = devices();
    for (windows, _) in cases() {
        let [h, w] = windows.grid;
        let (qkv, bias) = inputs(windows, [1, 1, 1], Some(1), &device, DType::F64);
        let (numbers, biases, n) = (values(&qkv), values(&bias.clone().unwrap()), windows.tokens());
        let found = values(&window_attention_reference(qkv, windows, 1, 0.5, bias));
        let window_of = |token: usize| {
            let at = [token / w, token % w];
            let rolled = [0, 1].map(|i| (at[i] + windows.grid[i] - windows.shift[i]) % windows.grid[i]);
            let place = [0, 1].map(|i| rolled[i] % windows.window[i]);
            ([0, 1].map(|i| rolled[i] / windows.window[i]), place[0] * windows.window[1] + place[1])
        };
        for (query, found) in found.iter().enumerate() {
            let (window, row) = window_of(query);
            let (mut sum, mut context) = (0.0, 0.0);
            for key in (0..h * w).filter(|&key| window_of(key).0 == window) {
                let is_apart = windows.is_shifted()
                    && region([query / w, query % w], windows) != region([key / w, key % w], windows);
                let mask = if is_apart { -100.0 } else { 0.0 };
                let score = 0.5 * numbers[3 * query] * numbers[3 * key + 1];
                let weight = (score + biases[row * n + window_of(key).1] + mask).exp();
                (sum, context) = (sum + weight, context + weight * numbers[3 * key + 2]);
            }
            assert!((found - context / sum).abs() < 1e-12, "{windows:?}, token {query}");
        }
    }
}

/// Types without a fast path compute the same in ordinary operations, with gradients.
#[test]
fn half_precision_in_windows() {
    let (device, _) = devices();
    for (windows, sizes) in cases() {
        let [b, a, e] = sizes;
        let (qkv, bias) = inputs(windows, sizes, Some(a), &device, DType::F32);
        let [tokens, d] = [qkv.dims()[1], a * e];
        let w = random([b, tokens, d], 1.0, 7, &device, DType::F32);
        let op = |qkv, bias| window_attention(qkv, windows, a, 0.3, bias);
        let full = with_gradients(op, qkv.clone(), bias.clone(), &w);
        let [qkv, w] = [qkv, w].map(|x| x.cast(DType::BF16));
        let half = with_gradients(op, qkv, bias.map(|bias| bias.cast(DType::BF16)), &w);
        assert_eq!(half.0.dtype(), DType::BF16);
        assert!(distance(&half.0.cast(DType::F32), &full.0) < 3e-2, "{windows:?}");
        assert!(distance(&half.1.cast(DType::F32), &full.1) < 6e-2, "{windows:?}");
        assert!(distance(&half.2.unwrap().cast(DType::F32), &full.2.unwrap()) < 6e-2, "{windows:?}");
    }
}

#[test]
fn one_thread_and_many_give_the_same_bits_in_windows() {
    let (device, _) = devices();
    let windows = windows([28, 28], [7, 7], [3, 3]);
    let (qkv, bias) = inputs(windows, [3, 3, 16], Some(3), &device, DType::F32);
    let w = random([3, 784, 48], 1.0, 3, &device, DType::F32);
    let run = |threads| {
        let (qkv, bias, w) = (qkv.clone(), bias.clone(), w.clone());
        with_threads(threads, move || {
            let op = |qkv, bias| window_attention(qkv, windows, 3, 0.25, bias);
            let (y, d_qkv, d_bias) = with_gradients(op, qkv, bias, &w);
            (values(&y), values(&d_qkv), d_bias.map(|d| values(&d)))
        })
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn no_images_no_windows() {
    let device = Device::flex();
    let qkv = Tensor::zeros([0, 16, 12], &device);
    assert_eq!(window_attention(qkv, windows([4, 4], [2, 2], [1, 1]), 2, 1.0, None).dims(), [0, 16, 4]);
}

#[test]
#[should_panic(expected = "windows [3, 2] do not divide a map of [4, 4]")]
fn windows_must_divide_the_map() {
    let qkv = Tensor::zeros([1, 16, 12], &Device::flex());
    window_attention(qkv, windows([4, 4], [3, 2], [0, 0]), 2, 1.0, None);
}

#[test]
#[should_panic(expected = "a shift of [2, 0] is not less than the window [2, 2]")]
fn the_shift_is_less_than_the_window() {
    let qkv = Tensor::zeros([1, 16, 12], &Device::flex());
    window_attention(qkv, windows([4, 4], [2, 2], [2, 0]), 2, 1.0, None);
}

#[test]
#[should_panic(expected = "the bias must be [1 or 1, 1 or 2, 4, 4]")]
fn the_bias_is_that_of_a_window() {
    let device = Device::flex();
    let (qkv, bias) = (Tensor::zeros([1, 16, 12], &device), Tensor::zeros([1, 2, 16, 16], &device));
    window_attention(qkv, windows([4, 4], [2, 2], [0, 0]), 2, 1.0, Some(bias));
}
