//! From a parameter's place in a module to its key in a checkpoint.

/// The path of the parameter being visited. Two things are left out, so that paths are timm's keys:
/// the variant of an enum (`Model::Vit`) and the field `position`, whose tables timm keeps at the top.
#[derive(Debug, Default)]
pub struct KeyPath {
    parts: Vec<Option<String>>,
    containers: Vec<String>,
}

impl KeyPath {
    /// For [`burn::module::ModuleMapper::enter_module`].
    pub fn enter(&mut self, name: &str, container: &str) {
        let transparent = container.starts_with("Enum:") || name == "position";
        self.parts.push((!transparent).then(|| name.to_string()));
        self.containers.push(container.to_string());
    }

    /// For [`burn::module::ModuleMapper::exit_module`].
    pub fn exit(&mut self) {
        self.parts.pop();
        self.containers.pop();
    }

    /// The key, such as `blocks.0.attn.qkv.weight`.
    pub fn key(&self) -> String {
        self.parts.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(".")
    }

    /// Whether the parameter is the weight of a `Linear`, held as `[d_in, d_out]` where files hold `[d_out, d_in]`.
    pub fn is_linear_weight(&self) -> bool {
        self.containers.last().is_some_and(|container| container == "Struct:Linear")
            && self.parts.last().is_some_and(|part| part.as_deref() == Some("weight"))
    }
}
