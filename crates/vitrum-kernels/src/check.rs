//! Checks of arguments. Each panics with a message that names the wrong argument.

use burn::tensor::{Bool, DType, Tensor};

use crate::attention::Windows;
use crate::conv::ConvForm;
use crate::functions::Folding;
use crate::map_norm::MapNorm;

/// Panics unless the arguments fit layer normalisation.
pub(crate) fn check_layer_norm<const R: usize>(x: &Tensor<R>, weight: &Tensor<1>, bias: Option<&Tensor<1>>) {
    let d = x.dims()[R - 1];
    for (name, tensor) in [("weight", Some(weight)), ("bias", bias)] {
        let Some(tensor) = tensor else { continue };
        assert_eq!(tensor.dims(), [d], "layer_norm: the {name} must have the {d} entries of x's last axis");
        assert_eq!(tensor.dtype(), x.dtype(), "layer_norm: {name} and x differ in type");
    }
}

/// Panics unless the arguments fit a linear layer.
pub(crate) fn check_linear<const R: usize>(
    name: &str,
    x: &Tensor<R>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
) {
    check_layer(name, x.dims()[R - 1], x.dtype(), weight, bias);
}

/// Panics unless weight and bias fit an input of `k` columns.
pub(crate) fn check_layer(name: &str, k: usize, dtype: DType, weight: &Tensor<2>, bias: Option<&Tensor<1>>) {
    let [rows, n] = weight.dims();
    assert_eq!(rows, k, "{name}: the weight must have a row for each of the {k} columns of its input");
    assert_eq!(weight.dtype(), dtype, "{name}: weight and input differ in type");
    if let Some(bias) = bias {
        check_vector(name, "bias", bias, n, dtype);
    }
}

/// Panics unless the arguments fit a projection of patches.
pub(crate) fn check_patch_embed(images: &Tensor<4>, weight: &Tensor<4>, bias: Option<&Tensor<1>>) {
    let [d, c, p, q] = weight.dims();
    assert!(p > 0 && q > 0, "patch_embed: a patch of {p} by {q} pixels");
    assert_eq!(images.dims()[1], c, "patch_embed: images must have the {c} channels of the weight");
    assert_eq!(weight.dtype(), images.dtype(), "patch_embed: weight and images differ in type");
    if let Some(bias) = bias {
        check_vector("patch_embed", "bias", bias, d, images.dtype());
    }
}

/// Panics unless residual and gamma fit a layer with `n` outputs.
pub(crate) fn check_residual<const R: usize>(
    name: &str,
    x: &Tensor<R>,
    n: usize,
    residual: &Tensor<R>,
    gamma: Option<&Tensor<1>>,
) {
    let mut shape = x.dims();
    shape[R - 1] = n;
    assert_eq!(residual.dims(), shape, "{name}: the residual must be like the layer's output");
    assert_eq!(residual.dtype(), x.dtype(), "{name}: residual and x differ in type");
    if let Some(gamma) = gamma {
        check_vector(name, "gamma", gamma, n, x.dtype());
    }
}

fn check_vector(name: &str, what: &str, vector: &Tensor<1>, n: usize, dtype: DType) {
    assert_eq!(vector.dims(), [n], "{name}: the {what} must have the {n} entries of the layer's output");
    assert_eq!(vector.dtype(), dtype, "{name}: {what} and x differ in type");
}

/// Panics unless a weight `[rows, _]` fits an input of `k` columns.
pub(crate) fn check_input(name: &str, k: usize, [rows, _]: [usize; 2]) {
    assert_eq!(rows, k, "{name}: the weight must have a row for each of the {k} columns of its input");
}

/// Panics unless the arguments fit attention over a packed projection.
pub(crate) fn check_attention(qkv: &Tensor<3>, num_heads: usize, bias: Option<&Tensor<4>>) {
    let [b, t, d3] = qkv.dims();
    assert!(
        num_heads > 0 && d3.is_multiple_of(3 * num_heads),
        "attention: qkv of shape [{b}, {t}, {d3}] does not hold q, k and v of {num_heads} heads"
    );
    check_bias(bias, [b, num_heads, t, t], qkv.dtype());
}

pub(crate) fn check_first(qkv: &Tensor<3>, queries: usize, num_heads: usize, bias: Option<&Tensor<4>>) {
    check_attention(qkv, num_heads, bias);
    let tokens = qkv.dims()[1];
    assert!(queries <= tokens, "attention: {queries} queries of {tokens} tokens");
}

/// Panics unless the arguments fit attention within windows.
pub(crate) fn check_windows(qkv: &Tensor<3>, windows: Windows, num_heads: usize, bias: Option<&Tensor<4>>) {
    let Windows { grid, window, shift } = windows;
    check_attention(qkv, num_heads, None);
    let divides = [0, 1].map(|axis| window[axis] > 0 && grid[axis].is_multiple_of(window[axis]));
    assert_eq!(divides, [true; 2], "attention: windows {window:?} do not divide a map of {grid:?}");
    let is_less = [0, 1].map(|axis| shift[axis] < window[axis]);
    assert_eq!(is_less, [true; 2], "attention: a shift of {shift:?} is not less than the window {window:?}");
    let tokens = grid[0].checked_mul(grid[1]);
    assert_eq!(tokens, Some(qkv.dims()[1]), "attention: a map of {grid:?} must have as many tokens");
    let n = windows.tokens();
    check_bias(bias, [1, num_heads, n, n], qkv.dtype());
}

/// Panics unless the arguments fit cross attention.
pub(crate) fn check_cross(
    [q, k, v]: [&Tensor<3>; 3],
    num_heads: usize,
    bias: Option<&Tensor<4>>,
    mask: Option<&Tensor<2, Bool>>,
) {
    let ([b, queries, d], [_, keys, _]) = (q.dims(), k.dims());
    assert!(
        num_heads > 0 && d.is_multiple_of(num_heads),
        "attention: q of shape {:?} does not hold {num_heads} heads",
        q.dims()
    );
    assert!(k.dims() == [b, keys, d], "attention: k must be [{b}, K, {d}] as q is, found {:?}", k.dims());
    let [v_b, v_keys, width] = v.dims();
    assert!(
        v_b == b && v_keys == keys && width.is_multiple_of(num_heads),
        "attention: v must be [{b}, {keys}, V] of {num_heads} heads, found {:?}",
        v.dims()
    );
    for (name, tensor) in [("k", k), ("v", v)] {
        assert_eq!(tensor.dtype(), q.dtype(), "attention: {name} and q differ in type");
    }
    check_bias(bias, [b, num_heads, queries, keys], q.dtype());
    check_mask(mask, [b, keys]);
}

fn check_bias(bias: Option<&Tensor<4>>, [b, a, queries, keys]: [usize; 4], dtype: DType) {
    let Some(bias) = bias else { return };
    let [n, bias_a, rows, columns] = bias.dims();
    let divides = n == b || n > 0 && b.is_multiple_of(n);
    assert!(
        divides && (bias_a == 1 || bias_a == a) && rows == queries && columns == keys,
        "attention: the bias must be [1 or {b}, 1 or {a}, {queries}, {keys}], or its first axis divide {b}, found {:?}",
        bias.dims()
    );
    assert_eq!(bias.dtype(), dtype, "attention: bias and projections differ in type");
}

pub(crate) fn check_mask(mask: Option<&Tensor<2, Bool>>, shape: [usize; 2]) {
    let Some(mask) = mask else { return };
    assert_eq!(
        mask.dims(),
        shape,
        "attention: the key padding mask must have a flag for each key of each entry"
    );
}

/// Panics unless the arguments fit a convolution with a kernel `[kh, kw, C / groups, N]`.
pub(crate) fn check_conv(
    name: &str,
    x: &Tensor<3>,
    weight: [usize; 4],
    dtype: DType,
    bias: Option<&Tensor<1>>,
    form: &ConvForm,
) {
    let [kh, kw, c, n] = weight;
    check_maps(name, x, n, form);
    assert_eq!(form.kernel, [kh, kw], "{name}: the form and the kernel differ in size");
    let (groups, channels) = (form.groups, x.dims()[2]);
    assert!(groups > 0 && n.is_multiple_of(groups), "{name}: {n} channels of the result in {groups} groups");
    assert!(
        c.checked_mul(groups) == Some(channels),
        "{name}: maps must have the channels of the kernel, {c} in each of {groups} groups, found {channels}"
    );
    assert_eq!(dtype, x.dtype(), "{name}: kernel and maps differ in type");
    if let Some(bias) = bias {
        check_vector(name, "bias", bias, n, x.dtype());
    }
}

/// The largest number of a form, so that sums and products of two of them fit in any `usize` of 64 bits.
const LARGEST: usize = 1 << 24;

/// Panics unless the maps have the size of the form, and the window fits on them. The result has `n` channels.
fn check_maps(name: &str, x: &Tensor<3>, n: usize, form: &ConvForm) {
    let ConvForm { grid, kernel, stride, before, after, dilation, .. } = *form;
    let all = [grid, kernel, stride, before, after, dilation];
    assert!(all.iter().flatten().all(|&n| n <= LARGEST), "{name}: a number above {LARGEST}: {form:?}");
    let [b, pixels, c] = x.dims();
    let padded = [0, 1].map(|axis| grid[axis] + before[axis] + after[axis]);
    let numbers = [b, padded[0], padded[1], c.max(n)].iter().try_fold(1, |all: usize, &n| all.checked_mul(n));
    assert!(numbers.is_some(), "{name}: more numbers than fit in memory: {form:?}");
    let [h, w] = grid;
    assert_eq!(pixels, h * w, "{name}: maps must have {h} x {w} pixels");
    let all = [kernel, stride, dilation];
    assert!(all.iter().flatten().all(|&n| n > 0), "{name}: a kernel, step or distance of 0: {form:?}");
    assert!(!form.out().contains(&0), "{name}: the kernel does not fit on padded maps: {form:?}");
}

/// Panics unless the folding fits the result of a convolution with `n` channels.
pub(crate) fn check_fold(name: &str, x: &Tensor<3>, n: usize, form: &ConvForm, folding: &Folding) {
    for (what, vector) in [("scale", &folding.scale), ("shift", &folding.shift)] {
        if let Some(vector) = vector {
            check_vector(name, what, vector, n, x.dtype());
        }
    }
    if let Some(residual) = &folding.residual {
        let [rows, columns] = form.out();
        assert_eq!(
            residual.dims(),
            [x.dims()[0], rows * columns, n],
            "{name}: the residual must be like the result"
        );
        assert_eq!(residual.dtype(), x.dtype(), "{name}: residual and maps differ in type");
    }
}

/// Panics unless the window fits on the maps and always meets a pixel.
pub(crate) fn check_pool(x: &Tensor<3>, form: &ConvForm) {
    check_maps("pool", x, x.dims()[2], form);
    assert_eq!(form.dilation, [1, 1], "pool: windows have no dilation");
    let meets = |axis: usize| {
        let last = (form.out()[axis] - 1) * form.stride[axis];
        let (size, before) = (form.grid[axis], form.before[axis]);
        size > 0 && before < form.extent(axis) && last < size + before
    };
    assert!(meets(0) && meets(1), "pool: a window can lie outside the maps: {form:?}");
}

/// Panics unless the arguments fit a norm of maps.
pub(crate) fn check_map_norm<const R: usize>(
    x: &Tensor<R>,
    weight: Option<&Tensor<1>>,
    bias: Option<&Tensor<1>>,
    residual: Option<&Tensor<R>>,
    norm: &MapNorm,
) {
    let name = if norm.groups.is_some() { "group_norm" } else { "batch_norm" };
    let c = x.dims()[R - 1];
    for (what, vector) in [("weight", weight), ("bias", bias)] {
        if let Some(vector) = vector {
            check_vector(name, what, vector, c, x.dtype());
        }
    }
    if let Some(residual) = residual {
        assert_eq!(residual.dims(), x.dims(), "{name}: the residual must be like x");
        assert_eq!(residual.dtype(), x.dtype(), "{name}: residual and x differ in type");
    }
    if let Some(groups) = norm.groups {
        assert!(R > 1, "{name}: maps must be [B, .., C]");
        assert!(c > 0 && groups > 0 && c.is_multiple_of(groups), "{name}: {c} channels in {groups} groups");
    }
}

/// Panics unless the arguments fit a gate.
pub(crate) fn check_gate(x: &Tensor<3>, scale: &Tensor<2>, shift: Option<&Tensor<1>>) {
    let [b, _, c] = x.dims();
    assert_eq!(scale.dims(), [b, c], "gate: the scale must have a number per map and channel");
    assert_eq!(scale.dtype(), x.dtype(), "gate: scale and x differ in type");
    if let Some(shift) = shift {
        check_vector("gate", "shift", shift, c, x.dtype());
    }
}

/// Panics unless the arguments fit heads of length 1.
pub(crate) fn check_unit_heads(qkv: &Tensor<3>, scale: &Tensor<1>) {
    let (width, heads) = (qkv.dims()[2], scale.dims()[0]);
    assert!(
        heads > 0 && width.is_multiple_of(3 * heads),
        "unit_heads: {width} numbers for three times {heads} heads"
    );
    assert_eq!(scale.dtype(), qkv.dtype(), "unit_heads: the scale and the tokens differ in type");
}
