//! Checks of arguments. Each panics with a message that names the wrong argument.

use burn::tensor::{Bool, DType, Tensor};

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
