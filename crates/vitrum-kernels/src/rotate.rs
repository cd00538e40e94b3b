//! Rotations of pairs of numbers by an angle for each token: rotary positions.

use rayon::prelude::*;

use crate::threads::WORTH_SPLITTING;

/// Rows per block.
const ROWS: usize = 32;

/// The form of a rotation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn {
    /// `T`: tokens of an image.
    pub tokens: usize,
    /// Numbers of a token.
    pub width: usize,
    /// Heads that turn, from the first one on.
    pub heads: usize,
    /// Numbers of a head.
    pub head: usize,
    /// Whether each head has factors of its own.
    pub own: bool,
    /// Whether a pair is `i` and `i + head / 2`; else it is `2i` and `2i + 1`.
    pub half: bool,
}

/// Turns the first heads of rows `[B, T, width]`; `cos` and `sin` are `[T, heads or 1, head]`.
pub(crate) fn forward(x: &[f32], cos: &[f32], sin: &[f32], turn: Turn) -> Vec<f32> {
    let mut y = x.to_vec();
    let block = (ROWS * turn.width).max(1);
    let work = |(index, rows): (usize, &mut [f32])| {
        for (row, numbers) in rows.chunks_exact_mut(turn.width).enumerate() {
            let token = (index * ROWS + row) % turn.tokens;
            turn.row(&mut numbers[..turn.heads * turn.head], cos, sin, token);
        }
    };
    match y.len() < WORTH_SPLITTING {
        true => y.chunks_mut(block).enumerate().for_each(work),
        false => y.par_chunks_mut(block).enumerate().for_each(work),
    }
    y
}

impl Turn {
    fn row(&self, numbers: &mut [f32], cos: &[f32], sin: &[f32], token: usize) {
        let Self { heads, head, own, half, .. } = *self;
        let size = if own { heads * head } else { head };
        let (cos, sin) = (&cos[token * size..][..size], &sin[token * size..][..size]);
        for (index, x) in numbers.chunks_exact_mut(head).enumerate() {
            let at = if own { index * head } else { 0 };
            let (cos, sin) = (&cos[at..at + head], &sin[at..at + head]);
            if half {
                let (first, second) = x.split_at_mut(head / 2);
                let (cos1, cos2) = cos.split_at(head / 2);
                let (sin1, sin2) = sin.split_at(head / 2);
                for i in 0..head / 2 {
                    let (a, b) = (first[i], second[i]);
                    first[i] = a * cos1[i] + b * sin1[i];
                    second[i] = b * cos2[i] + a * sin2[i];
                }
            } else {
                let pairs = x.chunks_exact_mut(2).zip(cos.chunks_exact(2)).zip(sin.chunks_exact(2));
                for ((x, cos), sin) in pairs {
                    let (a, b) = (x[0], x[1]);
                    x[0] = a * cos[0] + b * sin[0];
                    x[1] = b * cos[1] + a * sin[1];
                }
            }
        }
    }
}
