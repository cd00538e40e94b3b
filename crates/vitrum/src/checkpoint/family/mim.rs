//! Files of Vision Transformers for masked image modelling: our own with timm's names, and transformers'
//! `ViTForMaskedImageModeling`.

use serde_json::{Map, Value, json};

use super::maps::Shapes;
use super::{Files, HuggingFaceModel, Inferred, Naming, vit};
use crate::checkpoint::fields::Fields;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::Report;
use crate::checkpoint::{LoadError, TensorMap};
use crate::models::mim::{MimConfig, MimTarget, is_head};
use crate::models::vit::VitConfig;
use crate::models::{Config, ModelConfig};

const HEAD: &str = "decoder.0.weight";

/// transformers' names.
const HUGGING_FACE: [Row; 1] = [("embeddings.mask_token", "mask_token", Edit::Keep)];
const BESIDE: [Row; 1] = [("decoder.0", "decoder.0", Edit::Keep)];

impl Files for MimConfig {
    const NAMINGS: &'static [Naming] = &[
        Naming {
            rows: &[&vit::keys::timm::ROWS],
            ..Naming::new(Dialect::Timm, &[vit::keys::timm::TELLTALE, HEAD, "mask_token"])
        },
        Naming {
            rows: &[&HUGGING_FACE, &vit::keys::huggingface::ROWS],
            beside: &BESIDE,
            base: "vit.",
            heads: &[],
            complete: as_kernel,
            ..Naming::new(
                Dialect::HuggingFace,
                &[vit::keys::huggingface::TELLTALE, "embeddings.mask_token", HEAD],
            )
        },
    ];

    fn first_conv(&self) -> String {
        self.vit.first_conv()
    }

    fn finish(tensors: &mut TensorMap) -> Result<(), LoadError> {
        VitConfig::finish(tensors)
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let Inferred { config, mut notes } = vit::infer_with(&file.map, None, &vit::Told::of(file, 0))?;
        let vit = vit::usual(config, file.dialect);
        notes.push(format!("activation and epsilon are assumed as usual for {}", file.dialect.name()));
        let values = match Shapes(&file.map).find::<4>(HEAD) {
            Some([values, ..]) => values,
            None => Shapes(&file.map).get::<2>(HEAD)?[0],
        };
        let of = |target| Self { vit: vit.clone(), target, ..Self::default() };
        let fits = |target: &MimTarget| of(*target).patch_values() == values;
        let target = [MimTarget::Pixels, MimTarget::MeanColor, MimTarget::Downsized].into_iter().find(fits);
        let config = match target {
            Some(MimTarget::Pixels) => Self::simmim(vit),
            Some(target) => of(target),
            None => {
                let reason = format!("gives {values} values for each patch, which no known target has");
                return Err(LoadError::tensor(&file.map.path, HEAD, reason));
            }
        };
        notes.push(match config.target {
            MimTarget::Pixels => "it is taken for SimMIM; the tensors do not show the loss of pixels".into(),
            _ => "the tensors do not show mask_ratio; 0.5 is assumed".to_string(),
        });
        config.validate().map_err(|error| LoadError::config(&file.map.path, error))?;
        Ok(Inferred { config, notes })
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        self.vit.fit(tensors, of.map(|of| &of.vit), report);
    }

    fn kernels(&self) -> Vec<String> {
        vec![HEAD.into()]
    }

    fn num_features(&self) -> usize {
        self.vit.embed_dim
    }

    fn encoder(&self) -> Option<ModelConfig> {
        Some(self.vit.clone().into())
    }

    fn serves_pretraining(key: &str) -> bool {
        is_head(key)
    }

    fn timm_args(&self, _: &Self, _: &mut Map<String, Value>) -> Result<(), String> {
        Err("timm has no Vision Transformer that predicts masked patches".into())
    }

    fn of_huggingface(fields: &Fields<'_>, class: Option<&str>) -> Option<Result<Self, String>> {
        let is_mim =
            fields.text("model_type") == Ok(Some("vit")) && class == Some("ViTForMaskedImageModeling");
        is_mim.then(|| {
            let vit = VitConfig { num_classes: 0, ..vit::huggingface::common(fields)? };
            let stride = fields.size("encoder_stride")?.unwrap_or(16);
            if [stride; 2] != vit.patch_size {
                return Err(format!("`encoder_stride` {stride} is not the size of a patch"));
            }
            // The mask belongs to the training, not to the file.
            let mask_patch_size = Some(32).filter(|side| side % stride == 0);
            Ok(Self { mask_patch_size, ..Self::simmim(vit) })
        })
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        if self.target != MimTarget::Pixels {
            return Err(
                "transformers' ViTForMaskedImageModeling predicts pixels with an absolute loss".into()
            );
        }
        let [p, q] = self.vit.patch_size;
        if p != q {
            return Err(format!("transformers' ViTForMaskedImageModeling has square patches, not {p}x{q}"));
        }
        let mut fields = vit::huggingface::fields(&self.vit)?;
        fields.insert("encoder_stride".into(), json!(p));
        let is_own = vit::huggingface::is_own(&self.vit);
        Ok(HuggingFaceModel { model_type: "vit", class: "ViTForMaskedImageModeling", fields, is_own })
    }
}

/// Makes the head's matrix a kernel of 1x1, as transformers holds it.
fn as_kernel(tensors: &mut TensorMap) -> Result<(), LoadError> {
    let Some(head) = tensors.get(HEAD) else { return Ok(()) };
    let &[values, width] = head.shape() else { return Ok(()) };
    let kernel =
        head.reshape(&[values, width, 1, 1]).map_err(|e| LoadError::tensor(&tensors.path, HEAD, e))?;
    tensors.tensors.insert(HEAD.into(), kernel);
    Ok(())
}
