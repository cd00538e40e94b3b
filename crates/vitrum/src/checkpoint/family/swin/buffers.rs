//! What buffers of the authors' files show: the windows, those of pretraining, and the number of windows of an image.

use crate::checkpoint::naming::Converted;
use crate::checkpoint::{HostTensor, LoadError};
use crate::models::swin::{SwinConfig, SwinVersion, log_shares};

/// Longest side of a window whose offsets are compared.
const MAX_SIDE: usize = 128;
/// Largest difference of an offset from the file, which may have been rounded to bf16.
const ROUNDING: f64 = 0.01;

/// The buffers of a file.
pub(super) struct Buffers<'a>(pub &'a Converted);

impl Buffers<'_> {
    fn get(&self, stage: usize, block: usize, part: &str) -> Option<&HostTensor> {
        self.0.shown.get(&format!("layers.{stage}.blocks.{block}.{part}"))
    }

    /// The offsets of V2, `[1, 2h-1, 2w-1, 2]`, and the window.
    fn offsets(&self, stage: usize) -> Option<(&HostTensor, [usize; 2])> {
        let table = self.get(stage, 0, "attn.relative_coords_table")?;
        match *table.shape() {
            [1, h, w, 2] if h % 2 == 1 && w % 2 == 1 => Some((table, [h.div_ceil(2), w.div_ceil(2)])),
            _ => None,
        }
    }

    /// Rows and columns of the windows of a stage.
    pub(super) fn window(&self, stage: usize) -> Option<[usize; 2]> {
        self.offsets(stage).map(|(_, window)| window).or_else(|| self.indexed(stage))
    }

    /// The same, from the numbers of the offsets of every pair of positions, `[h·w, h·w]` or in one row.
    fn indexed(&self, stage: usize) -> Option<[usize; 2]> {
        let index = self.get(stage, 0, "attn.relative_position_index")?;
        let area = index.num_elements().isqrt();
        let first = match *index.shape() {
            [rows, columns] if rows == columns && rows > 0 => index.slice(0, 0..1).ok()?,
            [all] if all > 0 && area * area == all => index.slice(0, 0..area).ok()?,
            _ => return None,
        };
        // From the first position, an offset for every column of its row. The next row is a row of offsets away.
        let first = first.to_f64();
        let columns = (1..area).take_while(|&at| first[at] == first[0] - at as f64).count() + 1;
        let rows = area / columns;
        let middle = (rows - 1) * (2 * columns - 1) + columns - 1;
        (rows * columns == area && first[0] == middle as f64).then_some([rows, columns])
    }

    /// The window that the offsets of a stage are relative to.
    pub(super) fn origin(&self, stage: usize, window: [usize; 2]) -> Option<[usize; 2]> {
        let (table, of) = self.offsets(stage)?;
        let values = table.to_f64();
        let last = values.len().checked_sub(2)?;
        if of != window || window.iter().any(|&side| side > MAX_SIDE) {
            return None;
        }
        // The last offset spans the window: log₂(1 + 8 (side - 1) / (origin - 1)) / 3.
        let origin = [0, 1].map(|axis| {
            let span = 8.0 * (window[axis] - 1) as f64 / ((3.0 * values[last + axis]).exp2() - 1.0);
            if window[axis] == 1 { 1 } else { span.round() as usize + 1 }
        });
        if origin.iter().any(|side| !(1..=MAX_SIDE).contains(side)) {
            return None;
        }
        let expected = log_shares(window, origin);
        let is_near = |(a, b): (&f64, &f64)| (a - b).abs() < ROUNDING;
        (values.len() == expected.len() && values.iter().zip(&expected).all(is_near)).then_some(origin)
    }

    /// Windows along each side of the first map, if their number is a square.
    pub(super) fn windows_aside(&self) -> Option<usize> {
        let &[count, _, _] = self.get(0, 1, "attn_mask")?.shape() else { return None };
        let side = count.isqrt();
        (count > 0 && side * side == count).then_some(side)
    }

    /// Refuses a model of V2 with other windows. Tables of V1 are resized to other windows.
    pub(super) fn check(&self, config: &SwinConfig) -> Result<(), LoadError> {
        if config.version == SwinVersion::V1 {
            return Ok(());
        }
        for stage in 0..config.depths.len() {
            let Some(window) = self.window(stage) else { continue };
            let named = config.window_size.at(stage);
            if window != named && window != config.window(stage) {
                self.refuse(stage, "window_size", window, named)?;
            }
            let pretrained = config.pretrained_window_sizes.at(stage);
            let of_itself = pretrained[0] == 0;
            if let Some(origin) = self.origin(stage, window)
                && origin != if of_itself { window } else { pretrained }
            {
                self.refuse(stage, "pretrained_window_sizes", origin, pretrained)?;
            }
        }
        Ok(())
    }
    /// An error, unless the key file states the field.
    fn refuse(
        &self,
        stage: usize,
        field: &'static str,
        [h, w]: [usize; 2],
        [p, q]: [usize; 2],
    ) -> Result<(), LoadError> {
        if self.0.tells(field) {
            return Ok(());
        }
        let reason = format!("the file has {field}={h}x{w} in stage {stage}, the named model {p}x{q}");
        Err(LoadError::unshown(&self.0.map.path, field, reason))
    }
}
