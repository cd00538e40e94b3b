//! `vitrum models`: list, configuration of one model, walk of shapes, the ladder.

mod ladder;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use vitrum::layers::names::wildcard;
use vitrum::models::shapes::{Step, Walk};
use vitrum::models::{Config, ConfigError, ModelConfig, catalogue, read_value};

use crate::args::{Format, ModelsCommand, ShapesArgs, ShapesFormat};
use crate::output::{self, Rows};

/// Runs the command.
pub fn run(command: ModelsCommand) -> Result<()> {
    match command {
        ModelsCommand::List { filter, format } => list(filter.as_deref(), format),
        ModelsCommand::Info { name, format } => info(&name, format),
        ModelsCommand::Shapes(args) => shapes(&args),
        ModelsCommand::Ladder(args) => ladder::run(&args),
    }
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    img_size: [usize; 2],
    params: u64,
    macs: u64,
    weights: usize,
}

fn list(filter: Option<&str>, format: Format) -> Result<()> {
    let mut listed = Vec::new();
    for name in catalogue::names().filter(|name| filter.is_none_or(|filter| passes(filter, name))) {
        let entry = catalogue::entry(name)?;
        let walk = ModelConfig::named(name)?.walk()?;
        listed.push(Listed {
            name,
            img_size: entry.config.input().image().size,
            params: walk.params,
            macs: walk.macs,
            weights: entry.tags.len(),
        });
    }
    if listed.is_empty() {
        bail!(
            "no model is named like '{}'\nhint: * matches any text, as in 'vit_*_patch16_*'",
            filter.unwrap_or("")
        );
    }
    if format == Format::Json {
        return output::json(&listed);
    }
    let mut rows = Rows::new(&["model", "image", "params (M)", "GMACs", "weights"]);
    for model in &listed {
        let [h, w] = model.img_size;
        rows.push([
            model.name.into(),
            if h == w { h.to_string() } else { format!("{h}x{w}") },
            format!("{:.3}", model.params as f64 / 1e6),
            format!("{:.3}", model.macs as f64 / 1e9),
            model.weights.to_string(),
        ]);
    }
    if format == Format::Csv { rows.csv() } else { rows.text() }
}

/// A filter without `*` matches any part of a name.
fn passes(filter: &str, name: &str) -> bool {
    if filter.contains('*') { wildcard(filter, name) } else { name.contains(filter) }
}

fn info(name: &str, format: Format) -> Result<()> {
    let entry = catalogue::entry(name)?;
    let walk = ModelConfig::named(name)?.walk()?;
    let renamed = catalogue::renamed(name);
    let present = renamed.unwrap_or(name);
    let plain = present.split_once('.').map_or(present, |(plain, _)| plain);
    let weights: Vec<String> = entry.tags.iter().map(|tag| format!("hf:timm/{plain}.{tag}")).collect();
    let preprocess = &entry.preprocess;
    let config = serde_json::to_value(&entry.config)?;
    if format == Format::Json {
        return output::json(&json!({
            "name": plain,
            "params": walk.params,
            "macs": walk.macs,
            "config": config,
            "preprocess": {
                "mean": preprocess.mean, "std": preprocess.std, "interpolation": preprocess.interpolation,
                "crop_pct": preprocess.crop_pct, "crop_mode": preprocess.crop_mode,
            },
            "weights": weights,
        }));
    }
    let mut rows = Rows::new(&["field", "value"]);
    if let Some(new) = renamed {
        rows.push(["timm's name now".into(), new.into()]);
    }
    rows.push(["params".into(), output::grouped(walk.params)]);
    rows.push(["GMACs".into(), format!("{:.3}", walk.macs as f64 / 1e9)]);
    rows.push(["family".into(), entry.config.family().into()]);
    for (key, value) in &entry.config.fields() {
        rows.push([key.clone(), plain_value(value)]);
    }
    rows.push(["mean".into(), format!("{:?}", preprocess.mean)]);
    rows.push(["std".into(), format!("{:?}", preprocess.std)]);
    rows.push(["interpolation".into(), preprocess.interpolation.name().into()]);
    rows.push(["crop_pct".into(), preprocess.crop_pct.to_string()]);
    rows.push(["crop_mode".into(), preprocess.crop_mode.name().into()]);
    for weight in weights {
        rows.push(["weights".into(), weight]);
    }
    if format == Format::Csv { rows.csv() } else { rows.text() }
}

/// A JSON value; texts without quotes.
pub fn plain_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn shapes(args: &ShapesArgs) -> Result<()> {
    let config = ModelConfig::named(&args.name)?
        .with_some("in_chans", args.in_chans)?
        .with_some("embed_dim", args.embed_dim)?
        .with_some("depth", args.depth)?
        .with_some("num_heads", args.num_heads)?
        .with_some("num_classes", args.num_classes)?
        .with_some("img_size", args.img_size.map(|size| size.0))?
        .with_some("patch_size", args.patch_size.map(|size| size.0))?
        .with_some("mlp_ratio", args.mlp_ratio)?;
    let walk = with_kwargs(&config, &args.model_kwargs).context("--model-kwargs")?.walk()?;
    match args.format {
        ShapesFormat::Json => output::json(&walk),
        ShapesFormat::Text => table(&walk).text(),
        ShapesFormat::Markdown => table(&walk).markdown(),
    }
}

fn table(walk: &Walk) -> Rows {
    let mut rows = Rows::new(&["layer", "shape", "params", "MACs", "what"]);
    for step in &walk.steps {
        let Step { what, shape, params, macs, repeat, .. } = step;
        let name =
            if *repeat > 1 { format!("{} (×{repeat})", step.name) } else { step.name.replace('N', "0") };
        let count = |n: u64| if n == 0 { "-".into() } else { output::grouped(n) };
        rows.push([name, output::shape(shape), count(*params), count(*macs), what.clone()]);
    }
    rows.push([
        "total".into(),
        String::new(),
        output::grouped(walk.params),
        output::grouped(walk.macs),
        String::new(),
    ]);
    rows
}

/// Sets fields of the configuration by timm's names.
pub fn with_kwargs(config: &ModelConfig, pairs: &[(String, String)]) -> Result<ModelConfig, ConfigError> {
    pairs.iter().try_fold(config.clone(), |config, (key, text)| config.with_argument(key, read_value(text)))
}
