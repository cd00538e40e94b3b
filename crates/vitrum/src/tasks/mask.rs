//! Which patches pretraining masks.

use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::data::random::{DataRng, mask_rng, val_mask_rng};
use crate::layers::mask::{Masks, Patch, seen_of};
use crate::models::{Masking, Reconstruct};

/// Which patches of an image are masked (MAE, figure 6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskKind {
    /// Any, all equally likely.
    #[default]
    Random,
    /// Rectangles (BEiT, arXiv:2106.08254, algorithm 1).
    Block,
    /// All but one of each square of patches; so that a quarter remains, squares have two patches a side.
    Grid,
}

impl MaskKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Random, Self::Block, Self::Grid];

    /// The name in a recipe.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Block => "block",
            Self::Grid => "grid",
        }
    }
}

/// Draws masks.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskSampler {
    kind: MaskKind,
    masking: Masking,
    /// Rows and columns of patches.
    grid: [usize; 2],
    seed: u64,
}

impl MaskSampler {
    /// Masks for a model, as its paper draws them, except for the kind.
    pub fn new(model: &dyn Reconstruct, kind: MaskKind, seed: u64) -> Self {
        Self { kind, masking: model.masking(), grid: model.grid(), seed }
    }

    /// With another share of masked patches.
    #[must_use]
    pub fn ratio(mut self, ratio: f64) -> Self {
        self.masking.ratio = ratio;
        self
    }

    /// `N`: patches of an image.
    pub fn num_patches(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// The masks of a training batch of so many images.
    pub fn of_batch(&self, images: usize, epoch: u64, batch: u64) -> Masks {
        let mut rng = mask_rng(self.seed, epoch, batch);
        let patches: Vec<Patch> = (0..images).flat_map(|_| self.draw(&mut rng)).collect();
        Masks::new(patches, self.num_patches())
    }

    /// The masks of validation images, from the `first`-th on. They are the same in every epoch.
    pub fn of_validation(&self, first: usize, images: usize) -> Masks {
        let draw = |index: usize| self.draw(&mut val_mask_rng(self.seed, index as u64));
        let patches: Vec<Patch> = (first..first + images).flat_map(draw).collect();
        Masks::new(patches, self.num_patches())
    }

    /// The mask of one image.
    fn draw(&self, rng: &mut DataRng) -> Vec<Patch> {
        let masked = match self.kind {
            MaskKind::Random => self.random(rng),
            MaskKind::Block => self.blocks(rng),
            MaskKind::Grid => self.grid(rng),
        };
        let [token, other] = self.masking.corrupt;
        let count = masked.len();
        let mut enter = |is_masked: bool| {
            if !is_masked {
                return Patch::Seen;
            }
            // One number for each masked patch, so that the shares do not change which patches are drawn.
            let (share, place) = (rng.random::<f64>(), rng.random_range(0..count as u32));
            match share {
                share if share < token => Patch::Hidden,
                share if share < token + other => Patch::Other(place),
                _ => Patch::Other(u32::MAX),
            }
        };
        let patches: Vec<Patch> = masked.into_iter().map(&mut enter).collect();
        let own = |(place, patch): (usize, Patch)| match patch {
            Patch::Other(u32::MAX) => Patch::Other(place as u32),
            patch => patch,
        };
        patches.into_iter().enumerate().map(own).collect()
    }

    /// Squares of `unit` patches a side, as many as give the ratio. A square at the edge may be cut. From the same random
    /// numbers, a lower ratio shows all that a higher one shows, and more.
    fn random(&self, rng: &mut DataRng) -> Vec<bool> {
        let ([rows, columns], unit) = (self.grid, self.masking.unit.max(1));
        let squares = [rows.div_ceil(unit), columns.div_ceil(unit)];
        let count = squares[0] * squares[1];
        let seen = match unit {
            1 => seen_of(count, self.masking.ratio),
            _ => count - ((count as f64 * self.masking.ratio).ceil() as usize).min(count), // as SimMIM rounds
        };
        let mut order: Vec<usize> = (0..count).collect();
        order.shuffle(rng);
        let mut is_masked = vec![true; count];
        order[..seen].iter().for_each(|square| is_masked[*square] = false);
        let of_patch = |place: usize| is_masked[place / columns / unit * squares[1] + place % columns / unit];
        (0..rows * columns).map(of_patch).collect()
    }

    /// Rectangles of random sizes and sides until the ratio is reached, cut to the exact number.
    fn blocks(&self, rng: &mut DataRng) -> Vec<bool> {
        let [rows, columns] = self.grid;
        let count = rows * columns;
        let mut left = count - seen_of(count, self.masking.ratio);
        let mut masked = vec![false; count];
        let least = 16.min(left.max(1));
        while left > 0 {
            let area = rng.random_range(least.min(left)..=left) as f64;
            // The ratio of the sides is from 0.3 to 1 / 0.3, as in BEiT.
            let ratio = (rng.random_range(0.3_f64.ln()..=-(0.3_f64.ln()))).exp();
            let side = |length: f64, most: usize| (length.round() as usize).clamp(1, most);
            let (height, width) = (side((area * ratio).sqrt(), rows), side((area / ratio).sqrt(), columns));
            let (top, first) = (rng.random_range(0..=rows - height), rng.random_range(0..=columns - width));
            for place in
                (top..top + height).flat_map(|row| (first..first + width).map(move |c| row * columns + c))
            {
                if left > 0 && !masked[place] {
                    masked[place] = true;
                    left -= 1;
                }
            }
        }
        masked
    }

    /// One seen patch in each square. The side of the squares is the one whose share of seen patches is nearest.
    fn grid(&self, rng: &mut DataRng) -> Vec<bool> {
        let [rows, columns] = self.grid;
        let side = (1.0 / (1.0 - self.masking.ratio).max(1e-6)).sqrt().round() as usize;
        let side = side.clamp(1, rows.min(columns));
        let [row, column] = [rng.random_range(0..side), rng.random_range(0..side)];
        // All squares show the same place, so images show equal numbers only if the grid divides evenly.
        let shown = |place: usize| place / columns % side == row && place % columns % side == column;
        let mut masked: Vec<bool> = (0..rows * columns).map(|place| !shown(place)).collect();
        self.even_out(&mut masked, side);
        masked
    }

    /// Makes the number of seen patches that of the first place of each square, for a grid that squares do not divide.
    fn even_out(&self, masked: &mut [bool], side: usize) {
        let [rows, columns] = self.grid;
        let wanted = (rows / side) * (columns / side);
        let mut seen = masked.iter().filter(|masked| !**masked).count();
        for place in masked.iter_mut().rev() {
            if seen > wanted && !*place {
                *place = true;
                seen -= 1;
            }
        }
    }
}
