//! `vitrum explain`: what a model looks at, and why it answers as it does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Map, Value, json};
use vitrum::Error;
use vitrum::data::RgbImage;
use vitrum::explain::page::{Section, page};
use vitrum::explain::picture::{
    DistancePlot, Legend, Palette, Panel, Sheet, cells, filters, framed, overlay, patches, positions, sized,
};
use vitrum::explain::{
    AttentionMaps, Baseline, CamOptions, Cancel, ExplainError, Explainer, Fusion, HeatMap,
    IntegrationOptions, OcclusionOptions, Query, RolloutOptions, View,
};
use vitrum::tasks::Prediction;

use crate::args::{BaselineName, ExplainArgs, ExplainMethod as Method, Format, FusionName};
use crate::demo::save;
use crate::memory;
use crate::model;
use crate::output::{self, Rows};
use crate::predict::{image_files, open_telling};
use crate::signals::Signals;
use crate::talk::Talk;
use crate::train::STOPPED;

/// Pixels of the longer side of a picture in a sheet.
const SIDE: u32 = 320;

/// Pixels of the longer side of a map in the sheet of attention.
const SMALL: u32 = 96;

/// Images of a page at most.
const MAX_IMAGES: usize = 256;

/// Principal components of filters that are shown, as in the paper.
const FILTERS: usize = 28;

/// Files that belong to no image.
const FIGURES: [&str; 4] = ["filters.png", "positions.png", "distances.png", "distances.json"];

/// The methods that the command shows by itself.
const USUAL: [Method; 3] = [Method::Rollout, Method::Relevance, Method::GradCam];

/// All methods that show something of an image.
const OF_IMAGES: [Method; 8] = [
    Method::Attention,
    Method::Rollout,
    Method::Relevance,
    Method::GradCam,
    Method::IntegratedGradients,
    Method::Occlusion,
    Method::Colours,
    Method::Similarity,
];

/// All methods that show something of the model.
const OF_MODELS: [Method; 3] = [Method::Filters, Method::Positions, Method::Distances];

/// What was written for an image, or for the model.
#[derive(Serialize)]
struct Told {
    image: Option<String>,
    target: Option<Prediction>,
    files: BTreeMap<&'static str, PathBuf>,
}

/// What is known of an image.
struct Explained {
    section: Section,
    /// The numbers of each method.
    numbers: Map<String, Value>,
    target: Option<Prediction>,
    attention: Option<AttentionMaps>,
}

/// Runs the command. It reports an unreadable image at once, and fails at the end. A signal stops it before the next pass.
pub fn run(args: &ExplainArgs, talk: Talk) -> Result<ExitCode> {
    match explain(args, talk) {
        Err(error) if is_cancelled(&error) => {
            let page = args.output.join("index.html");
            talk.say(format_args!("stopped by a signal; {} was not written", page.display()));
            Ok(ExitCode::from(STOPPED))
        }
        ended => ended.map(|()| ExitCode::SUCCESS),
    }
}

/// Whether a signal ended the work.
fn is_cancelled(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(Error::Explain(ExplainError::Cancelled)))
}

fn explain(args: &ExplainArgs, talk: Talk) -> Result<()> {
    if args.input.batch_size == 0 || args.topk == 0 {
        bail!("--batch-size and --topk must be at least 1");
    }
    let files = image_files(&args.input.images, talk)?;
    if files.is_empty() {
        bail!("no images");
    }
    if files.len() > MAX_IMAGES {
        bail!("{} images: one page has {MAX_IMAGES} at most", files.len());
    }
    memory::small_pages();
    let (loaded, device) = model::loaded(&args.input.model, &args.input.preprocess, talk)?;
    model::check_batch(&loaded.model, args.input.batch_size)?;
    // Before this line a signal ends the process, also in the midst of a download.
    let signals = Signals::install().context("listening to signals")?;
    let explainer = Explainer::new(loaded, device)?.cancelled_by(Cancel::from(signals.stop_flag()));
    let target = args.target.as_deref().map(|asked| explainer.class(asked)).transpose()?;
    let (methods, is_asked) = methods(args);
    let output = Output::create(args)?;
    let decode = model::decode_options(&args.input.limits, !args.input.preprocess.no_exif);
    let (mut names, mut views, mut failed) = (Vec::new(), Vec::new(), 0);
    for file in &files {
        match open_telling(file, &decode, talk) {
            Ok(decoded) => {
                views.push(explainer.view(&decoded.image).with_context(|| file.display().to_string())?);
                names.push(file.display().to_string());
            }
            Err(error) => {
                failed += 1;
                output::complain(format_args!("error: {error}"));
            }
        }
    }
    if views.is_empty() {
        bail!("none of {} images could be read", files.len());
    }
    let work = Work { explainer: &explainer, args, is_asked, talk };
    let colours = match methods.contains(&Method::Colours) {
        true => work.unless_missing(explainer.colours(&views))?,
        false => None,
    };
    let (mut told, mut sections) = (Vec::new(), Vec::new());
    let stems = stems(&names);
    for (index, (name, view)) in names.iter().zip(&views).enumerate() {
        let mut explained = work.explain(name, view, target, &methods).with_context(|| name.clone())?;
        if let Some(colours) = &colours {
            let image = patches(&colours[index], &explained.section.image);
            explained.section.panels.push(Panel { title: "colours of features".into(), image, legend: None });
            explained.numbers.insert("colours".into(), json!(colours[index].values));
        }
        told.push(output.write(name, &stems[index], &explained)?);
        sections.push(explained.section);
    }
    let figures = work.figures(&views, &methods, &output)?;
    if !figures.is_empty() {
        told.push(Told { image: None, target: None, files: figures });
    }
    let title = format!("What {} looks at", explainer.loaded().name);
    let text = page(&title, &note(&explainer), &sections)?;
    output.text("index.html", &text)?;
    talk.say(format_args!("wrote {}", output.path("index.html").display()));
    report(args.format, &told)?;
    if failed > 0 {
        bail!("{failed} of {} images could not be read", files.len());
    }
    Ok(())
}

/// The methods to show, without doubles, and whether the user asked for each of them.
fn methods(args: &ExplainArgs) -> (Vec<Method>, bool) {
    let all = || OF_IMAGES.into_iter().chain(OF_MODELS).collect();
    match &args.method[..] {
        [] => (USUAL.to_vec(), false),
        asked if asked.contains(&Method::All) => (all(), false),
        asked => {
            let every: Vec<Method> = all();
            (every.into_iter().filter(|method| asked.contains(method)).collect(), true)
        }
    }
}

/// The model in a line.
fn note(explainer: &Explainer) -> String {
    let [c, h, w] = explainer.preprocess().input_size;
    format!("{}, images of {h} x {w} pixels and {c} channels", explainer.model().family())
}

/// A name for the files of each image: its own without the ending, with a number if another image or a figure has those
/// files.
fn stems(names: &[String]) -> Vec<String> {
    let mut taken: BTreeSet<String> = FIGURES.map(String::from).into();
    let stem = |name: &String| {
        let own =
            Path::new(name).file_stem().map_or("image".into(), |stem| stem.to_string_lossy().into_owned());
        let numbered = (2..).map(|number| format!("{own}-{number}"));
        for stem in std::iter::once(own.clone()).chain(numbered) {
            // Some file systems take upper and lower case for the same.
            let files = files_of(&stem).map(|file| file.to_lowercase());
            if files.iter().all(|file| !taken.contains(file)) {
                taken.extend(files);
                return stem;
            }
        }
        own
    };
    names.iter().map(stem).collect()
}

/// The picture, the sheet of attention, and the numbers of an image.
fn files_of(stem: &str) -> [String; 3] {
    [format!("{stem}.png"), format!("{stem}-attention.png"), format!("{stem}.json")]
}

/// The maps of an image so far.
struct Shown {
    image: RgbImage,
    panels: Vec<Panel>,
    numbers: Map<String, Value>,
}

impl Shown {
    /// A map over the image, and its numbers under `key`.
    fn add(&mut self, title: String, key: &str, map: HeatMap, palette: Palette) -> Result<()> {
        let legend = Legend::of(&map, palette);
        self.panels.push(Panel { title, image: overlay(&self.image, &map, &legend), legend: Some(legend) });
        self.numbers.insert(key.into(), serde_json::to_value(map)?);
        Ok(())
    }

    /// A frame around a patch on the last map.
    fn frame_last(&mut self, grid: [usize; 2], place: [usize; 2]) {
        if let Some(panel) = self.panels.last_mut() {
            panel.image = framed(&panel.image, grid, place);
        }
    }
}

/// What all methods need.
struct Work<'a> {
    explainer: &'a Explainer,
    args: &'a ExplainArgs,
    /// Whether the user named the methods. Then a model that lacks one is an error.
    is_asked: bool,
    talk: Talk,
}

impl Work<'_> {
    /// What the model has; `None`, with a message, if it has no such thing and the user did not ask for it by name.
    fn unless_missing<T>(&self, found: Result<T, Error>) -> Result<Option<T>, Error> {
        match found {
            Err(Error::Explain(
                error @ (ExplainError::NoAttention { .. }
                | ExplainError::NoClasses { .. }
                | ExplainError::Missing { .. }
                | ExplainError::NoPatches { .. }),
            )) if !self.is_asked => {
                self.talk.say(format_args!("left out: {error}"));
                Ok(None)
            }
            found => found.map(Some),
        }
    }

    fn explain(
        &self,
        name: &str,
        view: &View,
        target: Option<usize>,
        methods: &[Method],
    ) -> Result<Explained> {
        let (explainer, args) = (self.explainer, self.args);
        let answers = match explainer.has_classes() {
            true => explainer.answers(view, usize::MAX)?,
            false => Vec::new(),
        };
        let class = target.or(answers.first().map(|best| best.index));
        let target = class.and_then(|class| answers.iter().find(|answer| answer.index == class).cloned());
        let image = sized(&view.image, SIDE)?;
        let mut shown = Shown { image, panels: Vec::new(), numbers: Map::new() };
        let mut attention = None;
        let of_class = |found: &dyn Fn(usize) -> Result<HeatMap, Error>| match class {
            Some(class) => self.unless_missing(found(class)),
            None => self.unless_missing(Err(no_classes(explainer))),
        };
        for method in methods {
            match method {
                Method::Attention => {
                    let query = args.patch.map_or(Query::Answer, |place| Query::Patch(place.0));
                    attention = self.unless_missing(explainer.attention(view, query))?;
                    if let Some(last) = attention.as_ref().and_then(|maps| maps.layers.last()) {
                        shown.add(
                            format!("attention, {}", last.name),
                            "attention",
                            last.mean(),
                            Palette::Heat,
                        )?;
                    }
                }
                Method::Rollout => {
                    let options =
                        RolloutOptions { fusion: args.head_fusion.into(), discard: args.discard_ratio };
                    if let Some(map) = self.unless_missing(explainer.rollout(view, &options))? {
                        shown.add("rollout".into(), "rollout", map, Palette::Heat)?;
                    }
                }
                Method::Relevance => {
                    if let Some(map) = of_class(&|class| explainer.relevance(view, class))? {
                        shown.add("relevance".into(), "relevance", map, Palette::Heat)?;
                    }
                }
                Method::GradCam => {
                    let options = CamOptions { block: args.block };
                    if let Some(map) = of_class(&|class| explainer.grad_cam(view, class, &options))? {
                        shown.add("Grad-CAM".into(), "grad_cam", map, Palette::Heat)?;
                    }
                }
                Method::IntegratedGradients => {
                    let options = IntegrationOptions {
                        steps: args.steps,
                        batch_size: args.input.batch_size,
                        baseline: args.baseline.map_or(Baseline::Black, Into::into),
                    };
                    let found = |class| {
                        let found = explainer.integrated_gradients(view, class, &options)?;
                        self.talk.detail(
                            1,
                            format_args!(
                                "{name}: integrated gradients sum to {:.4}, the logits differ by {:.4}",
                                found.sum, found.difference
                            ),
                        );
                        Ok(found.map)
                    };
                    if let Some(map) = of_class(&found)? {
                        shown.add(
                            "integrated gradients".into(),
                            "integrated_gradients",
                            map,
                            Palette::Signed,
                        )?;
                    }
                }
                Method::Occlusion => {
                    let options = OcclusionOptions {
                        window: args.window.map(|size| size.0),
                        stride: args.stride.map(|size| size.0),
                        baseline: args.baseline.map_or(Baseline::Mean, Into::into),
                        batch_size: args.input.batch_size,
                    };
                    if let Some(map) = of_class(&|class| explainer.occlusion(view, class, &options))? {
                        shown.add("occlusion".into(), "occlusion", map, Palette::Signed)?;
                    }
                }
                Method::Similarity => {
                    let grid = self.unless_missing(explainer.patch_grid(view))?;
                    if let Some(grid) = grid {
                        let place = args.patch.map_or(grid.map(|side| side / 2), |place| place.0);
                        let map = explainer.similarity(view, place)?;
                        shown.add(
                            format!("like patch {},{}", place[0], place[1]),
                            "similarity",
                            map,
                            Palette::Likeness,
                        )?;
                        shown.frame_last(grid, place);
                    }
                }
                // These need all images, or none.
                Method::Colours | Method::Filters | Method::Positions | Method::Distances | Method::All => {}
            }
        }
        let Shown { image, panels, numbers } = shown;
        let answers = answers.iter().take(args.topk).map(|answer| (answer.name(), answer.prob)).collect();
        let section =
            Section { name: name.to_string(), answers, image, panels, attention: attention.clone() };
        Ok(Explained { section, numbers, target, attention })
    }

    /// Figures of the model.
    fn figures(
        &self,
        views: &[View],
        methods: &[Method],
        output: &Output,
    ) -> Result<BTreeMap<&'static str, PathBuf>> {
        let mut files = BTreeMap::new();
        let name = &self.explainer.loaded().name;
        for method in methods {
            match method {
                Method::Filters => {
                    let Some(found) = self.unless_missing(self.explainer.filters(FILTERS))? else { continue };
                    let share: f32 = found.variance.iter().sum();
                    let panels: Vec<Panel> = filters(&found)
                        .iter()
                        .zip(&found.variance)
                        .map(|(image, share)| {
                            let title = format!("{:.1} %", 100.0 * share);
                            Ok(Panel { title, image: sized(image, 64)?, legend: None })
                        })
                        .collect::<Result<_>>()?;
                    let heading = vec![
                        format!("{name}: principal components of {}", found.name),
                        format!("the first {} have {:.1} % of the variance", panels.len(), 100.0 * share),
                    ];
                    let rows = panels.chunks(7).map(<[Panel]>::to_vec).collect();
                    files.insert("filters", output.picture("filters.png", &Sheet { heading, rows }.draw()?)?);
                }
                Method::Positions => {
                    let Some((grid, maps)) = self.unless_missing(self.explainer.positions())? else {
                        continue;
                    };
                    let legend = Some(Legend { palette: Palette::Likeness, low: -1.0, high: 1.0 });
                    let panel = Panel {
                        title: "a map for each patch, at its place in the image".into(),
                        image: positions(grid, &maps)?,
                        legend,
                    };
                    let heading = vec![format!("{name}: similarity of position embeddings")];
                    let sheet = Sheet { heading, rows: vec![vec![panel]] };
                    files.insert("positions", output.picture("positions.png", &sheet.draw()?)?);
                }
                Method::Distances => {
                    let Some(found) = self.unless_missing(self.explainer.distances(views))? else { continue };
                    files
                        .insert("distances", output.picture("distances.png", &DistancePlot(&found).draw()?)?);
                    output.text("distances.json", &serde_json::to_string_pretty(&found)?)?;
                }
                _ => {}
            }
        }
        Ok(files)
    }
}

fn no_classes(explainer: &Explainer) -> Error {
    ExplainError::NoClasses { model: explainer.loaded().name.clone() }.into()
}

/// The folder of the results.
struct Output {
    folder: PathBuf,
    overwrites: bool,
}

impl Output {
    /// Checks the folder. It is made when the first result is there.
    fn create(args: &ExplainArgs) -> Result<Self> {
        let folder = args.output.clone();
        if folder.exists() && !folder.is_dir() {
            bail!("--output {}: not a folder", folder.display());
        }
        let page = folder.join("index.html");
        if page.exists() && !args.overwrite {
            bail!(
                "{} exists already\nhint: --overwrite replaces it, or name another folder with -o",
                page.display()
            );
        }
        Ok(Self { folder, overwrites: args.overwrite })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn free(&self, name: &str) -> Result<PathBuf> {
        let context = || format!("creating {}", self.folder.display());
        std::fs::create_dir_all(&self.folder).with_context(context)?;
        let path = self.path(name);
        if path.exists() && !self.overwrites {
            bail!("{} exists already\nhint: --overwrite replaces it", path.display());
        }
        Ok(path)
    }

    fn text(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.free(name)?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn picture(&self, name: &str, image: &RgbImage) -> Result<PathBuf> {
        let path = self.free(name)?;
        save(image, &path)?;
        Ok(path)
    }

    /// Writes what is known of an image.
    fn write(&self, name: &str, stem: &str, explained: &Explained) -> Result<Told> {
        let Explained { section, numbers, target, attention } = explained;
        let [picture, sheet_of_attention, document_of_numbers] = files_of(stem);
        let mut files = BTreeMap::new();
        let image = Panel { title: "image".into(), image: section.image.clone(), legend: None };
        let panels: Vec<Panel> = std::iter::once(image).chain(section.panels.iter().cloned()).collect();
        let mut heading = vec![name.to_string()];
        if let Some(Prediction { prob, .. }) = target {
            let class = target.as_ref().map(Prediction::name).unwrap_or_default();
            heading.push(format!("{class}, {:.1} %", 100.0 * prob));
        }
        let sheet = Sheet { heading, rows: panels.chunks(5).map(<[Panel]>::to_vec).collect() };
        files.insert("picture", self.picture(&picture, &sheet.draw()?)?);
        if let Some(maps) = attention {
            let sheet = attention_sheet(name, maps, &section.image)?;
            files.insert("attention", self.picture(&sheet_of_attention, &sheet)?);
        }
        let mut document = json!({ "image": name, "target": target, "maps": numbers });
        if let Some(maps) = attention {
            document["attention"] = serde_json::to_value(&maps.layers)?;
        }
        files.insert("numbers", self.text(&document_of_numbers, &serde_json::to_string(&document)?)?);
        Ok(Told { image: Some(name.to_string()), target: target.clone(), files })
    }
}

/// A row for each layer: the mean of its heads, then each head.
fn attention_sheet(name: &str, maps: &AttentionMaps, image: &RgbImage) -> Result<RgbImage> {
    let small = sized(image, SMALL)?;
    let rows = maps.layers.iter().map(|layer| {
        let mean = (layer.name.clone(), layer.mean());
        let heads = layer.heads.iter().enumerate().map(|(head, map)| (format!("head {head}"), map.clone()));
        let panel = |(title, map): (String, HeatMap)| {
            let legend = Legend::of(&map, Palette::Heat);
            Panel { title, image: cells(&map, &legend, &small), legend: None }
        };
        std::iter::once(mean).chain(heads).map(panel).collect()
    });
    let heading = vec![name.to_string(), "attention by layer: the mean of the heads, then each head".into()];
    Ok(Sheet { heading, rows: rows.collect() }.draw()?)
}

impl From<FusionName> for Fusion {
    fn from(name: FusionName) -> Self {
        match name {
            FusionName::Mean => Self::Mean,
            FusionName::Max => Self::Max,
            FusionName::Min => Self::Min,
        }
    }
}

impl From<BaselineName> for Baseline {
    fn from(name: BaselineName) -> Self {
        match name {
            BaselineName::Black => Self::Black,
            BaselineName::White => Self::White,
            BaselineName::Mean => Self::Mean,
            BaselineName::Blur => Self::Blur,
        }
    }
}

fn report(format: Format, told: &[Told]) -> Result<()> {
    if format == Format::Json {
        return output::json(&told);
    }
    let mut table = Rows::new(&["image", "class", "prob", "file"]);
    for Told { image, target, files } in told {
        for file in files.values() {
            let (class, prob) = match target {
                Some(target) => (target.name(), format!("{:.4}", target.prob)),
                None => Default::default(),
            };
            table.push([image.clone().unwrap_or_default(), class, prob, file.display().to_string()]);
        }
    }
    if format == Format::Csv { table.csv() } else { table.text() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_images_share_a_file() {
        let names =
            ["a.png", "a-2.png", "x/a.jpg", "A-attention.png", "filters.png", "b.png"].map(String::from);
        assert_eq!(stems(&names), ["a", "a-2", "a-3", "A-attention-2", "filters-2", "b"]);
    }
}
