//! `vitrum models`: names, one model, the walk of shapes.

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};
use vitrum::layers::names::wildcard;
use vitrum::models::shapes::{Step, Walk};
use vitrum::models::{ModelConfig, VitConfig, catalogue};

use crate::args::{Format, ModelsCommand, ShapesArgs, ShapesFormat};
use crate::output::{self, Rows};

/// Runs the command.
pub fn run(command: ModelsCommand) -> Result<()> {
    match command {
        ModelsCommand::List { filter, format } => list(filter.as_deref(), format),
        ModelsCommand::Info { name, format } => info(&name, format),
        ModelsCommand::Shapes(args) => shapes(&args),
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
            img_size: entry.config.img_size,
            params: walk.params,
            macs: walk.macs,
            weights: entry.tags.len(),
        });
    }
    if listed.is_empty() {
        bail!(
            "no model is named like '{}'\nhint: * stands for any text, as in 'vit_*_patch16_*'",
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

/// A filter without `*` matches anywhere.
fn passes(filter: &str, name: &str) -> bool {
    if filter.contains('*') { wildcard(filter, name) } else { name.contains(filter) }
}

fn info(name: &str, format: Format) -> Result<()> {
    let entry = catalogue::entry(name)?;
    let walk = ModelConfig::named(name)?.walk()?;
    let plain = name.split_once('.').map_or(name, |(plain, _)| plain);
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
    let default = serde_json::to_value(VitConfig::default())?;
    let mut rows = Rows::new(&["field", "value"]);
    rows.push(["params".into(), output::grouped(walk.params)]);
    rows.push(["GMACs".into(), format!("{:.3}", walk.macs as f64 / 1e9)]);
    for (key, value) in config.as_object().into_iter().flatten() {
        let always = ["img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "norm_eps"];
        if always.contains(&key.as_str()) || default.get(key) != Some(value) {
            rows.push([key.clone(), plain_value(value)]);
        }
    }
    rows.push(["mean".into(), format!("{:?}", preprocess.mean)]);
    rows.push(["std".into(), format!("{:?}", preprocess.std)]);
    rows.push(["interpolation".into(), preprocess.interpolation.clone()]);
    rows.push(["crop_pct".into(), preprocess.crop_pct.to_string()]);
    rows.push(["crop_mode".into(), preprocess.crop_mode.clone()]);
    for weight in weights {
        rows.push(["weights".into(), weight]);
    }
    if format == Format::Csv { rows.csv() } else { rows.text() }
}

/// A JSON value without the quotes of a text.
pub fn plain_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn shapes(args: &ShapesArgs) -> Result<()> {
    let ModelConfig::Vit(mut config) = ModelConfig::named(&args.name)?;
    let set = |field: &mut usize, value: Option<usize>| *field = value.unwrap_or(*field);
    set(&mut config.in_chans, args.in_chans);
    set(&mut config.embed_dim, args.embed_dim);
    set(&mut config.depth, args.depth);
    set(&mut config.num_heads, args.num_heads);
    set(&mut config.num_classes, args.num_classes);
    config.img_size = args.img_size.map_or(config.img_size, |size| size.0);
    config.patch_size = args.patch_size.map_or(config.patch_size, |size| size.0);
    config.mlp_ratio = args.mlp_ratio.unwrap_or(config.mlp_ratio);
    let config = with_kwargs(config, &args.model_kwargs)?;
    let walk = ModelConfig::Vit(config).walk()?;
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
pub fn with_kwargs(config: VitConfig, pairs: &[(String, String)]) -> Result<VitConfig> {
    if pairs.is_empty() {
        return Ok(config);
    }
    let mut value = serde_json::to_value(config)?;
    for (key, text) in pairs {
        let fields = value.as_object_mut().context("a configuration is an object")?;
        if !fields.contains_key(key) {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_by(|a, b| strsim::jaro_winkler(key, b).total_cmp(&strsim::jaro_winkler(key, a)));
            bail!("--model-kwargs: no field '{key}'\nhint: did you mean {}?", names[0]);
        }
        let lower = text.to_lowercase();
        let parsed = match lower.as_str() {
            "none" | "null" => Value::Null,
            "true" | "false" => Value::Bool(lower == "true"),
            _ => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.clone())),
        };
        let parsed = match (&fields[key], parsed) {
            // img_size=224 stands for both sides.
            (Value::Array(_), Value::Number(n)) => json!([n, n]),
            (_, parsed) => parsed,
        };
        fields.insert(key.clone(), parsed);
    }
    serde_json::from_value(value).context("--model-kwargs")
}
