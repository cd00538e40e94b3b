//! Occlusion (Zeiler & Fergus 2013, arXiv:1311.2901): what the score of a class loses when a part of the image is hidden.

use burn::tensor::{Tensor, TensorData};

use super::gradient::Baseline;
use super::{ExplainError, Explainer, HeatMap, View};
use crate::Error;

/// How an image is hidden, part by part.
#[derive(Clone, Debug, PartialEq)]
pub struct OcclusionOptions {
    /// Rows and columns of the part, in pixels. `None`: a seventh of the image.
    pub window: Option<[usize; 2]>,
    /// Rows and columns from one part to the next. `None`: half of the part.
    pub stride: Option<[usize; 2]>,
    /// What is seen in place of the part.
    pub baseline: Baseline,
    /// Images of a pass.
    pub batch_size: usize,
}

impl Default for OcclusionOptions {
    fn default() -> Self {
        Self { window: None, stride: None, baseline: Baseline::Mean, batch_size: 32 }
    }
}

impl Explainer {
    /// What the logit of a class loses behind each pixel: the mean over the hidden parts that cover it. Parts begin at the
    /// upper left and go on until the image is covered; the last ones may lie partly outside.
    ///
    /// # Errors
    /// [`ExplainError::NoClasses`], [`ExplainError::NoClass`]; [`ExplainError::Range`] for an empty part, a stride of 0 or
    /// one that leaves gaps; [`ExplainError::Cancelled`] between two passes.
    pub fn occlusion(&self, view: &View, class: usize, options: &OcclusionOptions) -> Result<HeatMap, Error> {
        self.check_class(class)?;
        let [_, _, h, w] = view.pixels.dims();
        let window = options.window.unwrap_or([h.div_ceil(7), w.div_ceil(7)]);
        let stride = options.stride.unwrap_or(window.map(|side| side.div_ceil(2)));
        check(window, stride, [h, w], options.batch_size)?;
        let hidden = options.baseline.pixels(view, &self.preprocess)?;
        let whole = self.logits(view.pixels.clone())?[0][class];
        let starts = |axis: usize, length: usize| -> Vec<usize> {
            let count = length.saturating_sub(window[axis]).div_ceil(stride[axis]) + 1;
            (0..count).map(|at| at * stride[axis]).collect()
        };
        let columns = starts(1, w);
        let corners: Vec<[usize; 2]> =
            starts(0, h).into_iter().flat_map(|y| columns.iter().map(move |x| [y, *x])).collect();
        let (mut lost, mut times) = (vec![0.0f64; h * w], vec![0u32; h * w]);
        for corners in corners.chunks(options.batch_size) {
            let images = corners.iter().map(|corner| {
                let mask = mask(*corner, window, [h, w], view);
                view.pixels.clone() * (1.0 - mask.clone()) + hidden.clone() * mask
            });
            let logits = self.logits(Tensor::cat(images.collect(), 0))?;
            for ([top, left], logits) in corners.iter().zip(logits) {
                for y in *top..(top + window[0]).min(h) {
                    for x in *left..(left + window[1]).min(w) {
                        lost[y * w + x] += whole - logits[class];
                        times[y * w + x] += 1;
                    }
                }
            }
        }
        let mean = |(lost, times): (f64, u32)| (lost / f64::from(times.max(1))) as f32;
        Ok(HeatMap { grid: [h, w], values: lost.into_iter().zip(times).map(mean).collect() })
    }
}

/// 1 where the image is hidden, else 0, `[1, 1, H, W]`.
fn mask([top, left]: [usize; 2], window: [usize; 2], [h, w]: [usize; 2], view: &View) -> Tensor<4> {
    let is_in = |at: usize, start: usize, side: usize| (start..start + side).contains(&at);
    let value = |at: usize| is_in(at / w, top, window[0]) && is_in(at % w, left, window[1]);
    let values: Vec<f32> = (0..h * w).map(|at| if value(at) { 1.0 } else { 0.0 }).collect();
    let data = TensorData::new(values, [1, 1, h, w]);
    Tensor::from_data(data, (&view.pixels.device(), view.pixels.dtype()))
}

fn check(
    window: [usize; 2],
    stride: [usize; 2],
    size: [usize; 2],
    batch_size: usize,
) -> Result<(), ExplainError> {
    let text = |[rows, columns]: [usize; 2]| format!("{rows} x {columns}");
    let range = |what, found: [usize; 2], expected: String| {
        Err(ExplainError::Range { what, found: text(found), expected })
    };
    if window.contains(&0) || window[0] > size[0] || window[1] > size[1] {
        return range("hidden part", window, format!("from 1 x 1 to {}", text(size)));
    }
    if stride.contains(&0) || stride[0] > window[0] || stride[1] > window[1] {
        return range("stride", stride, format!("from 1 x 1 to the hidden part, {}", text(window)));
    }
    if batch_size == 0 {
        return Err(ExplainError::Range {
            what: "batch size",
            found: "0".into(),
            expected: "at least 1".into(),
        });
    }
    Ok(())
}
