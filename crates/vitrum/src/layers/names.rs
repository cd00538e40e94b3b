//! From a parameter's place in a module to its key in a checkpoint; patterns of keys and names.

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
