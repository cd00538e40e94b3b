//! Files of PiT: timm, and the authors' code, whose pooling stands beside the stages.

use serde_json::{Map, Value};

use super::maps::Shapes;
use super::{Files, HuggingFaceModel, Inferred, Naming};
use crate::checkpoint::fields::mlp_ratio;
use crate::checkpoint::keys::{Edit, Row};
use crate::checkpoint::naming::{Converted, Dialect};
use crate::checkpoint::report::{Report, ShapeChange};
use crate::checkpoint::{HostTensor, LoadError, TensorMap};
use crate::layers::resample::resample_grid;
use crate::models::pit::PitConfig;

/// The authors' names of what timm calls otherwise.
const OFFICIAL: [Row; 2] = [
    ("pools.{N}.conv", "transformers.{N+1}.pool.conv", Edit::Keep),
    ("pools.{N}.fc", "transformers.{N+1}.pool.fc", Edit::Keep),
];

const PATCHES: &str = "patch_embed.conv.weight";
const BLOCK: &str = "transformers.0.blocks.0.norm1.weight";
const POSITIONS: &str = "pos_embed";

/// Widths of a head in published models, by the width of their first stage.
const HEADS: [(usize, usize); 4] = [(64, 32), (96, 48), (144, 48), (256, 64)];

const fn naming(
    dialect: Dialect,
    telltales: &'static [&'static str],
    rows: &'static [&'static [Row]],
) -> Naming {
    Naming { rows, widths: &["norm.weight"], ..Naming::new(dialect, telltales) }
}

impl Files for PitConfig {
    const NAMINGS: &'static [Naming] = &[
        naming(Dialect::Timm, &[PATCHES, BLOCK], &[]),
        naming(Dialect::Official, &[PATCHES, BLOCK, "pools.0.conv.weight"], &[&OFFICIAL]),
    ];

    fn first_conv(&self) -> String {
        "patch_embed.conv".into()
    }

    fn infer(file: &Converted) -> Result<Inferred<Self>, LoadError> {
        let shapes = Shapes(&file.map);
        let mut notes = Vec::new();
        let [first, in_chans, patch_size, _] = shapes.get::<4>(PATCHES)?;
        let [_, _, rows, columns] = shapes.get::<4>(POSITIONS)?;
        let [_, tokens, _] = shapes.get::<3>("cls_token")?;
        let stages = shapes.count("transformers.{}.blocks.0.norm1.weight", 0);
        let depth = (0..stages)
            .map(|stage| shapes.count(&format!("transformers.{stage}.blocks.{{}}.norm1.weight"), 0))
            .collect();
        let mut widths = Vec::new();
        for stage in 0..stages {
            let [width] = shapes.get::<1>(&format!("transformers.{stage}.blocks.0.norm1.weight"))?;
            widths.push(width);
        }
        let over = |others: &[usize]| -> Vec<usize> {
            widths.iter().zip(others).map(|(width, other)| width.checked_div(*other).unwrap_or(0)).collect()
        };
        let of_stages = |field: &str| file.told_as::<Vec<usize>>(field).filter(|told| told.len() == stages);
        let base_dims = match (of_stages("base_dims"), of_stages("heads")) {
            (Some(base), _) => base,
            (None, Some(heads)) => over(&heads),
            (None, None) => vec![head_width(first, &file.map, &mut notes)?; stages],
        };
        let [hidden, _] = shapes.get::<2>("transformers.0.blocks.0.mlp.fc1.weight")?;
        let stride = file.told_as("stride").unwrap_or_else(|| {
            // A patch is twice as long as a step in all published models.
            let stride = (patch_size / 2).max(1);
            notes.push(format!(
                "the step of the patches is not in the tensors; {stride} is assumed, half of a patch"
            ));
            stride
        });
        let side = |cells: usize| cells.saturating_sub(1).saturating_mul(stride).saturating_add(patch_size);
        let config = Self {
            img_size: file.img_size().unwrap_or([side(rows), side(columns)]),
            patch_size,
            stride,
            in_chans,
            num_classes: file.map.rows("head.weight").unwrap_or(0),
            heads: over(&base_dims),
            base_dims,
            depth,
            mlp_ratio: mlp_ratio(hidden, first),
            distilled: tokens == 2,
            ..Self::default()
        };
        let Inferred { config, notes: more } = file.checked(config)?.settle_named(file)?;
        notes.extend(more);
        Ok(Inferred { config, notes })
    }

    fn fit(&self, tensors: &mut TensorMap, of: Option<&Self>, report: &mut Report) {
        report.resized.extend(resize_positions(self, tensors));
        let old = of.map(|of| of.in_chans);
        super::maps::change_channels(&self.first_conv(), self.in_chans, old, tensors, report);
    }

    fn num_features(&self) -> usize {
        Self::num_features(self)
    }

    fn timm_arg(&self, key: &str, value: &Value) -> Option<Result<Self, String>> {
        match key {
            "stem_type" => Some(Ok(self.clone())), // timm's constructor does not read it
            "global_pool" if value == "token" => Some(Ok(self.clone())),
            "global_pool" => Some(Err(format!("`global_pool` {value} is not supported, only `token`"))),
            _ => None,
        }
    }

    fn timm_args(&self, base: &Self, args: &mut Map<String, Value>) -> Result<(), String> {
        if self.has_both_heads() && self.answer != base.answer {
            return Err("timm's distilled PiT always gives the mean of its heads".into());
        }
        args.remove("answer");
        args.remove("pos_resize");
        Ok(())
    }

    fn to_huggingface(&self) -> Result<HuggingFaceModel, String> {
        Err("transformers has no PiT".into())
    }
}

/// Width of a head, which no tensor shows.
fn head_width(width: usize, map: &TensorMap, notes: &mut Vec<String>) -> Result<usize, LoadError> {
    let known = HEADS.iter().find(|(first, _)| *first == width).map(|(_, base)| *base);
    let Some(base) = known.or((width > 0 && width.is_multiple_of(64)).then_some(64)) else {
        let reason = format!(
            "the width of a head is not in the tensors, and a width of {width} is of no published PiT\n\
             hint: the model's name or configuration states it, or `heads` in a key file with its `family`"
        );
        return Err(LoadError::unshown(&map.path, "heads", reason));
    };
    notes.push(format!("the width of a head is not in the tensors; {base} is assumed"));
    Ok(base)
}

/// Resizes the map of positions to the grid of the model. A map that cannot be resized stays, and is reported as
/// mismatched.
fn resize_positions(config: &PitConfig, tensors: &mut TensorMap) -> Option<ShapeChange> {
    let table = tensors.get(POSITIONS)?;
    let &[1, width, rows, columns] = table.shape() else { return None };
    let [new_rows, new_columns] = config.grid();
    if [rows, columns] == [new_rows, new_columns] || [width, rows, columns].contains(&0) {
        return None;
    }
    let (found, expected) = (table.shape().to_vec(), vec![1, width, new_rows, new_columns]);
    let cells = table.permute(&[0, 2, 3, 1]).ok()?; // [1, H, W, D]
    let cells =
        resample_grid(&cells.to_f64(), width, [rows, columns], [new_rows, new_columns], config.pos_resize);
    let cells = HostTensor::from_f64(vec![1, new_rows, new_columns, width], &cells).ok()?;
    let resized = cells.permute(&[0, 3, 1, 2]).ok()?;
    tensors.tensors.insert(POSITIONS.into(), resized);
    Some(ShapeChange { key: POSITIONS.into(), found, expected })
}
