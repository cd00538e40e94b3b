//! The drawing of a confusion matrix.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Confusion, name};
use crate::data::RgbImage;
use crate::paint::{self, Drawing};
use crate::train::log::{LogError, text};

/// Largest number of classes with names in the drawing.
const MAX_NAMED: usize = 50;
/// Largest number of classes with numbers in the cells.
const MAX_NUMBERED: usize = 20;
/// Largest number of cells per side; more classes share cells.
const MAX_CELLS: usize = 500;
impl Confusion {
    /// The matrix as an SVG document; each row shows shares of its class.
    ///
    /// # Errors
    /// [`LogError::Picture`].
    pub fn svg(&self, names: &[String]) -> Result<String, LogError> {
        Ok(paint::svg(&Matrix::of(self, names))?)
    }

    /// The matrix as pixels.
    ///
    /// # Errors
    /// [`LogError::Picture`].
    pub fn pixels(&self, names: &[String]) -> Result<RgbImage, LogError> {
        Ok(paint::pixels(&Matrix::of(self, names))?)
    }
}

/// The drawing.
struct Matrix {
    classes: usize,
    images: u64,
    /// Percentage of correct predictions; `None` without images.
    right: Option<f64>,
    /// Cells per side.
    side: usize,
    /// Share of the row, `[side, side]`; `None` in rows without images.
    shares: Vec<Option<f64>>,
    /// Names of the cells; empty if there are many.
    names: Vec<String>,
    layout: Layout,
}

/// In pixels.
struct Layout {
    cell: f64,
    left: f64,
    top: f64,
    bottom: f64,
    font: f64,
}

/// Width of the colour scale, to the right of the matrix.
const RIGHT: f64 = 110.0;

impl Matrix {
    fn of(confusion: &Confusion, names: &[String]) -> Self {
        let classes = confusion.classes.max(1);
        let side = classes.min(MAX_CELLS);
        let cell_of = |class: usize| class * side / classes;
        let mut counts = vec![0_u64; side * side];
        for ((label, pred), count) in &confusion.counts {
            counts[cell_of(*label) * side + cell_of(*pred)] += count;
        }
        let share = |row: &[u64]| {
            let total: u64 = row.iter().sum();
            let share = move |count: &u64| (total > 0).then(|| *count as f64 / total as f64);
            row.iter().map(share).collect::<Vec<_>>()
        };
        let shares = counts.chunks(side).flat_map(share).collect();
        let shown = if classes <= MAX_NAMED { classes } else { 0 };
        let names: Vec<String> = (0..shown).map(|class| shortened(&name(names, class), 18)).collect();
        let layout = Layout::of(side, &names);
        let images = confusion.images();
        let hits: u64 = confusion.counts.iter().filter(|((l, p), _)| l == p).map(|(_, count)| count).sum();
        let right = (images > 0).then(|| 100.0 * hits as f64 / images as f64);
        Self { classes, images, right, side, shares, names, layout }
    }

    fn title(&self) -> String {
        let right = self.right.map(|right| format!(", {right:.1} % right")).unwrap_or_default();
        format!(
            "{} images, {} classes{right}",
            text::grouped(self.images),
            text::grouped(self.classes as u64)
        )
    }
}

impl Layout {
    fn of(side: usize, names: &[String]) -> Self {
        let cell = (640.0 / side as f64).clamp(if names.is_empty() { 1.0 } else { 17.0 }, 72.0);
        let cell = if names.is_empty() { cell.floor().max(1.0) } else { cell.floor() };
        let font = (cell * 0.62).clamp(10.0, 15.0);
        let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64;
        let label = longest * font * 0.56 + 14.0;
        Self { cell, left: 44.0 + label, top: 84.0, bottom: 48.0 + label, font }
    }
}

fn shortened(name: &str, most: usize) -> String {
    let name: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if name.chars().count() <= most {
        return name;
    }
    name.chars().take(most - 1).chain(['…']).collect()
}

/// The colour of a share, from white over blue to nearly black. Small shares stay visible.
fn shade(share: f64) -> RGBColor {
    let stops: [[f64; 3]; 4] =
        [[250.0, 251.0, 253.0], [158.0, 197.0, 232.0], [47.0, 109.0, 181.0], [12.0, 38.0, 84.0]];
    let at = share.clamp(0.0, 1.0).powf(0.6) * 3.0;
    let (low, part) = ((at as usize).min(2), at - (at as usize).min(2) as f64);
    let [r, g, b] = [0, 1, 2].map(|c| (stops[low][c] + (stops[low + 1][c] - stops[low][c]) * part) as u8);
    RGBColor(r, g, b)
}

impl Drawing for Matrix {
    fn name(&self) -> &str {
        "confusion matrix"
    }

    fn size(&self) -> (u32, u32) {
        let Layout { cell, left, top, bottom, .. } = self.layout;
        let field = cell * self.side as f64;
        ((left + field + RIGHT).max(560.0) as u32, (top + field + bottom).max(360.0) as u32)
    }

    fn draw<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Result<(), String> {
        let parts =
            [Self::draw_titles::<DB>, Self::draw_cells::<DB>, Self::draw_names::<DB>, Self::draw_scale::<DB>];
        area.fill(&WHITE)
            .and_then(|()| parts.iter().try_for_each(|part| part(self, area, scale)))
            .map_err(|e| e.to_string())
    }
}

type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;

impl Matrix {
    fn draw_titles<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Drawn<DB> {
        let Layout { cell, left, top, .. } = self.layout;
        let px = |x: f64, y: f64| ((x * scale) as i32, (y * scale) as i32);
        let field = cell * self.side as f64;
        let title = paint::bold(22.0 * scale).color(&paint::INK);
        area.draw(&Text::new("Confusion matrix", px(24.0, 20.0), title))?;
        let faint = paint::text(14.0 * scale, paint::FAINT_INK, HPos::Left, VPos::Top);
        area.draw(&Text::new(self.title(), px(24.0, 52.0), faint))?;
        let axis = |v| paint::text(16.0 * scale, paint::INK, HPos::Center, v);
        let bottom = f64::from(self.size().1) - 14.0;
        area.draw(&Text::new("predicted", px(left + field / 2.0, bottom), axis(VPos::Bottom)))?;
        let turned = axis(VPos::Top).transform(FontTransform::Rotate270);
        area.draw(&Text::new("true", px(14.0, top + field / 2.0), turned))
    }

    fn draw_cells<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Drawn<DB> {
        let Layout { cell, left, top, .. } = self.layout;
        let gap = if cell >= 12.0 { 1.0 } else { 0.0 };
        let corner = |row: f64, column: f64, inset: f64| {
            (((left + column * cell + inset) * scale) as i32, ((top + row * cell + inset) * scale) as i32)
        };
        for (index, share) in self.shares.iter().enumerate() {
            let (row, column) = ((index / self.side) as f64, (index % self.side) as f64);
            let color = share.map_or(RGBColor(0xf0, 0xf0, 0xf0), shade);
            let corners = [corner(row, column, 0.0), corner(row + 1.0, column + 1.0, -gap)];
            area.draw(&Rectangle::new(corners, color.filled()))?;
            let percent = share.map_or(0.0, |share| 100.0 * share);
            if self.classes > MAX_NUMBERED || percent < 0.5 {
                continue;
            }
            let ink = if percent > 35.0 { WHITE } else { paint::INK };
            let size = (cell * 0.34).clamp(10.0, 17.0) * scale;
            let style = paint::text(size, RGBColor(ink.0, ink.1, ink.2), HPos::Center, VPos::Center);
            area.draw(&Text::new(format!("{percent:.0}"), corner(row + 0.5, column + 0.5, 0.0), style))?;
        }
        let frame = [corner(0.0, 0.0, -1.0), corner(self.side as f64, self.side as f64, 0.0)];
        let style = ShapeStyle::from(&RGBColor(0xc4, 0xc9, 0xd0)).stroke_width(scale as u32);
        area.draw(&Rectangle::new(frame, style))
    }

    fn draw_names<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Drawn<DB> {
        let Layout { cell, left, top, font, .. } = self.layout;
        let field = cell * self.side as f64;
        let px = |x: f64, y: f64| ((x * scale) as i32, (y * scale) as i32);
        for (class, name) in self.names.iter().enumerate() {
            let middle = (class as f64 + 0.5) * cell;
            let style = paint::text(font * scale, paint::INK, HPos::Right, VPos::Center);
            area.draw(&Text::new(name.as_str(), px(left - 8.0, top + middle), style.clone()))?;
            let turned = style.transform(FontTransform::Rotate270);
            area.draw(&Text::new(name.as_str(), px(left + middle, top + field + 8.0), turned))?;
        }
        Ok(())
    }

    fn draw_scale<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>, scale: f64) -> Drawn<DB> {
        let Layout { cell, left, top, .. } = self.layout;
        let field = cell * self.side as f64;
        let (x, height) = (left + field + 28.0, field.min(320.0));
        let px = |x: f64, y: f64| ((x * scale) as i32, (y * scale) as i32);
        let steps = (height * scale) as i32;
        for step in 0..steps {
            let y = (top * scale) as i32 + step;
            let color = shade(1.0 - f64::from(step) / f64::from(steps));
            let bar = [((x * scale) as i32, y), (((x + 16.0) * scale) as i32, y + 1)];
            area.draw(&Rectangle::new(bar, color.filled()))?;
        }
        let style = paint::text(13.0 * scale, paint::FAINT_INK, HPos::Left, VPos::Center);
        for percent in [0, 25, 50, 75, 100] {
            let y = top + height * (1.0 - f64::from(percent) / 100.0);
            area.draw(&Text::new(format!("{percent} %"), px(x + 22.0, y), style.clone()))?;
        }
        Ok(())
    }
}
