//! The walk from the input to the answer: shape, parameters and multiplications of every layer, from the
//! configuration.
//!
//! Counts are `u64`. The limits of [`Config::validate`](super::Config::validate) keep parameters far below its
//! maximum; multiply-accumulates saturate.

use serde::Serialize;

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

/// A count in `u64`.
pub fn long(n: usize) -> u64 {
    n as u64
}

/// Multiply-accumulates of `[rows, inner] · [inner, columns]`.
pub fn product(rows: u64, inner: u64, columns: u64) -> u64 {
    rows.saturating_mul(inner).saturating_mul(columns)
}
