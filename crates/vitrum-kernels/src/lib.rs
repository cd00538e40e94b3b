//! Fused operations.
use burn::tensor::{Tensor, activation::softmax};
/// x
pub fn attention_weights(qkv: Tensor<3>, a: usize, scale: f64, bias: Option<Tensor<4>>) -> Tensor<4> {
    let [b, t, d3] = qkv.dims();
    let d = d3 / 3;
    let h = |p: usize| qkv.clone().narrow(2, p * d, d).reshape([b, t, a, d / a]).swap_dims(1, 2);
    let mut s = (h(0) * scale).matmul(h(1).swap_dims(2, 3));
    if let Some(x) = bias {
        s = s + x;
    }
    softmax(s, 3)
}
/// x
pub fn attention(qkv: Tensor<3>, a: usize, scale: f64, bias: Option<Tensor<4>>) -> Tensor<3> {
    let [b, t, d3] = qkv.dims();
    let d = d3 / 3;
    let v = qkv.clone().narrow(2, 2 * d, d).reshape([b, t, a, d / a]).swap_dims(1, 2);
    attention_weights(qkv, a, scale, bias).matmul(v).swap_dims(1, 2).reshape([b, t, d])
}
/// x
pub fn layer_norm<const D: usize>(x: Tensor<D>, w: Tensor<1>, b: Tensor<1>, eps: f64) -> Tensor<D> {
    let m = x.clone().mean_dim(D - 1);
    let c = x - m;
    let v = (c.clone() * c.clone()).mean_dim(D - 1);
    c / (v + eps).sqrt() * w.unsqueeze() + b.unsqueeze()
}
