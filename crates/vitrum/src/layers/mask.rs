//! Masked patches: which patches of a batch a model sees, and which it has to predict.

use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// What enters a model in the place of one patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patch {
    /// The patch itself.
    Seen,
    /// A learned token, or nothing. The patch is predicted.
    Hidden,
    /// The embedding of the patch with this number in the same image, which may be the patch itself. The patch is
    /// predicted.
    Other(u32),
}

/// The masks of a batch: for each of `B` images and `N` patches, what enters the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masks {
    /// `B · N`, image by image.
    patches: Arc<[Patch]>,
    /// `N`.
    count: usize,
}

impl Masks {
    /// Masks of images with `count` patches each, image by image.
    ///
    /// # Panics
    /// If `count` is 0 or does not divide the number of patches, or a patch is to be replaced by one that its image does
    /// not have.
    pub fn new(patches: impl Into<Arc<[Patch]>>, count: usize) -> Self {
        let patches = patches.into();
        assert!(
            count > 0 && patches.len().is_multiple_of(count),
            "masks: {} patches, not {count} per image",
            patches.len()
        );
        let is_there = |patch: &Patch| !matches!(patch, Patch::Other(other) if *other as usize >= count);
        assert!(
            patches.iter().all(is_there),
            "masks: a patch is to be replaced by one beyond the {count} of its image"
        );
        Self { patches, count }
    }

    /// Random masks as MAE draws them: of each image, `floor(N (1 - ratio))` patches with the smallest `noise`, `[B, N]`,
    /// are seen, and at least one; equal values count in their order.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn from_noise(noise: &[f32], count: usize, ratio: f64) -> Self {
        let seen = seen_of(count, ratio);
        let mut patches = vec![Patch::Hidden; noise.len()];
        for (noise, patches) in noise.chunks(count.max(1)).zip(patches.chunks_mut(count.max(1))) {
            let mut order: Vec<usize> = (0..noise.len()).collect();
            order.sort_by(|&a, &b| noise[a].total_cmp(&noise[b]));
            order.iter().take(seen).for_each(|&place| patches[place] = Patch::Seen);
        }
        Self::new(patches, count)
    }

    /// `B`.
    pub fn len(&self) -> usize {
        self.patches.len() / self.count
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.patches.is_empty()
    }

    /// `N`.
    pub fn num_patches(&self) -> usize {
        self.count
    }

    /// The patches of all images, image by image.
    pub fn patches(&self) -> &[Patch] {
        &self.patches
    }

    /// Number of patches that every image shows; `None` if images differ.
    pub fn num_seen(&self) -> Option<usize> {
        let seen = |image: &[Patch]| image.iter().filter(|patch| **patch == Patch::Seen).count();
        let mut counts = self.patches.chunks(self.count).map(seen);
        let first = counts.next().unwrap_or(0);
        counts.all(|count| count == first).then_some(first)
    }

    /// Number of patches to predict, of all images together.
    pub fn num_masked(&self) -> usize {
        self.patches.iter().filter(|patch| **patch != Patch::Seen).count()
    }

    /// Ones for the patches to predict and zeros for the others, `[B, N]`.
    pub fn tensor(&self, device: &Device, dtype: DType) -> Tensor<2> {
        self.weighted(1.0, device, dtype)
    }

    /// Weights `[B, N]` whose product with the patches' losses sums to the mean over the patches to predict. (A scalar
    /// divisor would be rounded to f32 in the backward pass.)
    pub fn mean_weights(&self, device: &Device, dtype: DType) -> Tensor<2> {
        self.weighted(1.0 / self.num_masked().max(1) as f64, device, dtype)
    }

    /// One number for the patches to predict and zeros for the others, `[B, N]`.
    pub fn weighted(&self, weight: f64, device: &Device, dtype: DType) -> Tensor<2> {
        let values: Vec<f64> =
            self.patches.iter().map(|patch| if *patch == Patch::Seen { 0.0 } else { weight }).collect();
        Tensor::from_data(TensorData::new(values, [self.len(), self.count]), (device, dtype))
    }

    /// The masks of some images, from `first` on.
    ///
    /// # Panics
    /// Beyond the last image.
    #[must_use]
    pub fn narrow(&self, first: usize, images: usize) -> Self {
        Self { patches: self.patches[first * self.count..][..images * self.count].into(), count: self.count }
    }

    /// Drops the patches that are not seen: `[B, prefix + N, D] -> [B, prefix + seen, D]`.
    ///
    /// # Panics
    /// If images show different numbers of patches, or `x` has another shape.
    pub fn keep_seen(&self, x: Tensor<3>, prefix: usize) -> Tensor<3> {
        let [b, t, d] = x.dims();
        let seen = self.num_seen().expect("masks: every image shows the same number of patches");
        assert_eq!([b, t], [self.len(), prefix + self.count], "masks: images and patches");
        let mut rows = Vec::with_capacity(b * (prefix + seen));
        for (image, patches) in self.patches.chunks(self.count).enumerate() {
            let first = image * t;
            rows.extend((0..prefix).map(|token| first + token));
            let kept = patches.iter().enumerate().filter(|(_, patch)| **patch == Patch::Seen);
            rows.extend(kept.map(|(place, _)| first + prefix + place));
        }
        select(x.reshape([b * t, d]), rows).reshape([b, prefix + seen, d])
    }

    /// The reverse of [`keep_seen`](Self::keep_seen), with `token` `[1, 1, D]` in the other places:
    /// `[B, prefix + seen, D] -> [B, prefix + N, D]`.
    ///
    /// # Panics
    /// As [`keep_seen`](Self::keep_seen).
    pub fn fill(&self, x: Tensor<3>, prefix: usize, token: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = x.dims();
        let seen = self.num_seen().expect("masks: every image shows the same number of patches");
        assert_eq!([b, t], [self.len(), prefix + seen], "masks: images and seen patches");
        let hidden = b * t; // the row of the token
        let mut rows = Vec::with_capacity(b * (prefix + self.count));
        for (image, patches) in self.patches.chunks(self.count).enumerate() {
            let mut next = image * t;
            let mut take = || {
                next += 1;
                next - 1
            };
            rows.extend((0..prefix).map(|_| take()));
            rows.extend(patches.iter().map(|patch| if *patch == Patch::Seen { take() } else { hidden }));
        }
        let all = Tensor::cat(vec![x.reshape([b * t, d]), token.reshape([1, d])], 0);
        select(all, rows).reshape([b, prefix + self.count, d])
    }

    /// Patches `[B, N, D]` with `token` `[1, 1, D]`, or another patch of the same image, in the place of those that are
    /// not seen.
    ///
    /// # Panics
    /// If `x` has another shape.
    pub fn replace(&self, x: Tensor<3>, token: Tensor<3>) -> Tensor<3> {
        let [b, n, d] = x.dims();
        assert_eq!([b, n], [self.len(), self.count], "masks: images and patches");
        let row = |(place, patch): (usize, &Patch)| match *patch {
            Patch::Seen => place,
            Patch::Hidden => b * n,
            Patch::Other(other) => place / n * n + other as usize,
        };
        let rows = self.patches.iter().enumerate().map(row).collect();
        let all = Tensor::cat(vec![x.reshape([b * n, d]), token.reshape([1, d])], 0);
        select(all, rows).reshape([b, n, d])
    }
}

/// Number of patches that MAE shows of `count`.
pub fn seen_of(count: usize, ratio: f64) -> usize {
    ((count as f64 * (1.0 - ratio)) as usize).clamp(1, count)
}

/// Rows of `[R, D]`.
fn select(x: Tensor<2>, rows: Vec<usize>) -> Tensor<2> {
    let count = rows.len();
    let rows: Vec<i64> = rows.into_iter().map(|row| row as i64).collect();
    let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [count]), &x.device());
    x.select(0, rows)
}

/// The pixels of each patch, `[B, C, H, W] -> [B, N, P·P·C]`: rows, columns, then channels, as in MAE and transformers (not
/// the order of the projection's kernel). Pixels that fill no patch are left out.
pub fn patchify(images: Tensor<4>, [p, q]: [usize; 2]) -> Tensor<3> {
    let [b, c, h, w] = images.dims();
    let [gh, gw] = [h / p, w / q];
    let whole = images.narrow(2, 0, gh * p).narrow(3, 0, gw * q);
    let patches = whole.reshape([b, c, gh, p, gw, q]).permute([0, 2, 4, 3, 5, 1]); // [B, H/P, W/P, P, P, C]
    patches.reshape([b, gh * gw, p * q * c])
}

/// The reverse of [`patchify`]: `[B, N, P·P·C] -> [B, C, H, W]`.
pub fn unpatchify(patches: Tensor<3>, [p, q]: [usize; 2], [gh, gw]: [usize; 2]) -> Tensor<4> {
    let [b, _, values] = patches.dims();
    let c = values / (p * q);
    let patches = patches.reshape([b, gh, gw, p, q, c]).permute([0, 5, 1, 3, 2, 4]); // [B, C, H/P, P, W/P, P]
    patches.reshape([b, c, gh * p, gw * q])
}
