//! From a parameter's place in a module to its key in a checkpoint; patterns of keys and names.

use std::ops::{Deref, DerefMut};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;

use super::batch_norm::{RUNNING_MEAN, RUNNING_VAR};

/// A module whose fields stand in the checkpoint at its parent's level: neither the field that holds it nor `inner` is
/// part of a key.
///
/// timm keeps position tables at the top of a model (`pos_embed`), and a derived model's files hold the tensors of the
/// model it derives from without a name in front.
#[derive(Module, Debug)]
pub struct Flat<M: Module> {
    /// The module.
    pub inner: M,
}

impl<M: Module> Flat<M> {
    /// Keeps `inner`'s keys as they are.
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

/// The key of a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// timm's name, such as `blocks.0.attn.qkv.weight`.
    pub name: String,
    /// Whether the parameter is the weight of a `Linear`, held as `[d_in, d_out]` where files hold `[d_out, d_in]`.
    pub is_linear_weight: bool,
    /// Whether it is no parameter but a running statistic of a `BatchNorm`: never trained, always averaged.
    pub is_statistic: bool,
}

/// Sees every floating-point parameter of a module with its key.
pub trait Visit {
    /// One parameter. Reading its value makes a lazy one; its shape does not.
    fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>);
}

/// Gives every floating-point parameter of a module a new value, by its key.
pub trait Map {
    /// One parameter.
    fn float<const R: usize>(&mut self, key: &Key, param: Param<Tensor<R>>) -> Param<Tensor<R>>;
}

/// Shows all parameters of `module` to `visitor`, in the order of its fields.
pub fn visit<M: Module>(module: &M, visitor: &mut impl Visit) {
    module.visit(&mut Visitor { path: KeyPath::default(), visitor });
}

/// `module` with the parameters that `mapper` returns.
pub fn map<M: Module>(module: M, mapper: &mut impl Map) -> M {
    module.map(&mut Mapper { path: KeyPath::default(), mapper })
}

/// Key and shape in memory of every parameter. Reads no value.
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

/// The path of the parameter that a visitor sees. Three things are no part of a key: the variant of an enum
/// (`Model::Vit`), a [`Flat`] module's field `inner`, and the field that holds it.
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
        self.parts.push((!is_silent).then(|| name.to_string()));
        self.containers.push(container.to_string());
    }

    fn exit(&mut self) {
        self.parts.pop();
        self.containers.pop();
    }

    fn key(&self) -> Key {
        let name = self.parts.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(".");
        let in_linear = self.containers.last().is_some_and(|container| container == "Struct:Linear");
        let is_weight = self.parts.last().is_some_and(|part| part.as_deref() == Some("weight"));
        let in_norm = self.containers.last().is_some_and(|container| container == "Struct:BatchNorm");
        let is_running =
            self.parts.last().is_some_and(|part| matches!(part.as_deref(), Some(RUNNING_MEAN | RUNNING_VAR)));
        Key { name, is_linear_weight: in_linear && is_weight, is_statistic: in_norm && is_running }
    }
}

/// Whether `text` is `pattern`, in which each `*` stands for any text, also none.
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
            ("*.bias", "blocks.0.attn.qkv.bias"),
            ("blocks.*.bias", "blocks.0.attn.qkv.bias"),
            ("blocks.*.attn.*.bias", "blocks.0.attn.qkv.bias"),
            ("*attn*", "blocks.0.attn.qkv.bias"),
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
            ("*.bias", "blocks.0.bias_x"),
            ("blocks.*.bias", "blocks.bias"),
            ("*attn*qkv*attn*", "blocks.0.attn.qkv.bias"),
            ("a*a", "a"),
            ("ab*ba", "aba"),
            ("*aab*ab", "aab"),
        ];
        for (pattern, text) in other {
            assert!(!wildcard(pattern, text), "{pattern} is not {text}");
        }
    }
}
