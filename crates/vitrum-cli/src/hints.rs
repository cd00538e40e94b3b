//! Hints for errors of the library, in terms of this command line.
//!
//! An error of the library names what it found and what it expected. This file adds the flag or command that helps.

use std::error::Error;

use vitrum::checkpoint::LoadError;
use vitrum::checkpoint::apply::Report;
#[cfg(feature = "hub")]
use vitrum::checkpoint::hub::HubError;
use vitrum::checkpoint::load::{EightBitsLimit, ModelError};
use vitrum::data::dataset::{DatasetError, DatasetProblem};
use vitrum::data::loader::LoaderError;
use vitrum::data::train_set::TrainDataError;
use vitrum::models::catalogue;
use vitrum::probe::ProbeError;
use vitrum::study::StudyError;
use vitrum::train::TrainError;
use vitrum::train::resume::{Change, ResumeError};

/// The error and its causes. A cause that the text already contains is left out.
pub fn explained(error: &anyhow::Error) -> String {
    error.chain().map(told).fold(String::new(), |text, cause| {
        if text.is_empty() {
            cause
        } else if text.contains(&cause) {
            text
        } else {
            format!("{text}: {cause}")
        }
    })
}

/// The text of one error, without its causes.
fn told(error: &(dyn Error + 'static)) -> String {
    match advice(error) {
        None => error.to_string(),
        Some(Advice::Further(text)) => format!("{error}{text}"),
        Some(Advice::Instead(text)) => text,
    }
}

/// The advice for an error.
enum Advice {
    /// Appended to the library's text.
    Further(String),
    /// Replaces the library's text, which names recipe keys or options instead of flags.
    Instead(String),
}

fn further(text: impl Into<String>) -> Option<Advice> {
    Some(Advice::Further(text.into()))
}

fn instead(text: impl Into<String>) -> Option<Advice> {
    Some(Advice::Instead(text.into()))
}

fn advice(error: &(dyn Error + 'static)) -> Option<Advice> {
    if let Some(error) = error.downcast_ref() {
        return any(error);
    }
    if let Some(error) = error.downcast_ref() {
        return study(error);
    }
    if let Some(error) = error.downcast_ref() {
        return train(error);
    }
    if let Some(error) = error.downcast_ref() {
        return probe(error);
    }
    if let Some(error) = error.downcast_ref() {
        return resume(error);
    }
    if let Some(error) = error.downcast_ref() {
        return model(error);
    }
    if let Some(error) = error.downcast_ref() {
        return load(error);
    }
    if let Some(error) = error.downcast_ref() {
        return dataset(error);
    }
    error.downcast_ref().and_then(loader)
}

fn any(error: &vitrum::Error) -> Option<Advice> {
    use vitrum::Error as E;
    match error {
        E::Load(error) => load(error),
        E::Model(error) => model(error),
        E::Loader(error) => loader(error),
        E::Probe(error) => probe(error),
        E::Dataset(error) => dataset(error),
        E::NoPreprocess { .. } => {
            further("\nhint: name the model (-m NAME with --checkpoint), or use a folder with config.json")
        }
        _ => None,
    }
}

fn study(error: &StudyError) -> Option<Advice> {
    use StudyError as E;
    match error {
        E::Changed { path, .. } | E::ChangedData { path, .. } => further(format!(
            "\nhint: restore what it was, choose another --output, or remove {} to run it again",
            path.display()
        )),
        E::OtherFolder { .. } => further("\nhint: choose another --output"),
        E::UnknownStudy { .. } => further("; `vitrum study --list` says more"),
        E::NoEffect { .. } => {
            further("\nhint: --set GROUP.KEY=VALUE replaces a group's value; the values of axes stay")
        }
        E::Train { run, source } => instead(format!("run {run}: {}", told(&**source))),
        _ => None,
    }
}

fn train(error: &TrainError) -> Option<Advice> {
    use TrainError as E;
    match error {
        E::Model(error) => model(error),
        E::Write(error) => load(error),
        E::Loader(error) => loader(error),
        E::Data(TrainDataError::Dataset(error)) => dataset(error),
        E::Dataset(error) => dataset(error),
        E::Resume(error) => resume(error),
        E::OtherRun { .. } => {
            further("\nhint: go on from them with --resume, or choose another --experiment")
        }
        E::ChangedData { .. } => further(", or pass --allow-changed-args to go on anyway"),
        E::NoReconstruction => {
            further("\nhint: -m mae_vit_tiny_patch4_32, or a ViT with --method mae, mpp or simmim")
        }
        E::NoBatchNorms { .. } => further("\nhint: leave out --freeze-bn"),
        E::OneValue { .. } => {
            further("\nhint: a larger --batch-size or --img-size, or in training --freeze-bn")
        }
        E::Diverged { .. } => {
            further("; a smaller --lr, a longer --warmup-epochs or --clip-grad 1 often helps")
        }
        _ => None,
    }
}

fn probe(error: &ProbeError) -> Option<Advice> {
    use ProbeError as E;
    match error {
        E::Train(error) => train(error),
        E::Data(TrainDataError::Dataset(error)) => dataset(error),
        E::Dataset(error) => dataset(error),
        E::Loader(error) => loader(error),
        E::NoValidation { .. } => further("\nhint: --val-data DATA, or a --val-fraction above 0"),
        E::NoClassToken { .. } => further("\nhint: --pool avg, or leave out --pool"),
        E::TooManyNeighbours { .. } => further("\nhint: a smaller --k"),
        E::TooLarge { .. } => further(" (--fraction F), or a larger --max-memory MIB"),
        E::Diverged { .. } => further(" (--blr)"),
        E::Singular { .. } => further(" (--l2)"),
        E::Option { field, found, expected } => {
            instead(format!("{} is {found}, expected {expected}", flag(field)))
        }
        _ => None,
    }
}

fn resume(error: &ResumeError) -> Option<Advice> {
    use ResumeError as E;
    match error {
        E::Tensors(error) => load(error),
        E::Full { .. } => {
            further("; make room and go on with --resume, or keep fewer with --checkpoint-hist")
        }
        E::AllDamaged { .. } => further(" or choose another --experiment"),
        E::Nothing { .. } => further("\nhint: --resume auto starts a new run if there is no checkpoint"),
        E::Locked { .. } => further(", or choose another --experiment"),
        E::Changed { run, step, changes } => instead(format!(
            "cannot resume {}: arguments changed since step {step}\n{}",
            run.display(),
            changed(changes)
        )),
        _ => None,
    }
}

/// Keys of a recipe as flags, each with its old and its new value.
fn changed(changes: &[Change]) -> String {
    let flags: Vec<String> = changes.iter().map(|change| flag(&change.key)).collect();
    let width = flags.iter().map(String::len).max().unwrap_or(0);
    let line =
        |(flag, Change { old, new, .. }): (&String, &Change)| format!("  {flag:width$}   {old} -> {new}\n");
    let lines: String = flags.iter().zip(changes).map(line).collect();
    format!(
        "{lines}hint: leave {} as before, or pass --allow-changed-args to continue anyway (the run will no longer be \
         reproducible)",
        flags.join(", ")
    )
}

/// `--weight-decay` for `weight_decay`.
fn flag(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

fn model(error: &ModelError) -> Option<Advice> {
    use ModelError as E;
    match error {
        E::Load(error) => load(error),
        #[cfg(feature = "hub")]
        E::Hub(error) => hub(error),
        E::NotFound { .. } => further(
            "\nhint: a model is a folder, a file of weights, a name of `vitrum models list`, or hf:ORG/NAME",
        ),
        E::NoWeights { model } => further(match catalogue::entry(model) {
            Ok(entry) if entry.tags.is_empty() => {
                "\nhint: add --checkpoint FILE; this name has no published weights".into()
            }
            _ => format!(
                "\nhint: add --checkpoint FILE, or fetch published ones with -m hf:timm/{}",
                published(model)
            ),
        }),
        E::PrecisionDtype { precision, .. } => instead(format!(
            "--precision {} computes all other values in f32\nhint: leave out --dtype, or --precision",
            precision.name()
        )),
        E::PrecisionDevice { precision } => instead(format!(
            "--precision {} does not run on this device\nhint: --device cpu, or leave out --precision",
            precision.name()
        )),
        E::DtypeDevice { .. } => further("\nhint: --device cpu, or leave out --dtype"),
        E::PrecisionLayers { .. } => further("\nhint: leave out --precision"),
        E::EightBits { limit: EightBitsLimit::Dtype, .. } => further("\nhint: leave out --dtype"),
        E::EightBits { limit: EightBitsLimit::Device, .. } => further("\nhint: --device cpu"),
        E::EightBits { limit: EightBitsLimit::Bf16, .. } => {
            further("\nhint: leave out --precision, or use the original model with float weights")
        }
        E::Refused { report, .. } => further(refused(report)),
        E::NoHead { .. } => further("\nhint: `vitrum embed` gives its features, `vitrum finetune` a head"),
        _ => None,
    }
}

/// The hub name of a catalogue model's published weights. The name may already contain a tag.
fn published(model: &str) -> String {
    let model = catalogue::renamed(model).unwrap_or(model);
    match model.contains('.') {
        true => model.to_string(),
        false => format!("{model}.TAG (tags: `vitrum models info {model}`)"),
    }
}

fn refused(report: &Report) -> &'static str {
    if report.heads_differ {
        return "\nhint: --num-classes K gives the model a new head, --num-classes 0 removes the head";
    }
    if !report.mismatched.is_empty() {
        return "\nhint: is it another model? `vitrum checkpoint inspect` shows what the file holds";
    }
    if !report.missing.is_empty() && !report.unexpected.is_empty() {
        return "\nhint: if the file has other names for these tensors, map them in a key file (--keys FILE; \
                `vitrum checkpoint inspect FILE --suggest-keys` prints one to begin from); \
                --allow-missing KEY and --allow-unexpected KEY accept differences by name";
    }
    "\nhint: --allow-missing KEY and --allow-unexpected KEY accept differences by name"
}

fn load(error: &LoadError) -> Option<Advice> {
    match error {
        LoadError::Dialect { path, .. } => further(format!(
            " (--keys FILE); `vitrum checkpoint inspect {} --suggest-keys` prints one to begin from",
            path.display()
        )),
        LoadError::Unshown { .. } => further(" (-m NAME with --checkpoint, or --keys FILE)"),
        LoadError::Exists { .. } => further("\nhint: --overwrite, or choose another place"),
        _ => None,
    }
}

#[cfg(feature = "hub")]
fn hub(error: &HubError) -> Option<Advice> {
    match error {
        HubError::NotCached { .. } => further(" (--offline, HF_HUB_OFFLINE)"),
        HubError::Unreachable { .. } => further("; --offline uses the cache only"),
        HubError::Status { status: 500.., .. } => further(", or use --offline if the model is cached"),
        _ => None,
    }
}

fn dataset(error: &DatasetError) -> Option<Advice> {
    match error.problem {
        DatasetProblem::Elsewhere { .. } => further(" (--image-dir DIR)"),
        DatasetProblem::TargetColumns { .. } => further("\nhint: --target-columns NAME names the columns"),
        _ => None,
    }
}

fn loader(error: &LoaderError) -> Option<Advice> {
    match error {
        LoaderError::Dataset(error) => dataset(error),
        LoaderError::TooManyBad { .. } => further(", or allow more with --max-bad"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use vitrum::models::Precision;

    use super::*;

    #[test]
    fn keys_of_a_recipe_are_told_as_flags() {
        let change =
            |key: &str, old: &str, new: &str| Change { key: key.into(), old: old.into(), new: new.into() };
        let changes = vec![change("lr", "5e-4", "1e-4"), change("clip_grad", "none", "1")];
        let error = TrainError::from(ResumeError::Changed { run: "runs/a".into(), step: 57, changes });
        assert_eq!(
            explained(&error.into()),
            "cannot resume runs/a: arguments changed since step 57\n  \
             --lr          5e-4 -> 1e-4\n  \
             --clip-grad   none -> 1\n\
             hint: leave --lr, --clip-grad as before, or pass --allow-changed-args to continue anyway (the run will no \
             longer be reproducible)"
        );
    }

    #[test]
    fn a_tag_in_the_name_is_not_asked_for_twice() {
        let told = |model: &str| explained(&ModelError::NoWeights { model: model.into() }.into());
        let text = told("vit_tiny_patch16_224.augreg_in21k_ft_in1k");
        assert!(text.ends_with("hf:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"), "{text}");
        assert!(told("vit_tiny_patch16_224").contains("hf:timm/vit_tiny_patch16_224.TAG"));
    }

    #[test]
    fn names_of_no_dialect_lead_to_a_key_file() {
        let nearest = vitrum::checkpoint::suggest::Nearest { library: "timm", matched: 3, names: 9 };
        let error =
            LoadError::Dialect { path: "mine.pt".into(), first: "a".into(), nearest: Box::new(nearest) };
        assert!(explained(&error.into()).contains("inspect mine.pt --suggest-keys"));
    }

    #[test]
    fn hints_are_found_below_what_wraps_an_error() {
        let precision = ModelError::PrecisionDtype { precision: Precision::Int8, dtype: DType::F64 };
        let error = anyhow::Error::from(TrainError::from(precision)).context("the teacher");
        assert_eq!(
            explained(&error),
            "the teacher: --precision int8 computes all other values in f32\nhint: leave out --dtype, or --precision"
        );
        let exists = vitrum::Error::from(LoadError::Exists { path: "out".into() });
        assert_eq!(
            explained(&exists.into()),
            "out exists already\nhint: --overwrite, or choose another place"
        );
    }

    #[test]
    fn what_is_said_continues_the_librarys_hint() {
        let error = ResumeError::Locked { path: "runs/a".into(), holder: None };
        let text =
            "runs/a: in use by another process\nhint: wait for it to end, or choose another --experiment";
        assert_eq!(explained(&error.into()), text);
        let error = LoaderError::TooManyBad { bad: Vec::new(), seen: 3 };
        let text = "0 of 3 images cannot be used, more than allowed\n  hint: repair or remove them, or allow more with \
                    --max-bad";
        assert_eq!(explained(&error.into()), text);
    }
}
