//! Explanations as one page of HTML: light and dark, no other file. Sliders choose layer and head of the attention maps.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::AttentionMaps;
use super::picture::{Legend, Palette, Panel};
use crate::data::RgbImage;
use crate::paint::{PaintError, png};

/// What the page says about an image.
#[derive(Clone, Debug)]
pub struct Section {
    /// The image's name.
    pub name: String,
    /// The model's best classes with their scores, from 0 to 1.
    pub answers: Vec<(String, f64)>,
    /// The image as the model sees it, in a size for looking at it.
    pub image: RgbImage,
    /// The explanations.
    pub panels: Vec<Panel>,
    /// Attention of all layers, for the sliders.
    pub attention: Option<AttentionMaps>,
}

/// The page. `note` is a line under the title.
///
/// # Errors
/// A picture that cannot be encoded.
pub fn page(title: &str, note: &str, sections: &[Section]) -> Result<String, PaintError> {
    let body = sections.iter().map(section).collect::<Result<String, _>>()?;
    let palette: Vec<[u8; 3]> = (0..256).map(|at| Palette::Heat.colour(f64::from(at) / 255.0)).collect();
    let palette = serde_json::to_string(&palette).map_err(|error| PaintError::new("page", error))?;
    // The body comes last: what it holds is not searched for places to fill.
    Ok(include_str!("page.html")
        .replace("{title}", &escape(title))
        .replace("{note}", &escape(note))
        .replace("{palette}", &palette)
        .replace("{body}", &body))
}

fn section(section: &Section) -> Result<String, PaintError> {
    let Section { name, answers, image, panels, attention } = section;
    let row = |(name, score): &(String, f64)| {
        format!(
            "<tr><td>{}</td><td class=\"number\">{:.1} %</td><td class=\"bar\"><div style=\"width: {:.1}%\"></div></td></tr>\n",
            escape(name),
            100.0 * score,
            100.0 * score.clamp(0.0, 1.0)
        )
    };
    let answers: String = answers.iter().map(row).collect();
    let original = Panel { title: "image".into(), image: image.clone(), legend: None };
    let figures = std::iter::once(&original).chain(panels).map(figure).collect::<Result<String, _>>()?;
    let viewer = match attention {
        Some(maps) => viewer(maps, image)?,
        None => String::new(),
    };
    Ok(format!(
        "<section>\n<h2>{}</h2>\n<table>\n{answers}</table>\n<div class=\"row\">\n{figures}{viewer}</div>\n</section>\n",
        escape(name)
    ))
}

fn figure(panel: &Panel) -> Result<String, PaintError> {
    let legend = panel.legend.as_ref().map(legend).unwrap_or_default();
    Ok(format!(
        "<figure><figcaption>{title}</figcaption><img src=\"{}\" width=\"{}\" height=\"{}\" alt=\"{title}\">{legend}</figure>\n",
        data_url(&panel.image)?,
        panel.image.width(),
        panel.image.height(),
        title = escape(&panel.title),
    ))
}

fn legend(legend: &Legend) -> String {
    let stop = |at: u32| {
        let [r, g, b] = legend.palette.colour(f64::from(at) / 8.0);
        format!("rgb({r},{g},{b})")
    };
    let stops: Vec<String> = (0..=8).map(stop).collect();
    format!(
        "<div class=\"scale\" style=\"background: linear-gradient(to right, {})\"></div>\
         <div class=\"legend\"><span>{:.3e}</span><span>{:.3e}</span></div>",
        stops.join(", "),
        legend.low,
        legend.high
    )
}

/// The maps of a layer for the script: a byte for each number, of the largest of the layer.
#[derive(Serialize)]
struct Bytes<'a> {
    name: &'a str,
    grid: [usize; 2],
    heads: Vec<String>,
}

fn viewer(maps: &AttentionMaps, image: &RgbImage) -> Result<String, PaintError> {
    let layers: Vec<Bytes<'_>> = maps
        .layers
        .iter()
        .map(|layer| {
            let most = layer.heads.iter().map(|head| head.range()[1]).fold(f32::MIN_POSITIVE, f32::max);
            let byte = |value: &f32| (255.0 * value / most).round() as u8;
            let code = |values: &[f32]| STANDARD.encode(values.iter().map(byte).collect::<Vec<u8>>());
            let heads = layer.heads.iter().map(|head| code(&head.values)).collect();
            Bytes { name: &layer.name, grid: layer.grid, heads }
        })
        .collect();
    let data = serde_json::to_string(&layers).map_err(|error| PaintError::new("page", error))?;
    let slider = |name: &str, value: &str| {
        format!(
            "<label>{name} <input type=\"range\" min=\"0\" max=\"100\" value=\"{value}\"> <output></output></label>\n"
        )
    };
    Ok(format!(
        "<figure class=\"viewer\" data-picture=\"{}\"><figcaption>attention</figcaption>\
         <canvas width=\"{}\" height=\"{}\"></canvas>\n{}{}{}\
         <script type=\"application/json\">{}</script></figure>\n",
        data_url(image)?,
        image.width(),
        image.height(),
        slider("layer", "0"),
        slider("head", "0"),
        slider("strength", "60"),
        data.replace('<', "\\u003c"),
    ))
}

fn data_url(image: &RgbImage) -> Result<String, PaintError> {
    Ok(format!("data:image/png;base64,{}", STANDARD.encode(png(image)?)))
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
