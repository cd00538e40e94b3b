//! Convolutions of feature maps.
//!
//! A feature map is tokens on a grid: `[B, H·W, C]`, channels last. So a convolution of 1x1 is a linear layer, and a
//! LayerNorm needs no permutation.

use burn::module::{Module, Param};
use burn::tensor::ops::PadMode;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};
use vitrum_kernels::{ConvForm, Folding, PackedConv, Pool};

use super::batch_norm::BatchNorm;
use super::drop::records;
use super::mlp::Activation;
use super::norm::GroupNorm;
use super::observe::{Observer, Within};
use super::parameter;

/// Feature maps of a batch.
#[derive(Clone, Debug)]
pub struct Maps {
    /// `[B, H·W, C]`, row by row.
    pub x: Tensor<3>,
    /// `[H, W]`.
    pub grid: [usize; 2],
}

impl Maps {
    /// Images `[B, C, H, W]` as maps.
    pub fn of_images(images: Tensor<4>) -> Self {
        let [b, c, h, w] = images.dims();
        Self { x: images.permute([0, 2, 3, 1]).reshape([b, h * w, c]), grid: [h, w] }
    }

    /// The maps as `[B, C, H, W]`.
    pub fn into_images(self) -> Tensor<4> {
        let ([b, _, c], [h, w]) = (self.x.dims(), self.grid);
        self.x.swap_dims(1, 2).reshape([b, c, h, w])
    }

    /// The same grid with other channels.
    pub fn with(&self, x: Tensor<3>) -> Self {
        Self { x, grid: self.grid }
    }

    /// The maps with this number of rows and columns of zeros around them.
    pub fn surrounded(&self, by: usize) -> Self {
        let x = self.clone().into_images().pad((by, by, by, by), PadMode::Constant(0.0));
        Self::of_images(x)
    }

    /// All values under windows of `kernel` at steps of `stride`, with `padding` rows and columns of zeros around the maps:
    /// `[B, H'·W', C·kernel·kernel]`. The values of a window are ordered by channel, row, column, as in torch's `Unfold`.
    ///
    /// # Panics
    /// If the window does not fit on the padded maps.
    pub fn unfold(&self, kernel: usize, stride: usize, padding: usize) -> Self {
        let form = ConvForm::new(self.grid, [kernel; 2]).stride([stride; 2]).padding([padding; 2]);
        let ([b, n, c], [h, w], [rows, columns]) = (self.x.dims(), self.grid, form.out());
        assert!(rows * columns > 0, "unfold: windows of {kernel} do not fit on maps of {h}x{w}");
        let device = self.x.device();
        // Row `n` is the zeros outside.
        let place = |at: usize, tap: usize, size: usize| {
            (at * stride + tap).checked_sub(padding).filter(|place| *place < size)
        };
        let mut places = Vec::with_capacity(rows * columns * kernel * kernel);
        for at in 0..rows * columns {
            for tap in 0..kernel * kernel {
                let (y, x) = (place(at / columns, tap / kernel, h), place(at % columns, tap % kernel, w));
                places.push(y.zip(x).map_or(n, |(y, x)| y * w + x) as i64);
            }
        }
        let count = places.len();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &device);
        let outside = Tensor::zeros([b, 1, c], (&device, self.x.dtype()));
        let values = Tensor::cat(vec![self.x.clone(), outside], 1).select(1, places); // [B, N'·k·k, C]
        let values = values.reshape([b, rows * columns, kernel * kernel, c]).swap_dims(2, 3);
        Self { x: values.reshape([b, rows * columns, c * kernel * kernel]), grid: [rows, columns] }
    }

    /// Every second position of maps blurred by the binomial kernel of 3x3, mirrored at the edges (Zhang 2019,
    /// arXiv:1904.11486; timm `BlurPool2d`).
    ///
    /// # Panics
    /// If a side is 1.
    pub fn blur(&self) -> Self {
        let ([_, _, c], [h, w]) = (self.x.dims(), self.grid);
        assert!(h > 1 && w > 1, "blur: maps of {h}x{w} have no mirror image");
        let mirrored = |at: usize, size: usize| match at {
            0 => 1,
            at if at == size + 1 => size - 2,
            at => at - 1,
        };
        let of_row = |y: usize| (0..w + 2).map(move |x| (mirrored(y, h) * w + mirrored(x, w)) as i64);
        let places: Vec<i64> = (0..h + 2).flat_map(of_row).collect();
        let count = places.len();
        let device = self.x.device();
        let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &device);
        let x = self.x.clone().select(1, places); // [B, (H + 2)·(W + 2), C]
        let taps = [1.0, 2.0, 1.0].into_iter().flat_map(|y| [1.0, 2.0, 1.0].map(|x| y * x / 16.0));
        let kernel: Vec<f64> = taps.flat_map(|tap| std::iter::repeat_n(tap, c)).collect();
        let kernel = Tensor::from_data(TensorData::new(kernel, [3, 3, 1, c]), (&device, x.dtype()));
        let form = ConvForm::new([h + 2, w + 2], [3; 2]).stride([2; 2]).groups(c);
        Self { x: vitrum_kernels::conv(x, kernel, None, form), grid: form.out() }
    }

    /// Pooling under windows of `kernel` at steps of `stride`.
    ///
    /// # Panics
    /// If the window does not fit on the padded maps.
    pub fn pool(&self, pool: Pool, kernel: usize, stride: usize, padding: Padding) -> Self {
        let form = padding.form(self.grid, [kernel; 2], [stride; 2], [1, 1]);
        Self { x: vitrum_kernels::pool(self.x.clone(), form, pool), grid: form.out() }
    }
}

/// How maps are halved behind a convolution at steps of 1, so that what lies between two positions is not lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Antialias {
    /// The convolution itself has steps of 2.
    #[default]
    #[serde(rename = "")]
    None,
    /// The mean over 2x2 (He et al. 2018, arXiv:1812.01187; timm `AvgPool2d`).
    Avg,
    /// [`Maps::blur`].
    Blur,
}

impl Antialias {
    /// The halved maps.
    ///
    /// # Panics
    /// If a side is 1.
    pub fn halve(self, maps: &Maps) -> Maps {
        match self {
            Self::None => maps.clone(),
            Self::Avg => maps.pool(Pool::Avg, 2, 2, Padding::None),
            Self::Blur => maps.blur(),
        }
    }

    /// The grid of the halved maps.
    pub fn out(self, grid: [usize; 2]) -> [usize; 2] {
        match self {
            Self::None => grid,
            Self::Avg => grid.map(|side| side / 2),
            Self::Blur => grid.map(|side| side.div_ceil(2)),
        }
    }
}

/// What surrounds the maps for a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Nothing.
    #[default]
    None,
    /// PyTorch's usual padding: the same on all sides, so that a kernel of odd size at steps of 1 keeps the grid.
    Symmetric,
    /// TensorFlow's SAME: `⌈H / stride⌉` rows; of an odd number of zeros the extra one is below and right.
    Same,
    /// Nothing, but windows that begin on the map may end outside it (PyTorch's `ceil_mode`).
    Ceil,
}

impl Padding {
    pub(crate) fn form(
        self,
        grid: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        dilation: [usize; 2],
    ) -> ConvForm {
        let form = ConvForm::new(grid, kernel).stride(stride).dilation(dilation);
        match self {
            Self::None => form,
            Self::Symmetric => {
                // timm's `get_padding`.
                form.padding([0, 1].map(|axis| (stride[axis] - 1 + dilation[axis] * (kernel[axis] - 1)) / 2))
            }
            Self::Same => form.same(),
            Self::Ceil => {
                let after = [0, 1].map(|axis| {
                    let positions = grid[axis].saturating_sub(kernel[axis]).div_ceil(stride[axis]);
                    (positions * stride[axis] + kernel[axis]).saturating_sub(grid[axis])
                });
                ConvForm { after, ..form }
            }
        }
    }
}

/// How a [`Conv`] is built.
#[derive(Clone, Copy, Debug)]
pub struct ConvConfig {
    /// Channels of the maps and of the result.
    pub channels: [usize; 2],
    /// Size of the kernel.
    pub kernel: [usize; 2],
    /// Step of the kernel.
    pub stride: [usize; 2],
    /// What stands around the maps.
    pub padding: Padding,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Standardises the kernel of each channel of the result (Qiao et al. 2019, arXiv:1903.10520), with this added to its
    /// variance.
    pub standardize: Option<f64>,
}

impl ConvConfig {
    /// A square kernel with PyTorch's usual padding, step 1, one group and no bias.
    pub fn new(from: usize, to: usize, kernel: usize) -> Self {
        Self {
            channels: [from, to],
            kernel: [kernel; 2],
            stride: [1, 1],
            padding: Padding::Symmetric,
            groups: 1,
            bias: false,
            standardize: None,
        }
    }

    /// With this step.
    pub fn stride(self, stride: usize) -> Self {
        Self { stride: [stride; 2], ..self }
    }

    /// With this padding.
    pub fn padding(self, padding: Padding) -> Self {
        Self { padding, ..self }
    }

    /// With this number of groups.
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// With or without a bias.
    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// With a standardised kernel.
    pub fn standardize(self, eps: Option<f64>) -> Self {
        Self { standardize: eps, ..self }
    }

    /// The layer.
    pub fn init(self, device: &Device) -> Conv {
        let ([from, to], [kh, kw]) = (self.channels, self.kernel);
        Conv {
            weight: parameter([kh, kw, from / self.groups, to], device),
            bias: self.bias.then(|| parameter([to], device)),
            config: self,
            prepared: None,
        }
    }

    /// The grid of the result.
    pub fn out(&self, grid: [usize; 2]) -> [usize; 2] {
        self.form(grid).out()
    }

    /// The smallest grid whose result has at least `out` rows and columns. With padding, the kernel has an odd size.
    pub fn least_grid(&self, out: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let last = if self.padding == Padding::None { self.kernel[axis] } else { 1 };
            (out[axis] - 1) * self.stride[axis] + last
        })
    }

    fn form(&self, grid: [usize; 2]) -> ConvForm {
        self.padding.form(grid, self.kernel, self.stride, [1, 1]).groups(self.groups)
    }
}

/// A convolution of maps, `[B, H·W, C] -> [B, H'·W', N]`.
#[derive(Module, Debug)]
pub struct Conv {
    /// `[kh, kw, C / groups, N]`; files hold `[N, C / groups, kh, kw]`.
    pub weight: Param<Tensor<4>>,
    /// `[N]`.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    config: ConvConfig,
    #[module(skip)]
    prepared: Option<PackedConv>,
}

impl Conv {
    /// How this layer is built.
    pub fn config(&self) -> &ConvConfig {
        &self.config
    }

    /// The convolution.
    ///
    /// # Panics
    /// If the maps have other channels or another type than the weight, the kernel does not fit on the padded maps, or a
    /// packed kernel is asked for gradients.
    pub fn forward(&self, maps: &Maps) -> Maps {
        let form = self.config.form(maps.grid);
        if self.is_packed() {
            assert!(
                !records(&maps.x),
                "Conv: the kernel is prepared for inference (packed) and would not follow its training; train the model \
                 as it was loaded"
            );
            return self.folded(maps, Folding::default());
        }
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let x = vitrum_kernels::conv(maps.x.clone(), self.kernel(), bias, form);
        Maps { x, grid: form.out() }
    }

    /// The convolution at the end of a residual branch, `residual + forward(x)`.
    ///
    /// # Panics
    /// As [`forward`](Self::forward), and if the residual is not like the result.
    pub fn add_to(&self, residual: Tensor<3>, maps: &Maps) -> Maps {
        if records(&maps.x) {
            let y = self.forward(maps);
            return y.with(y.x.clone() + residual);
        }
        self.folded(maps, Folding { residual: Some(residual), ..Folding::default() })
    }

    /// The convolution with what follows it, for inference. The bias of the layer is part of it.
    fn folded(&self, maps: &Maps, folding: Folding) -> Maps {
        let form = self.config.form(maps.grid);
        let folding = self.with_bias(folding);
        let x = match &self.prepared {
            Some(packed) => vitrum_kernels::conv_packed(maps.x.clone(), packed, form, folding),
            None => vitrum_kernels::conv_folded(maps.x.clone(), self.kernel(), form, folding),
        };
        Maps { x, grid: form.out() }
    }

    fn with_bias(&self, folding: Folding) -> Folding {
        let Some(bias) = &self.bias else { return folding };
        let bias = match &folding.scale {
            Some(scale) => bias.val() * scale.clone(),
            None => bias.val(),
        };
        let shift = match folding.shift {
            Some(shift) => shift + bias,
            None => bias,
        };
        Folding { shift: Some(shift), ..folding }
    }

    /// The kernel that the convolution uses.
    fn kernel(&self) -> Tensor<4> {
        let weight = self.weight.val();
        let Some(eps) = self.config.standardize else { return weight };
        let shape = weight.dims();
        let rows: Tensor<2> = weight.reshape([-1, shape[3] as i32]); // [kh·kw·C, N]
        vitrum_kernels::batch_norm(rows, None, None, None, eps, false).0.reshape(shape)
    }

    /// Packs the kernel for inference. Does nothing where convolutions cannot use packed kernels: on other devices and
    /// for other types than `f32`. Do not train a packed layer: answers would stay those of the packed kernel.
    pub fn pack(&mut self) {
        let device = self.weight.lazy_device();
        if self.prepared.is_some() || !vitrum_kernels::has_fast_path(&device, DType::F32) {
            return;
        }
        let kernel = self.kernel();
        if kernel.dtype() != DType::F32 {
            return;
        }
        let shape = kernel.dims();
        let values = kernel.into_data().iter::<f32>().collect();
        self.prepared = Some(PackedConv::pack(values, shape, self.config.groups));
    }

    /// Whether the kernel is packed.
    pub fn is_packed(&self) -> bool {
        self.prepared.is_some()
    }

    /// Drops the packed kernel.
    pub fn forget_prepared(&mut self) {
        self.prepared = None;
    }
}

/// What follows a convolution and its norm: `act(norm(conv(x)) + residual)`.
#[derive(Clone, Debug, Default)]
pub struct Then {
    /// Like the result.
    pub residual: Option<Tensor<3>>,
    /// The last step, if there is one.
    pub act: Option<Activation>,
}

impl Then {
    /// An activation.
    pub fn act(act: Activation) -> Self {
        Self { residual: None, act: Some(act) }
    }

    /// The end of a residual branch.
    pub fn add(residual: Tensor<3>, act: Activation) -> Self {
        Self { residual: Some(residual), act: Some(act) }
    }
}

/// The form of the norms of maps. The names are timm's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MapNormLayer {
    /// Over the batch.
    #[default]
    BatchNorm2d,
    /// Over groups of channels of each map.
    GroupNorm,
}

/// A norm of maps.
#[derive(Module, Debug)]
pub enum MapNorm {
    /// Over the batch.
    Batch(BatchNorm),
    /// Over groups of channels of each map.
    Group(GroupNorm),
}

impl MapNorm {
    /// The batch norm, if it is one.
    pub fn batch_mut(&mut self) -> Option<&mut BatchNorm> {
        match self {
            Self::Batch(norm) => Some(norm),
            Self::Group(_) => None,
        }
    }
}

/// The norm behind a convolution.
#[derive(Clone, Copy, Debug)]
pub enum NormBehind<'a> {
    /// Over the batch.
    Batch(&'a BatchNorm),
    /// Over groups of channels of each map.
    Group(&'a GroupNorm),
}

impl<'a> From<&'a BatchNorm> for NormBehind<'a> {
    fn from(norm: &'a BatchNorm) -> Self {
        Self::Batch(norm)
    }
}

impl<'a> From<&'a MapNorm> for NormBehind<'a> {
    fn from(norm: &'a MapNorm) -> Self {
        match norm {
            MapNorm::Batch(norm) => Self::Batch(norm),
            MapNorm::Group(norm) => Self::Group(norm),
        }
    }
}

/// A convolution and its norm, `act(norm(conv(x)) + residual)`. With a batch norm it is one operation for answers. `name` is
/// the norm's, within the observer's scope.
///
/// # Panics
/// As [`Conv::forward`].
pub fn conv_norm<'a>(
    conv: &Conv,
    (name, norm): (&str, impl Into<NormBehind<'a>>),
    maps: &Maps,
    then: Then,
    watch: &mut dyn Observer,
) -> Maps {
    let norm = match norm.into() {
        NormBehind::Batch(norm) => norm,
        NormBehind::Group(norm) => {
            let y = conv.forward(maps);
            let x = match (then.residual, then.act) {
                (None, act) => norm.forward(y.x.clone(), act),
                (Some(residual), Some(act)) => act.forward(norm.forward(y.x.clone(), None) + residual),
                (Some(residual), None) => norm.forward(y.x.clone(), None) + residual,
            };
            return y.with(x);
        }
    };
    if records(&maps.x) {
        let y = conv.forward(maps);
        let x = norm.forward_then(y.x.clone(), then, &mut Within::new(watch, format_args!("{name}")));
        return y.with(x);
    }
    let (scale, shift) = norm.affine(maps.x.dtype());
    let activation = then.act.map_or(vitrum_kernels::Activation::Identity, Into::into);
    let folding = Folding { scale: Some(scale), shift: Some(shift), residual: then.residual, activation };
    conv.folded(maps, folding)
}
