//! The walk from the input to the answer: shape, parameters and multiplications of every layer, from the
//! configuration.
//!
//! Counts are `u64`. The limits of [`Config::validate`](super::Config::validate) keep parameters far below its
//! maximum; multiply-accumulates saturate.

use serde::Serialize;

use crate::layers::block::BlockConfig;

/// One step of the walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// timm's module name, or what is computed.
    pub name: String,
    /// What happens, in the paper's letters.
    pub what: String,
    /// Shape of the result for one image.
    pub shape: Vec<usize>,
    /// Parameters of the step.
    pub params: u64,
    /// Multiply-accumulates of products and convolutions for one image. Norms, activations and additions are not
    /// counted, as in timm's tables.
    pub macs: u64,
    /// Number of times the step occurs in the model: repeated blocks are listed once.
    pub repeat: usize,
}

/// A walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Walk {
    /// In the order of the network.
    pub steps: Vec<Step>,
    /// Parameters of the whole model.
    pub params: u64,
    /// Multiply-accumulates of the whole model for one image.
    pub macs: u64,
    /// Multiply-accumulates that logits and embedding need: the last block computes only the tokens that the head
    /// reads.
    pub macs_read: u64,
    /// A lower bound on the values that a forward pass of one image holds at a time, beside the parameters.
    pub held: u64,
}

impl Walk {
    /// The walk of these steps. The head does not need `unread` of their multiply-accumulates.
    pub fn new(steps: Vec<Step>, unread: u64, held: u64) -> Self {
        let total = |of: fn(&Step) -> u64| {
            let all = steps.iter().map(|step| of(step).saturating_mul(long(step.repeat)));
            all.fold(0, u64::saturating_add)
        };
        let (params, macs) = (total(|step| step.params), total(|step| step.macs));
        Self { steps, params, macs, macs_read: macs.saturating_sub(unread), held }
    }
}

/// A list of steps under construction.
#[derive(Clone, Debug, Default)]
pub struct Steps(pub Vec<Step>);

impl Steps {
    /// Adds a step that occurs once in the model.
    pub fn add(&mut self, name: &str, what: String, shape: &[u64], params: u64, macs: u64) {
        let shape = shape.iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
        self.0.push(Step { name: name.into(), what, shape, params, macs, repeat: 1 });
    }
}

impl Steps {
    /// The steps of a [`Block`](crate::layers::block::Block) of this name on so many tokens. Its norms stand before its
    /// branches; it has no other norms, no gains, two layers in its MLP, and no bias on the scores.
    pub(crate) fn block(&mut self, name: &str, config: &BlockConfig, tokens: u64) {
        let attention = &config.attention;
        let [d, a, e, f] =
            [attention.dim, attention.num_heads, attention.head_dim, config.mlp.hidden].map(long);
        let (t, inner) = (tokens, a * e);
        let bias = |has: bool, width: u64| if has { width } else { 0 };
        let mut add = |layer: &str, what: String, shape: &[u64], params, macs| {
            self.add(&format!("{name}.{layer}"), what, shape, params, macs);
        };
        add("norm1", "LayerNorm".into(), &[t, d], 2 * d, 0);
        add(
            "attn.qkv",
            format!("q, k, v: {a} heads of {e} each"),
            &[3, a, t, e],
            3 * d * inner + bias(attention.qkv_bias, 3 * inner),
            product(t, d, 3 * inner),
        );
        let scale = match attention.scale {
            Some(scale) => format!("softmax(q·kᵀ · {scale:.4})"),
            None => "softmax(q·kᵀ / √E)".into(),
        };
        add("attn.scores", scale, &[a, t, t], 0, product(t, inner, t));
        add("attn.context", "scores · v, heads side by side".into(), &[t, inner], 0, product(t, t, inner));
        add(
            "attn.proj",
            format!("linear {inner} → {d}"),
            &[t, d],
            inner * d + bias(attention.proj_bias, d),
            product(t, inner, d),
        );
        add("norm2", "LayerNorm".into(), &[t, d], 2 * d, 0);
        let mlp_bias = |width| bias(attention.proj_bias, width);
        add("mlp.fc1", format!("linear {d} → {f}"), &[t, f], d * f + mlp_bias(f), product(t, d, f));
        add("mlp.fc2", format!("linear {f} → {d}"), &[t, d], f * d + mlp_bias(d), product(t, f, d));
    }
}

/// Multiply-accumulates that a block of this name saves if only `read` of its tokens are read: all other queries and
/// their MLP.
pub(crate) fn unread(steps: &[Step], block: &str, tokens: u64, read: u64) -> u64 {
    let gated = format!("mlp.{GATED}");
    let by_query = [
        "attn.scores",
        "attn.context",
        "attn.proj",
        "mlp.fc1",
        &gated,
        "mlp.fc2",
        "attn_out_proj",
        "mlp_out_proj",
        "out_proj",
    ];
    let of_block = |step: &&Step| {
        let layer = step.name.strip_prefix(block).and_then(|rest| rest.strip_prefix('.'));
        // Branches side by side have their own names in front.
        let branch = |layer: &str| layer.splitn(3, '.').nth(2).map(str::to_string);
        layer.is_some_and(|layer| {
            by_query.contains(&layer) || branch(layer).is_some_and(|layer| by_query.contains(&layer.as_str()))
        })
    };
    let saved = |step: &Step| step.macs / tokens * tokens.saturating_sub(read);
    steps.iter().filter(of_block).map(saved).fold(0, u64::saturating_add)
}

/// The step of an MLP's two gated layers.
pub(crate) const GATED: &str = "fc1_g, fc1_x";

/// The values of a block at a time: tokens in and out, and the wider of query, key and value and the MLP's hidden layer.
pub(crate) fn held_by_block(config: &BlockConfig, tokens: u64) -> u64 {
    let [d, f] = [config.attention.dim, config.mlp.hidden].map(long);
    let inner = long(config.attention.num_heads * config.attention.head_dim);
    tokens.saturating_mul(2 * d + (3 * inner).max(f))
}

/// A count in `u64`.
pub fn long(n: usize) -> u64 {
    n as u64
}

/// Multiply-accumulates of `[rows, inner] · [inner, columns]`.
pub fn product(rows: u64, inner: u64, columns: u64) -> u64 {
    rows.saturating_mul(inner).saturating_mul(columns)
}
