//! Files of DeiT's distilled models: timm (and DeiT's own code), transformers. They have the tensors of a Vision
//! Transformer, a distillation token and its head.

use serde_json::{Map, Value};

use super::{Files, HuggingFaceModel, Inferred, Naming, vit};
use crate::checkpoint::fields::Fields;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::Report;
use crate::checkpoint::{LoadError, TensorMap};
use crate::models::deit::{DeitAnswer, DeitConfig};
use crate::models::vit::VitConfig;

/// transformers' name of the distillation token.
const HUGGING_FACE: [Row; 1] = [("embeddings.distillation_token", "dist_token", Edit::Keep)];

/// Heads of transformers' `DeiTForImageClassificationWithTeacher`, outside the base model.
const BOTH_HEADS: [Row; 2] =
    [("cls_classifier", "head", Edit::Keep), ("distillation_classifier", "head_dist", Edit::Keep)];

/// Head of transformers' `DeiTForImageClassification`.
const ONE_HEAD: [Row; 1] = [("classifier", "head", Edit::Keep)];

/// The token's older name.
const OLD: [Row; 1] = [("distillation_token", "dist_token", Edit::Keep)];

const PATCHES: &str = vit::keys::huggingface::TELLTALE;
const TOKEN: &str = "embeddings.distillation_token";

const fn hugging_face(telltales: &'static [&'static str], beside: &'static [Row]) -> Naming {
    Naming {
        rows: &[&HUGGING_FACE, &vit::keys::huggingface::ROWS],
        beside,
        base: "deit.",
        heads: &["classifier", "cls_classifier"],
        left_out: vit::keys::huggingface::left_out,
        ..Naming::new(Dialect::HuggingFace, telltales)
    }
}

const fn timm(telltales: &'static [&'static str]) -> Naming {
    Naming {
        rows: &[&OLD, &vit::keys::timm::ROWS],
        left_out: |name, _| vit::keys::official::left_out(name),
        ..Naming::new(Dialect::Timm, telltales)
    }
}

impl Files for DeitConfig {
    const NAMINGS: &'static [Naming] = &[
        timm(&[vit::keys::timm::TELLTALE, "dist_token"]),
        timm(&[vit::keys::timm::TELLTALE, "distillation_token"]),
        hugging_face(&[PATCHES, TOKEN, "distillation_classifier.weight"], &BOTH_HEADS),
        hugging_face(&[PATCHES, TOKEN], &ONE_HEAD),
    ];

    fn first_conv(&self) -> String {
        self.vit.first_conv()
    }

    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        VitConfig::finish(tensors)
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let Inferred { config, mut notes } = vit::infer_with(&file.map, None, &vit::Told::of(file, 1))?;
        let vit = VitConfig { more_tokens: 0, ..vit::usual(config, file.dialect) };
        notes.push(format!("activation and epsilon are assumed as usual for {}", file.dialect.name()));
        let head_dist = vit.num_classes == 0 || file.map.contains("head_dist.weight");
        Ok(Inferred { config: Self { vit, head_dist, answer: DeitAnswer::Mean }, notes })
    }

    fn settle_named(self, file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let Inferred { config: vit, notes } = self.vit.settle_named(file)?;
        let head_dist = vit.num_classes == 0 || file.map.contains("head_dist.weight");
        Ok(Inferred { config: Self { vit, head_dist, ..self }, notes })
    }

    fn settle_huggingface(self, file: &TensorMap, class: Option<&str>) -> Inferred<Self> {
        let Inferred { config: vit, notes } = self.vit.settle_huggingface(file, class);
        let head_dist = match class {
            Some(_) => self.head_dist,
            None => file.contains("head_dist.weight"),
        };
        Inferred { config: Self { vit, head_dist, ..self }, notes }
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        let of = of.map(DeitConfig::encoder);
        self.encoder().fit(tensors, of.as_ref(), report);
    }

    fn num_features(&self) -> usize {
        self.vit.num_features()
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        let vit = self.vit.timm_arg(key, value)?;
        Some(vit.map(|vit| Self { vit, ..self.clone() }))
    }

    fn timm_args(&self, base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        if !self.head_dist {
            return Err("timm's distilled DeiT always has two heads, but this model has one".into());
        }
        if self.answer != base.answer {
            return Err("timm's distilled DeiT always gives the mean of its heads".into());
        }
        self.vit.timm_args(&base.vit, args)
    }

    fn of_huggingface(fields: &Fields<'_>, class: Option<&str>) -> Option<Result<Self, String>> {
        let read = || {
            let mut config = vit::huggingface::common(fields)?;
            config.representation_size = vit::huggingface::pooler(fields, class)?;
            let head_dist = class == Some("DeiTForImageClassificationWithTeacher");
            Ok(Self { vit: config, head_dist, answer: DeitAnswer::Mean })
        };
        (fields.text("model_type") == Ok(Some("deit"))).then(read)
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        if self.has_both_heads() && self.answer != DeitAnswer::Mean {
            return Err("transformers' DeiT with a teacher always gives the mean of its heads".into());
        }
        let class = match (self.vit.num_classes > 0, self.head_dist) {
            (false, _) => "DeiTModel",
            (true, false) => "DeiTForImageClassification",
            (true, true) => "DeiTForImageClassificationWithTeacher",
        };
        Ok(HuggingFaceModel {
            model_type: "deit",
            class,
            fields: vit::huggingface::fields(&self.vit)?,
            is_own: vit::huggingface::is_own(&self.vit),
        })
    }
}
