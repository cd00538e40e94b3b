//! Tokens that are not patches: class and register tokens.

use burn::module::Param;
use burn::tensor::Tensor;

/// Prepends learned tokens, each `[1, n, D]`, to `[B, N, D]`, in the given order.
///
/// # Panics
/// If the tokens have another width.
pub fn prepend(x: Tensor<3>, tokens: &[Option<&Param<Tensor<3>>>]) -> Tensor<3> {
    let [b, _, d] = x.dims();
    let mut parts: Vec<Tensor<3>> = tokens
        .iter()
        .flatten()
        .map(|token| {
            let token = token.val();
            let n = token.dims()[1];
            token.expand([b, n, d])
        })
        .collect();
    if parts.is_empty() {
        return x;
    }
    parts.push(x);
    Tensor::cat(parts, 1)
}

/// Splits `[B, T, D]` into the first `prefix` tokens and the patches.
///
/// # Panics
/// If there are fewer than `prefix` tokens.
pub fn split(x: Tensor<3>, prefix: usize) -> (Option<Tensor<3>>, Tensor<3>) {
    let t = x.dims()[1];
    if prefix == 0 {
        return (None, x);
    }
    (Some(x.clone().narrow(1, 0, prefix)), x.narrow(1, prefix, t - prefix))
}
