//! Attention within windows: by products (Swin) and by angles (Swin V2, in two forms).

use burn::module::{Module, Param};
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Tensor, TensorData};

use crate::layers::drop::{dropout, training};
use crate::layers::kept::Kept;
use crate::layers::names::Flat;
use crate::layers::observe::Observer;
use crate::layers::position::{OffsetMlp, pairs};
use crate::layers::qkv::FusedQkv;
use crate::layers::window::{Windows, window_attention, window_attention_weights};
use crate::layers::{Linear, parameter};
use crate::models::shapes::{long, product};

/// Hidden width of the network of position biases.
const POSITION_WIDTH: usize = 512;
/// The same of timm's own form.
pub(in crate::models) const META_WIDTH: usize = 384;

/// How scores are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScoreForm {
    /// By products.
    Product,
    /// By angles. Positions are relative to windows of these rows and columns.
    Cosine([usize; 2]),
    /// By angles, with timm's own network of biases. The number is the dropout of its hidden layer.
    Meta(f64),
}

/// How a [`WindowAttention`] is built.
#[derive(Clone, Copy, Debug)]
pub struct WindowAttentionConfig {
    /// `D`.
    pub dim: usize,
    /// `A`.
    pub num_heads: usize,
    /// `E`.
    pub head_dim: usize,
    /// Rows and columns of a window.
    pub window: [usize; 2],
    /// How scores are computed.
    pub scores: ScoreForm,
    /// Whether the projection has a bias.
    pub qkv_bias: bool,
    /// Dropout on the attention weights.
    pub attn_drop: f64,
    /// Dropout after the output projection.
    pub proj_drop: f64,
}

/// Attention within windows, then a projection.
#[derive(Module, Debug)]
pub struct WindowAttention {
    /// `D -> 3·A·E`: queries of all heads, then keys, then values.
    pub qkv: Flat<FusedQkv>,
    /// What the scores need.
    pub scores: Flat<Scores>,
    /// `A·E -> D`.
    pub proj: Linear,
    /// The bias, of a prepared model.
    #[module(skip)]
    pub(in crate::models) kept: Kept,
    #[module(skip)]
    config: WindowAttentionConfig,
}

/// The parameters of the scores.
// The size of a variant does not matter: some dozens exist at most, beside megabytes of weights.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub enum Scores {
    /// `q kᵀ / sqrt(E) + bias`.
    Product(ProductScores),
    /// `exp(s) · cos(q, k) + bias`.
    Cosine(CosineScores),
    /// The same with another network of biases.
    Meta(MetaScores),
}

/// A bias per offset and head.
#[derive(Module, Debug)]
pub struct ProductScores {
    /// `[(2H - 1)(2W - 1), A]`, for windows of H x W.
    pub relative_position_bias_table: Param<Tensor<2>>,
}

/// A scale per head, and a bias that a network computes from the offset.
#[derive(Module, Debug)]
pub struct CosineScores {
    /// Logarithm of the scale, `[A, 1, 1]`; at most ln 100 acts.
    pub logit_scale: Param<Tensor<3>>,
    /// From an offset to a bias per head.
    pub cpb_mlp: PositionMlp,
    origin: [usize; 2],
}

/// A scale per head, and a bias from timm's own network. Queries, keys and values have their biases in the projection.
#[derive(Module, Debug)]
pub struct MetaScores {
    /// Logarithm of the scale, `[A]`; at most ln 100 acts.
    pub logit_scale: Param<Tensor<1>>,
    /// From an offset to a bias per head.
    pub meta_mlp: OffsetMlp,
    drop: f64,
}

/// `2 -> 512 -> A`. Field names are places in torch's `Sequential`.
#[derive(Module, Debug)]
pub struct PositionMlp {
    /// `2 -> 512`.
    pub _0: Linear,
    /// `512 -> A`, without a bias.
    pub _2: Linear,
}

impl WindowAttentionConfig {
    /// Parameters of the projection `qkv` outside its matrix.
    pub(in crate::models) fn qkv_biases(&self) -> usize {
        let inner = self.num_heads * self.head_dim;
        match self.scores {
            _ if !self.qkv_bias => 0,
            ScoreForm::Cosine(_) => 2 * inner, // the keys have none
            ScoreForm::Product | ScoreForm::Meta(_) => 3 * inner,
        }
    }

    /// Parameters of the scores, and the multiplications for their biases. timm's own network runs for every pair of
    /// positions, the others for every offset.
    pub(in crate::models) fn bias_costs(&self) -> [u64; 2] {
        let (heads, [h, w]) = (self.num_heads, self.window);
        let offsets = (2 * h - 1) * (2 * w - 1);
        match self.scores {
            ScoreForm::Product => [long(offsets * heads), 0],
            ScoreForm::Cosine(_) => {
                let matrices = POSITION_WIDTH * (2 + heads);
                [long(matrices + POSITION_WIDTH + heads), product(long(offsets), long(matrices), 1)]
            }
            ScoreForm::Meta(_) => {
                let (matrices, area) = (META_WIDTH * (2 + heads), long(h * w));
                [long(matrices + META_WIDTH + 2 * heads), product(area, area, long(matrices))]
            }
        }
    }
}

impl WindowAttention {
    /// A layer of zeros.
    pub(super) fn new(config: WindowAttentionConfig, device: &Device) -> Self {
        let WindowAttentionConfig { dim, num_heads, head_dim, window: [h, w], qkv_bias, .. } = config;
        let inner = num_heads * head_dim;
        let scores = match config.scores {
            ScoreForm::Product => Scores::Product(ProductScores {
                relative_position_bias_table: parameter([(2 * h - 1) * (2 * w - 1), num_heads], device),
            }),
            ScoreForm::Cosine(origin) => Scores::Cosine(CosineScores {
                logit_scale: parameter([num_heads, 1, 1], device),
                cpb_mlp: PositionMlp {
                    _0: Linear::new(2, POSITION_WIDTH, true, device),
                    _2: Linear::new(POSITION_WIDTH, num_heads, false, device),
                },
                origin,
            }),
            ScoreForm::Meta(drop) => Scores::Meta(MetaScores {
                logit_scale: parameter([num_heads], device),
                meta_mlp: OffsetMlp::new(META_WIDTH, num_heads, device),
                drop,
            }),
        };
        let has_key_bias = !matches!(config.scores, ScoreForm::Cosine(_));
        Self {
            qkv: Flat::new(FusedQkv::new(dim, inner, qkv_bias, has_key_bias, device)),
            scores: Flat::new(scores),
            proj: Linear::new(inner, dim, true, device),
            kept: Kept::default(),
            config,
        }
    }

    /// Maps `[B, H·W, D] -> [B, H·W, D]`.
    pub fn forward(&self, x: Tensor<3>, windows: &Windows, watch: &mut dyn Observer) -> Tensor<3> {
        let context = self.context(self.qkv.forward(x), windows, watch); // [B, H·W, A·E]
        dropout(self.proj.forward(context), self.config.proj_drop)
    }

    /// The part between the projections `qkv` and `proj`: `[B, H·W, 3·A·E] -> [B, H·W, A·E]`.
    pub(super) fn context(&self, qkv: Tensor<3>, windows: &Windows, watch: &mut dyn Observer) -> Tensor<3> {
        let WindowAttentionConfig { num_heads, head_dim, attn_drop, .. } = self.config;
        let nothing = Tensor::zeros([1, 1, qkv.dims()[2]], (&qkv.device(), qkv.dtype()));
        // timm pads before the projection, so a padded position holds the bias.
        let padding = (!windows.divide()).then(|| self.qkv.bias().map_or(nothing, Tensor::unsqueeze::<3>));
        let bias = self.kept.get(windows.window, || match &*self.scores {
            Scores::Product(scores) => pairs(scores.relative_position_bias_table.val(), windows.window, 0),
            Scores::Cosine(scores) => scores.bias(windows.window),
            Scores::Meta(MetaScores { meta_mlp, drop, .. }) => meta_mlp.bias(windows.window, *drop),
        }); // [1, A, N, N]
        let scales = match &*self.scores {
            Scores::Product(_) => None,
            Scores::Cosine(scores) => Some(scores.logit_scale.val().flatten(0, 2)),
            Scores::Meta(scores) => Some(scores.logit_scale.val()),
        }; // [A]
        let (qkv, padding, scale) = match scales {
            None => (qkv, padding, (head_dim as f64).powf(-0.5)),
            Some(scales) => {
                let scales = scales.clamp_max(100f64.ln()).exp();
                let of = |qkv| vitrum_kernels::unit_heads(qkv, scales.clone());
                (of(qkv), padding.map(of), 1.0)
            }
        };
        let bias = Some(bias.squeeze_dim(0)); // [A, N, N]
        let padding = padding.map(|padding| padding.flatten(0, 2)); // [3·A·E]
        let drops = attn_drop > 0.0 && training(&qkv);
        if drops || watch.wants_attention(format_args!("weights")) {
            return window_attention_weights(qkv, windows, num_heads, scale, bias, padding, attn_drop, watch);
        }
        let rounds = self.qkv.qkv.rounds_attention(&qkv.device(), qkv.dtype());
        window_attention(qkv, windows, num_heads, scale, bias, padding, rounds)
    }
}

impl CosineScores {
    /// The bias of every pair of positions of a window, `[1, A, N, N]`: `16 σ(mlp(offset))`. Offsets are logarithms of
    /// shares of a window of `origin` rows and columns.
    fn bias(&self, window: [usize; 2]) -> Tensor<4> {
        let weight = self.cpb_mlp._0.weight.val();
        let offsets = log_shares(window, self.origin);
        let n = offsets.len() / 2;
        let x = Tensor::<2>::from_data(TensorData::new(offsets, [n, 2]), (&weight.device(), weight.dtype()));
        let table = self.cpb_mlp._2.forward(relu(self.cpb_mlp._0.forward(x))); // [offsets, A]
        pairs(sigmoid(table) * 16.0, window, 0)
    }
}

/// `sign(o) log₂(1 + |8 o|) / 3` of every offset, rows before columns, in f32 as in timm. The offset across the whole
/// window of `origin` is 1.
pub(crate) fn log_shares([h, w]: [usize; 2], origin: [usize; 2]) -> Vec<f64> {
    let side = |n: usize| 1 - n as i64..n as i64;
    let log = |offset: i64, origin: usize| {
        let share = offset.unsigned_abs() as f32 / origin.saturating_sub(1).max(1) as f32 * 8.0;
        let value = f64::from(share + 1.0).log2() as f32 / 3.0;
        f64::from(if offset < 0 { -value } else { value })
    };
    side(h).flat_map(|y| side(w).flat_map(move |x| [log(y, origin[0]), log(x, origin[1])])).collect()
}
