//! Tensors from a file into a model: what fits is loaded, what does not is named.

use std::collections::BTreeMap;
use std::fmt;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use serde::Serialize;

use super::convert::{adapt_channels, drop_head, norm_to_fc_norm};
use super::resample::resize_pos_embed;
use super::tensors::{HostTensor, TensorMap};
use crate::layers::init::{InitConfig, initialize};
use crate::layers::names::{KeyPath, wildcard};
use crate::layers::position::{PosEmbed, fixed_table};
use crate::layers::resample::resample_offsets;
use crate::models::vit::VitConfig;
use crate::models::{Model, ModelConfig};

/// Which differences between file and model are accepted, by name.
#[derive(Clone, Debug, Default)]
pub struct Excuses {
    /// Keys the file may lack; the model keeps fresh values for them. `*` stands for any text.
    pub missing: Vec<String>,
    /// Keys of the file that the model may ignore. `*` stands for any text.
    pub unexpected: Vec<String>,
    /// The head is to be a new one, for another number of classes.
    pub new_head: bool,
    /// Rows and columns of patches the file's position table was made for; a square where unknown.
    pub source_grid: Option<[usize; 2]>,
    /// Channels of the images the file was made for; with another number than the model's the patch projection
    /// is adapted. `None` adapts nothing.
    pub source_chans: Option<usize>,
    /// Keys whose values are held elsewhere, with their shapes (a file's layout): weights in eight bits, which the model
    /// gets afterwards. They count as loaded.
    pub held: BTreeMap<String, Vec<usize>>,
    /// Seed of fresh values.
    pub seed: u64,
}

/// A tensor whose shape in the file is not the model's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShapeChange {
    /// The key.
    pub key: String,
    /// Shape in the file.
    pub found: Vec<usize>,
    /// Shape in the model.
    pub expected: Vec<usize>,
}

/// A tensor that was changed, or given to another parameter, to fit the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Adaptation {
    /// The key in the model.
    pub key: String,
    /// The key in the file.
    pub source: String,
    /// Shape in the file.
    pub found: Vec<usize>,
    /// Shape in the model.
    pub expected: Vec<usize>,
}

/// What happened to every tensor of the file and every parameter of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Parameters that took their values from the file.
    pub loaded: Vec<String>,
    /// Position tables brought to the model's grid.
    pub resized: Vec<ShapeChange>,
    /// Tensors of a model with other channels or another pooling, made this model's.
    pub adapted: Vec<Adaptation>,
    /// Parameters of a replaced head, fresh in the model.
    pub replaced: Vec<ShapeChange>,
    /// Parameters the file has no tensor for.
    pub missing: Vec<String>,
    /// Tensors the model has no parameter for.
    pub unexpected: Vec<String>,
    /// Tensors of another shape than the model's.
    pub mismatched: Vec<ShapeChange>,
    /// Keys among `missing` and `unexpected` that were excused by name.
    pub excused: Vec<String>,
}

impl Report {
    /// Whether some difference was not excused.
    pub fn is_refused(&self) -> bool {
        let excused = |key: &String| self.excused.contains(key);
        !self.mismatched.is_empty()
            || !self.missing.iter().all(excused)
            || !self.unexpected.iter().all(excused)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "loaded {}, ", self.loaded.len())?;
        write!(f, "missing {}, unexpected {}, ", self.missing.len(), self.unexpected.len())?;
        write!(f, "resized {}", self.resized.len())?;
        for change in &self.resized {
            write!(f, "\n  resized     {}", Changed(change))?;
        }
        for Adaptation { key, source, found, expected } in &self.adapted {
            match key == source {
                true => write!(f, "\n  adapted     {key} {found:?} -> {expected:?}")?,
                false => write!(f, "\n  adapted     {source} -> {key}")?,
            }
        }
        for change in &self.replaced {
            write!(f, "\n  new head    {}", Changed(change))?;
        }
        for change in &self.mismatched {
            write!(f, "\n  mismatched  {}", Changed(change))?;
        }
        let excuse = |key: &String| if self.excused.contains(key) { " (excused)" } else { "" };
        for key in &self.missing {
            write!(f, "\n  missing     {key}{}", excuse(key))?;
        }
        for key in &self.unexpected {
            write!(f, "\n  unexpected  {key}{}", excuse(key))?;
        }
        Ok(())
    }
}

struct Changed<'a>(&'a ShapeChange);

impl fmt::Display for Changed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShapeChange { key, found, expected } = self.0;
        write!(f, "{key} {found:?} -> {expected:?}")
    }
}

/// Fills a model with `tensors` under timm's keys, in `dtype` (f32 or f64).
///
/// Returns the model and the report; a report that [`is_refused`](Report::is_refused) comes with a model
/// nobody should use, so look at it first.
pub fn apply(model: Model, mut tensors: TensorMap, dtype: DType, excuses: &Excuses) -> (Model, Report) {
    let ModelConfig::Vit(config) = model.config();
    let mut model = model;
    model.forget_prepared(); // made from the values that go
    let mut report = Report::default();
    resize_positions(&config, &mut tensors, excuses.source_grid, &mut report);
    report.adapted.extend(move_norm(&config, &mut tensors));
    report.adapted.extend(excuses.source_chans.and_then(|old| change_channels(&config, &mut tensors, old)));
    if config.pos_embed.is_fixed() && !tensors.contains("pos_embed") {
        tensors.tensors.insert("pos_embed".into(), fixed_positions(&config));
    }
    let new_head = if excuses.new_head { set_head_aside(&mut tensors) } else { BTreeMap::new() };

    let (path, held, missing) = (KeyPath::default(), &excuses.held, Vec::new());
    let mut filler = Filler { tensors, dtype, path, held, missing, report };
    let model = model.map(&mut filler);
    let Filler { tensors, missing, mut report, .. } = filler;
    report.unexpected = tensors.names().map(str::to_string).collect();
    for change in missing {
        match new_head.get(&change.key) {
            Some(found) => report.replaced.push(ShapeChange { found: found.clone(), ..change }),
            None if excuses.new_head && change.key.starts_with("head.") => report.replaced.push(change),
            None => report.missing.push(change.key),
        }
    }
    let excused = |keys: &[String], patterns: &[String]| -> Vec<String> {
        keys.iter().filter(|key| patterns.iter().any(|pattern| wildcard(pattern, key))).cloned().collect()
    };
    report.excused = excused(&report.missing, &excuses.missing);
    report.excused.extend(excused(&report.unexpected, &excuses.unexpected));
    if report.missing.is_empty() && report.replaced.is_empty() {
        return (model, report);
    }
    let keep: Vec<&str> = report.loaded.iter().map(String::as_str).collect();
    let fresh = InitConfig {
        scheme: config.weight_init,
        layer_scale: config.init_values.unwrap_or(1.0),
        block_norm: config.block_norm(),
        keep: &keep,
        seed: excuses.seed,
        dtype,
    };
    (initialize(model, fresh), report)
}

/// The tensors of a model under timm's keys and layouts, as f32 or f64, whichever the model holds.
pub fn collect(model: &Model) -> TensorMap {
    let mut collector = Collector { tensors: TensorMap::default(), path: KeyPath::default() };
    model.visit(&mut collector);
    collector.tensors
}

/// Keys and shapes (timm's layouts) of a model's parameters, without reading any value.
pub fn expected_tensors(model: &Model) -> BTreeMap<String, Vec<usize>> {
    struct Shapes(BTreeMap<String, Vec<usize>>, KeyPath);
    impl ModuleVisitor for Shapes {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.1.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.1.exit();
        }
        fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
            let mut shape: Vec<usize> = param.lazy_shape().dims::<R>().to_vec();
            if self.1.is_linear_weight() {
                shape.reverse();
            }
            self.0.insert(self.1.key(), shape);
        }
    }
    let mut shapes = Shapes(BTreeMap::new(), KeyPath::default());
    model.visit(&mut shapes);
    shapes.0
}

/// Takes the head out of the file, keeping the shapes for the report.
fn set_head_aside(tensors: &mut TensorMap) -> BTreeMap<String, Vec<usize>> {
    let head = drop_head(&mut tensors.tensors);
    head.into_iter().map(|(key, tensor)| (key, tensor.shape().to_vec())).collect()
}

/// The norm of a file that pools one token becomes the norm after pooling, where the model has that one.
fn move_norm(config: &VitConfig, tensors: &mut TensorMap) -> Vec<Adaptation> {
    let foreign = config.final_norm && config.use_fc_norm() && !tensors.contains("fc_norm.weight");
    let moved = if foreign { norm_to_fc_norm(&mut tensors.tensors) } else { Vec::new() };
    let adaptation = |(source, key): (String, String)| {
        let shape = tensors.get(&key).map(|tensor| tensor.shape().to_vec()).unwrap_or_default();
        Adaptation { key, source, found: shape.clone(), expected: shape }
    };
    moved.into_iter().map(adaptation).collect()
}

/// The patch projection of a file made for `old` channels, for the model's. A tensor that has other channels than
/// the file is said to have stays as it is, and is reported as mismatched.
fn change_channels(config: &VitConfig, tensors: &mut TensorMap, old: usize) -> Option<Adaptation> {
    const KEY: &str = "patch_embed.proj.weight";
    let kernel = tensors.get(KEY).filter(|kernel| kernel.shape().get(1) == Some(&old))?;
    if old == config.in_chans {
        return None;
    }
    let found = kernel.shape().to_vec();
    let adapted = adapt_channels(kernel, config.in_chans).ok()?;
    let expected = adapted.shape().to_vec();
    tensors.tensors.insert(KEY.into(), adapted);
    Some(Adaptation { key: KEY.into(), source: KEY.into(), found, expected })
}

struct Filler<'a> {
    tensors: TensorMap,
    dtype: DType,
    path: KeyPath,
    held: &'a BTreeMap<String, Vec<usize>>,
    missing: Vec<ShapeChange>,
    report: Report,
}

impl ModuleMapper for Filler<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        let key = self.path.key();
        let transposed = self.path.is_linear_weight();
        let mut expected = param.lazy_shape().dims::<R>().to_vec();
        if transposed {
            expected.reverse(); // a file's layout
        }
        if let Some(found) = self.held.get(&key) {
            match *found == expected {
                true => self.report.loaded.push(key),
                false => {
                    let found = found.clone();
                    self.report.mismatched.push(ShapeChange { key, found, expected });
                }
            }
            return param;
        }
        let Some(tensor) = self.tensors.tensors.remove(&key) else {
            self.missing.push(ShapeChange { key, found: Vec::new(), expected });
            return param;
        };
        if tensor.shape() != expected {
            self.report.mismatched.push(ShapeChange { key, found: tensor.shape().to_vec(), expected });
            return param;
        }
        let data = if transposed { transposed_data(&tensor, self.dtype) } else { data(&tensor, self.dtype) };
        let value = Tensor::from_data(data, (&param.lazy_device(), self.dtype));
        self.report.loaded.push(key);
        let id = param.id;
        param.transform_for_load(value, id)
    }
}

fn data(tensor: &HostTensor, dtype: DType) -> TensorData {
    if dtype == DType::F64 {
        TensorData::new(tensor.to_f64(), tensor.shape().to_vec())
    } else {
        TensorData::new(tensor.to_f32(), tensor.shape().to_vec())
    }
}

/// A linear weight `[d_out, d_in]` as `[d_in, d_out]`.
fn transposed_data(tensor: &HostTensor, dtype: DType) -> TensorData {
    let [rows, columns] = [tensor.shape()[0], tensor.shape()[1]];
    if dtype == DType::F64 {
        TensorData::new(transpose(&tensor.to_f64(), rows, columns), [columns, rows])
    } else {
        TensorData::new(transpose(&tensor.to_f32(), rows, columns), [columns, rows])
    }
}

/// `[rows, columns]` to `[columns, rows]`, in tiles that stay in cache.
fn transpose<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    const TILE: usize = 32;
    let mut result = vec![T::default(); values.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..(top + TILE).min(rows) {
                for column in left..(left + TILE).min(columns) {
                    result[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    result
}

struct Collector {
    tensors: TensorMap,
    path: KeyPath,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
        let tensor = param.val();
        let mut shape: Vec<usize> = tensor.dims().to_vec();
        let data = tensor.into_data();
        let wide = data.dtype() == DType::F64;
        let values: Vec<f64> = data.iter::<f64>().collect();
        let values = if self.path.is_linear_weight() {
            let [rows, columns] = [shape[0], shape[1]];
            shape.reverse();
            transpose(&values, rows, columns)
        } else {
            values
        };
        let host = if wide {
            HostTensor::from_f64(shape, &values)
        } else {
            HostTensor::from_f32(shape, &values.iter().map(|v| *v as f32).collect::<Vec<_>>())
        };
        self.tensors.tensors.insert(self.path.key(), host.expect("a tensor's values fill its shape"));
    }
}

/// The table of a sin-cos encoding, which files often leave out.
fn fixed_positions(config: &VitConfig) -> HostTensor {
    let table = fixed_table(&config.position(), config.grid());
    host(&[1, table.len() / config.embed_dim, config.embed_dim], &table)
}

/// Brings learned position tables to the model's grid, where their length says that they are of another.
pub(crate) fn resize_positions(
    config: &VitConfig,
    tensors: &mut TensorMap,
    source_grid: Option<[usize; 2]>,
    report: &mut Report,
) {
    let prefix = config.prefix_rows();
    let grid = config.grid();
    let mut put = |tensors: &mut TensorMap, key: &str, table: HostTensor| {
        let Some(old) = tensors.tensors.insert(key.into(), table) else { return };
        let expected = tensors.get(key).map(|t| t.shape().to_vec()).unwrap_or_default();
        report.resized.push(ShapeChange { key: key.into(), found: old.shape().to_vec(), expected });
    };
    // A table that cannot be resized stays as it is, and is reported as mismatched.
    let resize = |table: &HostTensor, old, new, prefix| {
        let exact = host(table.shape(), &table.to_f64());
        resize_pos_embed(&exact, old, new, prefix, config.pos_resize).ok()
    };
    if config.pos_embed == PosEmbed::Learn
        && let Some(table) = tensors.get("pos_embed")
        && let [1, rows, _] = *table.shape()
        && rows > prefix
        && let Some(old) = grid_of(rows - prefix, source_grid)
        && old != grid
        && let Some(resized) = resize(table, old, grid, prefix)
    {
        put(tensors, "pos_embed", resized);
    }
    if config.pos_embed == PosEmbed::Learn2d {
        for (key, side) in [("pos_embed_x", grid[1]), ("pos_embed_y", grid[0])] {
            if let Some(table) = tensors.get(key)
                && let [1, rows, _] = *table.shape()
                && rows != side
                && let Some(resized) = resize(table, [rows, 1], [side, 1], 0)
            {
                put(tensors, key, resized);
            }
        }
    }
    let extra = if config.num_prefix_tokens() > 0 { 3 } else { 0 };
    let biases: Vec<String> = tensors
        .names()
        .filter(|key| key.ends_with("relative_position_bias_table"))
        .map(str::to_string)
        .collect();
    for key in biases {
        if let Some(table) = tensors.get(&key)
            && let [rows, heads] = *table.shape()
            && rows > extra
            && let Some(old) = grid_of(rows - extra, source_grid.map(|grid| grid.map(|side| 2 * side - 1)))
            && old != grid.map(|side| 2 * side - 1)
        {
            let values = table.to_f64();
            let (offsets, rest) = values.split_at((rows - extra) * heads);
            let new = grid.map(|side| 2 * side - 1);
            let mut resized = resample_offsets(offsets, heads, old, new, config.pos_resize);
            resized.extend(rest);
            let rows = resized.len() / heads;
            put(tensors, &key, host(&[rows, heads], &resized));
        }
    }
}

fn host(shape: &[usize], values: &[f64]) -> HostTensor {
    HostTensor::from_f64(shape.to_vec(), values).expect("the values were made to fill the shape")
}

/// The grid a table of `n` rows was made for: the one named, if it has `n` cells, else a square.
fn grid_of(n: usize, named: Option<[usize; 2]>) -> Option<[usize; 2]> {
    if let Some([h, w]) = named
        && h * w == n
    {
        return Some([h, w]);
    }
    let side = n.isqrt();
    (side * side == n).then_some([side, side])
}
