//! Files of the plain Vision Transformer: timm, transformers, torchvision, Google's JAX code, OpenAI's CLIP, Microsoft's
//! BEiT-3, Apple's AIMv2 and vit-pytorch.

pub(super) mod convert;
pub(super) mod fit;
pub(super) mod huggingface;
mod infer;
pub(super) mod keys;
mod lucidrains;

use serde_json::{Map, Value, json};

use super::{Files, HuggingFaceModel, Inferred, Naming, headless};
use crate::checkpoint::fields::Fields;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::Report;
use crate::checkpoint::{LoadError, TensorMap};
use crate::models::vit::{
    Activation, AttnLayer, MlpLayer, NormLayer, PosEmbed, PosResize, VitConfig, WeightInit,
};

pub use infer::infer_config;
pub(super) use infer::{Told, infer_with, split_rows};

/// Rows of vit-pytorch before 1.0.
const LUCIDRAINS: [&[Row]; 2] = [&keys::lucidrains::PATCHES, &keys::lucidrains::ROWS];

impl Files for VitConfig {
    const NAMINGS: &'static [Naming] = &[
        Naming {
            rows: &[&keys::timm::ROWS],
            left_out: |name, _| keys::official::left_out(name),
            // OpenCLIP keeps the projection into the shared space outside timm's trunk.
            outside: |prefix, name| {
                let is_head = prefix.ends_with("visual.trunk.") && name.ends_with("visual.head.proj.weight");
                is_head.then(|| ("head.weight".to_string(), Edit::Keep))
            },
            ..Naming::new(Dialect::Timm, &[keys::timm::TELLTALE])
        },
        Naming {
            rows: &[&keys::huggingface::ROWS],
            beside: &keys::huggingface::HEADS,
            base: "vit.",
            heads: &["classifier", "cls_classifier"],
            left_out: keys::huggingface::left_out,
            ..Naming::new(Dialect::HuggingFace, &[keys::huggingface::TELLTALE])
        },
        Naming {
            rows: &[&keys::torchvision::ROWS],
            heads: &["heads.head", "heads"],
            ..Naming::new(Dialect::Torchvision, &[keys::torchvision::TELLTALE])
        },
        Naming {
            rows: &[&keys::google::ROWS],
            heads: &[],
            stacked: Some([keys::google::STACKED, keys::google::NUMBERED]),
            ..Naming::new(Dialect::Google, &[keys::google::TELLTALE])
        },
        Naming {
            rows: &[&keys::beit3::ROWS],
            left_out: |name, _| keys::beit3::left_out(name),
            finish: |map| convert::finish_beit3(map).map(|()| None),
            ..Naming::new(Dialect::Official, &[keys::beit3::TELLTALE])
        },
        Naming {
            rows: &[&keys::aimv2::ROWS],
            heads: &[],
            ..Naming::new(Dialect::Official, &[keys::aimv2::TELLTALE])
        },
        Naming {
            rows: &[&keys::clip::ROWS],
            heads: &[],
            is_weak: true,
            ..Naming::new(Dialect::Clip, &[keys::clip::TELLTALE])
        },
        lucidrains::naming(
            &[&keys::lucidrains::DUAL_NORM, &keys::lucidrains::ROWS],
            &keys::lucidrains::DUAL_NORM_TELLTALES,
        ),
        lucidrains::naming(&LUCIDRAINS, &[keys::lucidrains::TELLTALE]),
        Naming {
            finish: lucidrains::finish_old,
            ..lucidrains::naming(&LUCIDRAINS, &[keys::lucidrains::OLD_TELLTALE])
        },
    ];

    fn first_conv(&self) -> String {
        "patch_embed.proj".into()
    }

    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        convert::finish(tensors)
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let Inferred { config, mut notes } = infer_with(&file.map, None, &Told::of(file, 0))?;
        let config = match file.dialect {
            Dialect::Lucidrains => lucidrains::settle(config, &file.map, &mut notes),
            _ => config,
        };
        let config = usual(config, file.dialect);
        let usual_for = match file.dialect {
            Dialect::Custom => "timm, unless the key file says otherwise",
            known => known.name(),
        };
        notes.push(format!(
            "activation, epsilon and no rotary positions are assumed as usual for {usual_for}"
        ));
        Ok(Inferred { config, notes })
    }

    fn settle_named(self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let mut notes = headless(&self);
        let mut config = self;
        config.representation_size = file.map.rows("pre_logits.fc.weight");
        if file.dialect == Dialect::Clip {
            // Both kinds of GELU occur under these names, and timm has names for both.
            let act = spelled(config.act_layer);
            notes.push(format!("act_layer={act} by the model's name; the tensors do not show it"));
        } else if !matches!(file.dialect, Dialect::Timm | Dialect::Custom) {
            config = usual(config, file.dialect);
            notes.push(format!(
                "{} names, so act_layer={}, norm_eps={:e}, pos_resize={}",
                file.dialect.name(),
                spelled(config.act_layer),
                config.norm_eps,
                spelled(config.pos_resize),
            ));
        }
        Ok(Inferred { config, notes })
    }

    fn settle_huggingface(mut self, file: &TensorMap, class: Option<&str>) -> Inferred<Self> {
        const POOLER: &str = "pre_logits.fc.weight";
        let mut notes = Vec::new();
        if !file.contains("head.weight") {
            if class.is_none() {
                self.representation_size = file.rows(POOLER);
            } else if self.num_classes == 0 && self.representation_size.is_some() && !file.contains(POOLER) {
                self.representation_size = None;
                notes.push("no pooler in this file: the model gives the class token itself".into());
            }
        }
        Inferred { config: self, notes }
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        fit::fit(self, tensors, of, report);
    }

    fn narrow(tensors: &mut TensorMap) -> Result<(), LoadError> {
        let path = tensors.path.clone();
        convert::narrow_folded(&mut tensors.tensors)
            .map_err(|(key, reason)| LoadError::tensor(&path, &key, reason))
    }

    fn num_features(&self) -> usize {
        self.embed_dim
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        let same = || Some(Ok(self.clone()));
        match key {
            // They concern input and initialisation, not the computation.
            "dynamic_img_size" | "strict_img_size" | "fix_init" if value.is_boolean() => same(),
            "dynamic_img_pad" if value == &Value::Bool(false) => same(),
            "norm_layer" => Some(match norm_layer(value) {
                Some(norm_layer) => Ok(Self { norm_layer, norm_eps: NAMED_EPS, ..self.clone() }),
                None => Err(format!("`norm_layer` {value} is not supported")),
            }),
            "attn_layer" if value == "" => Some(Ok(Self { attn_layer: AttnLayer::Attn, ..self.clone() })),
            "mlp_layer" | "block_fn" => {
                Some(Err(format!("unknown argument `{key}` = {value}: timm takes a class")))
            }
            _ => None,
        }
    }

    fn timm_args(&self, base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        if self.representation_size.is_some() {
            return Err("timm has no layer before the head (representation_size)".into());
        }
        if self.res_post_norm != base.res_post_norm {
            return Err("timm's config.json cannot state res_post_norm".into());
        }
        for (field, differs) in [
            ("block_norm", self.block_norm != base.block_norm),
            ("attn_head_dim", self.attn_head_dim != base.attn_head_dim),
            ("patch_norm", self.patch_norm != base.patch_norm),
            ("embed_norm", self.embed_norm != base.embed_norm),
            ("mlp_layer", self.mlp_layer != base.mlp_layer),
            ("block_fn", self.block_fn != base.block_fn),
            // timm's norm of the patches has a form of its own.
            ("norm_layer", self.norm_layer != base.norm_layer && (self.embed_norm || base.embed_norm)),
        ] {
            if differs {
                return Err(format!("timm's config.json cannot state {field}"));
            }
        }
        // A norm that is named has timm's usual epsilon.
        let eps = if self.norm_layer == base.norm_layer { base.norm_eps } else { NAMED_EPS };
        if self.norm_eps != eps {
            return Err(format!(
                "timm's config.json cannot state an epsilon of {:e} (the architecture has {:e})",
                self.norm_eps, eps
            ));
        }
        args.remove("representation_size");
        args.remove("pos_resize");
        args.remove("cpe_blocks");
        if !base.pos_embed.is_relative() {
            timm_position(base.pos_embed, base.pos_embed)?; // No architecture of timm's has others.
        }
        if self.pos_embed != base.pos_embed {
            args.insert("pos_embed".into(), json!(timm_position(self.pos_embed, base.pos_embed)?));
        }
        if self.weight_init != base.weight_init && self.weight_init == WeightInit::Timm {
            args.insert("weight_init".into(), json!(""));
        }
        Ok(())
    }

    fn of_huggingface(fields: &Fields<'_>, class: Option<&str>) -> Option<Result<Self, String>> {
        huggingface::read(fields, class)
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        huggingface::write(self)
    }
}

/// Epsilon of a norm that timm's `config.json` names.
const NAMED_EPS: f64 = 1e-6;

/// The norm of this name in timm.
pub(super) fn norm_layer(value: &Value) -> Option<NormLayer> {
    let name = value.as_str()?.replace('_', "").to_lowercase();
    serde_json::from_value(Value::String(name)).ok()
}

/// Sets what tensors do not show (activation, epsilon, position resizing) to the defaults of the dialect's library.
pub(super) fn usual(mut config: VitConfig, dialect: Dialect) -> VitConfig {
    let (act, eps, resize) = match dialect {
        Dialect::Timm => (Activation::Gelu, 1e-6, PosResize::BicubicAntialias),
        Dialect::HuggingFace => (Activation::Gelu, 1e-12, PosResize::Bicubic),
        Dialect::Torchvision => (Activation::Gelu, 1e-6, PosResize::Bicubic),
        // flax's `gelu` is the tanh approximation by default.
        Dialect::Google => (Activation::GeluTanh, 1e-6, PosResize::BilinearAligned),
        Dialect::Clip => (Activation::QuickGelu, 1e-5, PosResize::BicubicAntialias),
        // The epsilon is that of torch's LayerNorm. The library does not resize positions.
        Dialect::Lucidrains => (Activation::Gelu, 1e-5, PosResize::BicubicAntialias),
        Dialect::Custom => (Activation::Gelu, 1e-6, PosResize::BicubicAntialias),
        // BEiT-3 and AIMv2.
        Dialect::Official => (Activation::Gelu, 1e-5, PosResize::BicubicAntialias),
    };
    // transformers resizes positions with antialiasing only in its model with registers.
    let registers = dialect == Dialect::HuggingFace && config.reg_tokens > 0;
    config.pos_resize = if registers { PosResize::BicubicAntialias } else { resize };
    let act = if config.mlp_layer == MlpLayer::Mlp { act } else { Activation::Silu };
    (config.act_layer, config.norm_eps) = (act, eps);
    config
}

/// The name of a value in configuration files.
fn spelled(value: impl serde::Serialize) -> String {
    json!(value).as_str().map(str::to_string).unwrap_or_default()
}

/// timm's argument for a position encoding other than the architecture's.
fn timm_position(position: PosEmbed, of_architecture: PosEmbed) -> Result<&'static str, String> {
    match position {
        _ if of_architecture.is_relative() => {
            Err(format!("this timm architecture supports only {of_architecture:?} positions"))
        }
        PosEmbed::Learn => Ok("learn"),
        PosEmbed::None => Ok("none"),
        other => Err(format!("timm's VisionTransformer has no position encoding {other:?}")),
    }
}
