//! The walk from the input to the answer: shape, parameters and multiplications of every layer, from the configuration
//! alone.
//!
//! Counted in `u64`. The bounds that [`Config::validate`](super::Config::validate) sets keep parameters far below its end;
//! multiply-accumulates stop at the end.

use serde::Serialize;

/// One step of the walk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// timm's module name, or what is computed.
    pub name: String,
    /// What happens, in the letters of the paper.
    pub what: String,
    /// Shape of the result for one image.
    pub shape: Vec<usize>,
    /// Parameters of the step.
    pub params: u64,
    /// Multiply-accumulates of products and convolutions for one image; norms, activations and
    /// additions are not counted (the convention of timm's tables).
    pub macs: u64,
    /// How many times the step stands in the model: blocks are written once.
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
    /// Those of them that logits and embedding need: the last block is computed as far as the head reads it.
    pub macs_read: u64,
    /// Values that a pass over one image holds at a time at least, beside the parameters. A low bound.
    pub held: u64,
}

impl Walk {
    /// The walk of these steps, which the head reads but for `unread` multiply-accumulates.
    pub fn new(steps: Vec<Step>, unread: u64, held: u64) -> Self {
        let total = |of: fn(&Step) -> u64| {
            let all = steps.iter().map(|step| of(step).saturating_mul(long(step.repeat)));
            all.fold(0, u64::saturating_add)
        };
        let (params, macs) = (total(|step| step.params), total(|step| step.macs));
        Self { steps, params, macs, macs_read: macs.saturating_sub(unread), held }
    }
}

/// Steps as they are added.
#[derive(Clone, Debug, Default)]
pub struct Steps(pub Vec<Step>);

impl Steps {
    /// One more step, which stands once in the model.
    pub fn add(&mut self, name: &str, what: String, shape: &[u64], params: u64, macs: u64) {
        let shape = shape.iter().map(|&n| usize::try_from(n).unwrap_or(usize::MAX)).collect();
        self.0.push(Step { name: name.into(), what, shape, params, macs, repeat: 1 });
    }
}

/// A count in `u64`.
pub fn long(n: usize) -> u64 {
    n as u64
}

/// Multiply-accumulates of `[rows, inner] · [inner, columns]`.
pub fn product(rows: u64, inner: u64, columns: u64) -> u64 {
    rows.saturating_mul(inner).saturating_mul(columns)
}
