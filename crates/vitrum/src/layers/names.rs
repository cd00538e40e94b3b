//! Keys of parameters in a checkpoint, from their paths in a module; patterns of keys and names.

use std::ops::{Deref, DerefMut};

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param,
};
use burn::tensor::{Device, Tensor};

use super::batch_norm::{RUNNING_MEAN, RUNNING_VAR};

/// A module without a level of its own in the checkpoint: keys contain neither the field that holds it nor `inner`.
///
/// timm keeps position tables at the top of a model (`pos_embed`). Files of a derived model hold the tensors of its
/// base model without a prefix.
#[derive(Module, Debug)]
pub struct Flat<M: Module> {
    /// The module.
    pub inner: M,
}

impl<M: Module> Flat<M> {
    /// Wraps `inner`; its keys stay as they are.
    pub fn new(inner: M) -> Self {
        Self { inner }
    }
}

impl<M: Module> Deref for Flat<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.inner
    }
}

impl<M: Module> DerefMut for Flat<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.inner
    }
}

/// A module on the heap, for a model inside a model. Keys do not show it.
#[derive(Clone, Debug)]
pub struct Boxed<M>(Box<M>);

impl<M> Boxed<M> {
    /// Puts `module` on the heap.
    pub fn new(module: M) -> Self {
        Self(Box::new(module))
    }

    fn map_all(self, map: impl FnOnce(M) -> M) -> Self {
        Self::new(map(*self.0))
    }
}

impl<M> Deref for Boxed<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.0
    }
}

impl<M> DerefMut for Boxed<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.0
    }
}

impl<M: Module> Module for Boxed<M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.map_all(|module| module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_all(|module| module.to_device(device))
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.0.visit(visitor);
    }

    fn map<Q: ModuleMapper>(self, mapper: &mut Q) -> Self {
        self.map_all(|module| module.map(mapper))
    }

    fn num_params(&self) -> usize {
        self.0.num_params()
    }

    fn valid(&self) -> Self {
        Self::new(self.0.valid())
    }

    fn train(self) -> Self {
        self.map_all(Module::train)
    }

    fn materialize(self) -> Self {
        self.map_all(Module::materialize)
    }
}

impl<M: ModuleDisplay> ModuleDisplayDefault for Boxed<M> {
    fn content(&self, content: Content) -> Option<Content> {
        self.0.content(content)
    }
}

impl<M: ModuleDisplay> ModuleDisplay for Boxed<M> {}

/// Modules whose keys are a letter and a number from 1: `b1`, `b2`, … for `Numbered<'b', M>`
#[derive(Clone, Debug)]
pub struct Numbered<const LETTER: char, M>(Vec<M>);

impl<const LETTER: char, M> Numbered<LETTER, M> {
    fn name(index: usize) -> String {
        format!("{LETTER}{}", index + 1)
    }

    fn map_all(self, map: impl FnMut(M) -> M) -> Self {
        self.0.into_iter().map(map).collect()
    }
}

impl<const LETTER: char, M> FromIterator<M> for Numbered<LETTER, M> {
    fn from_iter<I: IntoIterator<Item = M>>(modules: I) -> Self {
        Self(modules.into_iter().collect())
    }
}

impl<const LETTER: char, M> Deref for Numbered<LETTER, M> {
    type Target = [M];

    fn deref(&self) -> &[M] {
        &self.0
    }
}

impl<const LETTER: char, M> DerefMut for Numbered<LETTER, M> {
    fn deref_mut(&mut self) -> &mut [M] {
        &mut self.0
    }
}

impl<const LETTER: char, M: Module> Module for Numbered<LETTER, M> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.0.collect_devices(devices)
    }

    fn fork(self, device: &Device) -> Self {
        self.map_all(|module| module.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.map_all(|module| module.to_device(device))
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (index, module) in self.0.iter().enumerate() {
            let name = Self::name(index);
            visitor.enter_module(&name, "Vec");
            module.visit(visitor);
            visitor.exit_module(&name, "Vec");
        }
    }

    fn map<Q: ModuleMapper>(self, mapper: &mut Q) -> Self {
        let map = |(index, module): (usize, M)| {
            let name = Self::name(index);
            mapper.enter_module(&name, "Vec");
            let module = module.map(mapper);
            mapper.exit_module(&name, "Vec");
            module
        };
        self.0.into_iter().enumerate().map(map).collect()
    }

    fn num_params(&self) -> usize {
        self.0.num_params()
    }

    fn valid(&self) -> Self {
        Self(self.0.valid())
    }

    fn train(self) -> Self {
        self.map_all(Module::train)
    }

    fn materialize(self) -> Self {
        self.map_all(Module::materialize)
    }
}

impl<const LETTER: char, M: ModuleDisplay> ModuleDisplayDefault for Numbered<LETTER, M> {
    fn content(&self, content: Content) -> Option<Content> {
        let modules = self.0.iter().enumerate();
        modules.fold(content, |content, (index, module)| content.add(&Self::name(index), module)).optional()
    }
}

impl<const LETTER: char, M: ModuleDisplay> ModuleDisplay for Numbered<LETTER, M> {}

/// The key of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// timm's name, such as `blocks.0.attn.qkv.weight`.
    pub name: String,
    /// The order of its numbers in memory.
    pub layout: Layout,
    /// Whether this is a running statistic of a `BatchNorm`: never trained, always averaged.
    pub is_statistic: bool,
    /// Whether passes in a narrower type compute with this parameter as it is: running statistics, as in torch, random
    /// directions, and the frequencies of rotary positions, whose angles are too large for few digits.
    pub is_exact: bool,
}

/// The order of a parameter's numbers in memory, compared with files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// As in files.
    #[default]
    AsInFiles,
    /// The weight of a `Linear`: `[d_in, d_out]`, in files `[d_out, d_in]`.
    Linear,
    /// The weight of a `Conv`: `[kh, kw, C, N]`, in files `[N, C, kh, kw]`.
    Kernel,
}

impl Layout {
    /// The shape in files.
    pub fn shape_in_files(self, shape: &[usize]) -> Vec<usize> {
        match (self, shape) {
            (Self::Linear, &[d_in, d_out]) => vec![d_out, d_in],
            (Self::Kernel, &[kh, kw, c, n]) => vec![n, c, kh, kw],
            _ => shape.to_vec(),
        }
    }

    /// Numbers in the order of files to the order of memory; `shape` is that in files.
    pub fn to_memory<T: Copy + Default>(self, values: Vec<T>, shape: &[usize]) -> Vec<T> {
        match (self, shape) {
            (Self::Linear, &[rows, columns]) => transpose(&values, rows, columns),
            (Self::Kernel, &[n, c, kh, kw]) => {
                let turned = transpose(&values, n, c * kh * kw); // [C, kh·kw, N]
                swapped(&turned, [c, kh * kw, n])
            }
            _ => values,
        }
    }

    /// Numbers in the order of memory to the order of files; `shape` is that in memory.
    pub fn to_files<T: Copy + Default>(self, values: Vec<T>, shape: &[usize]) -> Vec<T> {
        match (self, shape) {
            (Self::Linear, &[rows, columns]) => transpose(&values, rows, columns),
            (Self::Kernel, &[kh, kw, c, n]) => {
                let swapped = swapped(&values, [kh * kw, c, n]); // [C, kh·kw, N]
                transpose(&swapped, c * kh * kw, n)
            }
            _ => values,
        }
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

/// `[a, b, n]` to `[b, a, n]`.
fn swapped<T: Copy>(values: &[T], [a, b, n]: [usize; 3]) -> Vec<T> {
    let row = |i: usize, j: usize| values[(i * b + j) * n..(i * b + j + 1) * n].iter().copied();
    (0..b).flat_map(|j| (0..a).flat_map(move |i| row(i, j))).collect()
}

/// Visits every floating-point parameter of a module with its key.
pub trait Visit {
    /// One parameter. Reading its value allocates a lazy one; reading its shape does not.
    fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>);
}

/// Gives every floating-point parameter of a module a new value, by key.
pub trait Map {
    /// One parameter.
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>>;
}

/// Shows all parameters of `module` to `visitor`, in field order.
pub fn visit<M: Module>(module: &M, visitor: &mut impl Visit) {
    module.visit(&mut Visitor { path: KeyPath::default(), visitor });
}

/// `module` with the parameters that `mapper` returns.
pub fn map<M: Module>(module: M, mapper: &mut impl Map) -> M {
    module.map(&mut Mapper { path: KeyPath::default(), mapper })
}

/// Key and in-memory shape of every parameter. Reads no value.
pub fn shapes<M: Module>(module: &M) -> Vec<(Key, Vec<usize>)> {
    struct Shapes(Vec<(Key, Vec<usize>)>);
    impl Visit for Shapes {
        fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
            self.0.push((key.clone(), param.lazy_shape().dims::<R>().to_vec()));
        }
    }
    let mut shapes = Shapes(Vec::new());
    visit(module, &mut shapes);
    shapes.0
}

struct Visitor<'a, V> {
    path: KeyPath,
    visitor: &'a mut V,
}

impl<V: Visit> ModuleVisitor for Visitor<'_, V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
        self.visitor.float(&self.path.key(), param);
    }
}

struct Mapper<'a, V> {
    path: KeyPath,
    mapper: &'a mut V,
}

impl<V: Map> ModuleMapper for Mapper<'_, V> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.exit();
    }

    fn map_float<const R: usize>(&mut self, param: Param<Tensor<R>>) -> Param<Tensor<R>> {
        self.mapper.float(&self.path.key(), param)
    }
}

/// The path of the parameter that a visitor sees. Three things are not part of a key: the variant of an enum
/// (`Model::Vit`), a [`Flat`] module's field `inner`, and the field that holds it. Of a field `_3` only the number is.
#[derive(Debug, Default)]
struct KeyPath {
    parts: Vec<Option<String>>,
    containers: Vec<String>,
}

impl KeyPath {
    fn enter(&mut self, name: &str, container: &str) {
        let is_flat = container == "Struct:Flat";
        if is_flat && let Some(holder) = self.parts.last_mut() {
            *holder = None;
        }
        let is_silent = is_flat || container.starts_with("Enum:");
        // A field `_3` is place 3 of torch's `Sequential`.
        let place = name.strip_prefix('_').filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
        self.parts.push((!is_silent).then(|| place.unwrap_or(name).to_string()));
        self.containers.push(container.to_string());
    }

    fn exit(&mut self) {
        self.parts.pop();
        self.containers.pop();
    }

    fn key(&self) -> Key {
        let name = self.parts.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(".");
        let container = self.containers.last().map_or("", String::as_str);
        let is_weight = self.parts.last().is_some_and(|part| part.as_deref() == Some("weight"));
        let is_running =
            self.parts.last().is_some_and(|part| matches!(part.as_deref(), Some(RUNNING_MEAN | RUNNING_VAR)));
        let layout = match (is_weight, container) {
            (true, "Struct:Linear") => Layout::Linear,
            (true, "Struct:Conv") => Layout::Kernel,
            _ => Layout::AsInFiles,
        };
        let is_statistic = container == "Struct:BatchNorm" && is_running;
        let is_exact = is_statistic || matches!(container, "Struct:Rope" | "Struct:Directions");
        Key { name, layout, is_statistic, is_exact }
    }
}

/// Whether `text` matches `pattern`. Each `*` matches any text, including none.
pub fn wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(last) = parts.next_back() else { return pattern == text };
    let Some(mut rest) = text.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else {
        return false;
    };
    parts.all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::wildcard;

    #[test]
    fn a_star_stands_for_any_text() {
        let matching = [
            ("head.weight", "head.weight"),
            ("", ""),
            ("*", ""),
            ("*", "anything"),
            ("**", "anything"),
            ("head.*", "head.weight"),
            ("head.*", "head."),
            ("*.bias", "layers.0.attn.qkv.bias"),
            ("layers.*.bias", "layers.0.attn.qkv.bias"),
            ("layers.*.attn.*.bias", "layers.0.attn.qkv.bias"),
            ("*attn*", "layers.0.attn.qkv.bias"),
            ("*ab", "abab"),
            ("*ab*ab", "xabyab"),
            ("*ü*", "grüße"),
        ];
        for (pattern, text) in matching {
            assert!(wildcard(pattern, text), "{pattern} is {text}");
        }
        let other = [
            ("head", "head.weight"),
            ("weight", "head.weight"),
            ("", "x"),
            ("head.*", "head"),
            ("*.bias", "layers.0.bias_x"),
            ("layers.*.bias", "layers.bias"),
            ("*attn*qkv*attn*", "layers.0.attn.qkv.bias"),
            ("a*a", "a"),
            ("ab*ba", "aba"),
            ("*aab*ab", "aab"),
        ];
        for (pattern, text) in other {
            assert!(!wildcard(pattern, text), "{pattern} is not {text}");
        }
    }
}
