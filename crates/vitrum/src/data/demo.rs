//! A drawn image set: ten shapes, no download.
//!
//! Every picture depends only on the set's seed, its number and the size. Colour, place, size, angle and stretch
//! are random and independent of the class. The background is mottled and small scraps distract. So neither a
//! histogram nor a linear probe of the pixels can classify the pictures.

use std::f32::consts::{PI, TAU};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::dataset::error::DatasetError;
use super::dataset::options::Split;
use super::dataset::sample::{ImageSource, Sample};
use super::dataset::skipped::Skipped;
use super::dataset::source::{Entry, Indexed, Place, Source};
use super::image::RgbImage;

/// The classes, in the order of their labels.
pub const CLASSES: [&str; 10] =
    ["disc", "ring", "square", "triangle", "star", "cross", "stripes", "checker", "spiral", "crescent"];

/// A set of drawn pictures; picture `i` shows class `i % 10`.
#[derive(Debug, Clone)]
pub struct DemoSet {
    size: u32,
    /// Numbers of the first picture and of the one after the last.
    range: [usize; 2],
    seed: u64,
    next: usize,
    classes: Vec<String>,
    skipped: Skipped,
}

/// Valid sides in pixels.
const SIZES: std::ops::RangeInclusive<u32> = 8..=4096;

impl DemoSet {
    /// Default number of training pictures.
    pub const TRAIN_COUNT: usize = 5000;
    /// Pictures below this number are for validation, the rest for training.
    const TRAIN_START: usize = 1000;

    /// `count` square pictures with sides of `size` pixels (clamped to 8 to 4096).
    pub fn new(size: u32, count: usize, seed: u64) -> Self {
        Self::range(size, [0, count], seed)
    }

    /// The part of the set called `demo` with `train_count` training pictures. Validation and test are the first
    /// thousand pictures, or a fifth of the training pictures if that is fewer, but at least ten. No picture is in
    /// both parts.
    pub fn part(size: u32, train_count: usize, split: Split) -> Self {
        let range = match split {
            Split::Train => [Self::TRAIN_START, Self::TRAIN_START.saturating_add(train_count)],
            Split::Val | Split::Test => [0, (train_count / 5).clamp(CLASSES.len(), Self::TRAIN_START)],
        };
        Self::range(size, range, 0)
    }

    fn range(size: u32, range: [usize; 2], seed: u64) -> Self {
        Self {
            size: size.clamp(*SIZES.start(), *SIZES.end()),
            range,
            seed,
            next: range[0],
            classes: CLASSES.map(String::from).to_vec(),
            skipped: Skipped::default(),
        }
    }

    /// Side of the pictures in pixels.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// The label of picture `index`.
    pub fn label(&self, index: usize) -> usize {
        index % CLASSES.len()
    }

    /// Draws picture `index`. It may be beyond the set's count.
    pub fn image(&self, index: usize) -> RgbImage {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(index as u64);
        Scene::random(self.label(index), &mut rng).draw(self.size)
    }
}

impl DemoSet {
    fn name(&self, index: usize) -> String {
        format!("demo/{}/{index:06}", CLASSES[self.label(index)])
    }
}

impl Source for DemoSet {
    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn count(&self) -> Option<usize> {
        Some(self.range[1] - self.range[0])
    }

    fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        if self.next >= self.range[1] {
            return Ok(None);
        }
        let index = self.next;
        self.next += 1;
        let image = ImageSource::Pixels(self.image(index));
        Ok(Some(Sample { name: self.name(index), target: Some(self.label(index).into()), image }))
    }

    fn into_indexed(self: Box<Self>, _sequential: bool) -> Result<Indexed, DatasetError> {
        let entry = |index| Entry {
            name: self.name(index),
            target: Some(self.label(index).into()),
            place: Place::Drawn(index),
        };
        let entries = (self.next..self.range[1]).map(entry).collect();
        let bytes = u64::from(self.size).pow(2) * 3;
        let classes = self.classes.clone();
        Ok(Indexed::drawn(classes, entries, bytes, Box::new(move |index| self.image(index))))
    }
}

type Color = [f32; 3];
/// A point. Lengths are in units of the picture's side, or of the shape's radius.
type Point = [f32; 2];

/// Everything random about a picture.
struct Scene {
    ground: Ground,
    scraps: Vec<Scrap>,
    shape: Shape,
    /// Amplitude of the grain, and its seed.
    grain: f32,
    grain_seed: u32,
}

impl Scene {
    fn random(class: usize, rng: &mut ChaCha8Rng) -> Self {
        let light_ground = rng.random_bool(0.5);
        let ground = Ground::random(light_ground, rng);
        let shape = Shape::random(class, random_color(!light_ground, rng), rng);
        let scraps = (0..rng.random_range(2..7)).map(|_| Scrap::random(rng)).collect();
        Self { ground, scraps, shape, grain: rng.random_range(0.01..0.05), grain_seed: rng.random() }
    }

    fn draw(&self, size: u32) -> RgbImage {
        let pixel = 1.0 / size as f32;
        let mut data = Vec::with_capacity(size as usize * size as usize * 3);
        for y in 0..size {
            for x in 0..size {
                let point = [(x as f32 + 0.5) * pixel, (y as f32 + 0.5) * pixel];
                let mut color = self.ground.color(point);
                for scrap in &self.scraps {
                    color = blend(color, scrap.color, 0.8 * coverage(scrap.distance(point), pixel));
                }
                color = blend(color, self.shape.shade(point), coverage(self.shape.distance(point), pixel));
                let grain = self.grain * hash_noise(x, y, self.grain_seed);
                data.extend(color.map(|level| ((level + grain).clamp(0.0, 1.0) * 255.0 + 0.5) as u8));
            }
        }
        // `size` is at least 8 and every pixel was written, so the size fits.
        RgbImage::new(size, size, data).expect("a full picture")
    }
}

/// A smooth mixture of two colours.
struct Ground {
    colors: [Color; 2],
    cells: usize,
    /// `(cells + 1)^2` values from 0 to 1.
    values: Vec<f32>,
}

impl Ground {
    fn random(light: bool, rng: &mut ChaCha8Rng) -> Self {
        let cells = rng.random_range(2..9);
        let values = (0..(cells + 1) * (cells + 1)).map(|_| rng.random()).collect();
        Self { colors: [random_color(light, rng), random_color(light, rng)], cells, values }
    }

    fn color(&self, point: Point) -> Color {
        let [x, y] = point.map(|at| (at * self.cells as f32).clamp(0.0, self.cells as f32 - 1e-3));
        let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
        let (fx, fy) = (smooth(x.fract()), smooth(y.fract()));
        let value =
            |dx: usize, dy: usize| self.values[(y as usize + dy) * (self.cells + 1) + x as usize + dx];
        let top = value(0, 0) * (1.0 - fx) + value(1, 0) * fx;
        let bottom = value(0, 1) * (1.0 - fx) + value(1, 1) * fx;
        blend(self.colors[0], self.colors[1], top * (1.0 - fy) + bottom * fy)
    }
}

/// A small stroke as a distraction.
struct Scrap {
    ends: [Point; 2],
    radius: f32,
    color: Color,
}

impl Scrap {
    fn random(rng: &mut ChaCha8Rng) -> Self {
        let start: Point = [rng.random(), rng.random()];
        let (angle, length) = (rng.random_range(0.0..TAU), rng.random_range(0.0..0.14));
        let end = [start[0] + length * angle.cos(), start[1] + length * angle.sin()];
        let light = rng.random_bool(0.5);
        Self { ends: [start, end], radius: rng.random_range(0.008..0.022), color: random_color(light, rng) }
    }

    fn distance(&self, point: Point) -> f32 {
        let [start, end] = self.ends;
        let (along, to) = (sub(end, start), sub(point, start));
        let t = (dot(along, to) / dot(along, along).max(1e-9)).clamp(0.0, 1.0);
        length(sub(to, along.map(|c| c * t))) - self.radius
    }
}

/// The shape that the picture shows.
struct Shape {
    class: usize,
    color: Color,
    center: Point,
    radius: f32,
    /// Maps the picture to the shape: rotation and stretch.
    turn: [Point; 2],
    /// Direction in which the colour becomes lighter.
    light: Point,
}

impl Shape {
    fn random(class: usize, color: Color, rng: &mut ChaCha8Rng) -> Self {
        let radius = rng.random_range(0.2..0.4);
        let free = radius * 0.9..1.0 - radius * 0.9;
        let center = [rng.random_range(free.clone()), rng.random_range(free)];
        let angle: f32 = rng.random_range(0.0..TAU);
        let stretch = rng.random_range(0.85_f32..1.18);
        let (sin, cos) = angle.sin_cos();
        let turn = [[cos * stretch, sin * stretch], [-sin / stretch, cos / stretch]];
        let light: f32 = rng.random_range(0.0..TAU);
        let strength = rng.random_range(0.0..0.15);
        Self { class, color, center, radius, turn, light: [light.cos() * strength, light.sin() * strength] }
    }

    /// Signed distance to the edge, negative inside, in units of the picture's side.
    fn distance(&self, point: Point) -> f32 {
        let offset = sub(point, self.center).map(|c| c / self.radius);
        let local = [dot(self.turn[0], offset), dot(self.turn[1], offset)];
        self.radius * shape_distance(self.class, local)
    }

    fn shade(&self, point: Point) -> Color {
        let lighter = dot(self.light, sub(point, self.center)) / self.radius;
        self.color.map(|level| level + lighter)
    }
}

/// Signed distance to the edge of a class's shape, of radius about 1.
fn shape_distance(class: usize, p: Point) -> f32 {
    match CLASSES[class] {
        "disc" => length(p) - 0.88,
        "ring" => (length(p) - 0.72).abs() - 0.2,
        "square" => rectangle(p, [0.78, 0.78]),
        "triangle" => triangle(p),
        "star" => star(p),
        "cross" => rectangle(p, [0.95, 0.27]).min(rectangle(p, [0.27, 0.95])),
        "stripes" => (length(p) - 0.95).max(wave(p[0], 0.46)),
        "checker" => rectangle(p, [0.86, 0.86]).max(checker(p, 0.43)),
        "spiral" => (length(p) - 0.98).max(spiral(p)),
        _ => (length(p) - 0.92).max(0.74 - length(sub(p, [0.42, 0.0]))),
    }
}

fn rectangle(p: Point, half: Point) -> f32 {
    let q = [p[0].abs() - half[0], p[1].abs() - half[1]];
    length(q.map(|c| c.max(0.0))) + q[0].max(q[1]).min(0.0)
}

fn triangle(p: Point) -> f32 {
    const INRADIUS: f32 = 0.48;
    let side = |k: f32| {
        let angle = PI / 2.0 + k * TAU / 3.0;
        dot(p, [angle.cos(), angle.sin()]) - INRADIUS
    };
    side(0.0).max(side(1.0)).max(side(2.0))
}

/// Five points of radius 1, with inner corners of radius 0.42. Folds the plane to half a point, whose edge is a
/// line.
fn star(p: Point) -> f32 {
    const HALF: f32 = TAU / 10.0;
    let angle = p[1].atan2(p[0]).rem_euclid(2.0 * HALF);
    let folded = angle.min(2.0 * HALF - angle);
    let q = [length(p) * folded.cos(), length(p) * folded.sin()];
    let (tip, inner) = ([1.0, 0.0], [0.42 * HALF.cos(), 0.42 * HALF.sin()]);
    let edge = sub(inner, tip);
    let to = sub(q, tip);
    (edge[0] * to[1] - edge[1] * to[0]) / -length(edge)
}

/// Bars of half the period.
fn wave(x: f32, period: f32) -> f32 {
    ((x / period).rem_euclid(1.0) - 0.5).abs() * period - period / 4.0
}

/// Four by four squares of side `cell`, alternately inside and outside. The outer rectangle bounds the board, so
/// the outermost squares extend without limit. An edge there would be a seam along the squares that are outside.
fn checker(p: Point, cell: f32) -> f32 {
    let to_line = p.map(|c| c.abs().min((c.abs() - cell).abs()));
    let odd = p.map(|c| ((c / cell).floor() as i32).clamp(-2, 1)).iter().sum::<i32>().rem_euclid(2) == 1;
    let depth = to_line[0].min(to_line[1]);
    if odd { depth } else { -depth }
}

/// An Archimedean spiral with three turns.
fn spiral(p: Point) -> f32 {
    const PITCH: f32 = 0.36;
    let turns = length(p) / PITCH - p[1].atan2(p[0]) / TAU;
    (turns.rem_euclid(1.0) - 0.5).abs() * PITCH - 0.09
}

fn random_color(light: bool, rng: &mut ChaCha8Rng) -> Color {
    let [low, high] = if light { [0.58, 0.95] } else { [0.05, 0.42] };
    let luma = rng.random_range(low..high);
    let tint: Color = [(); 3].map(|()| rng.random_range(-0.3_f32..0.3));
    let mean = 0.299 * tint[0] + 0.587 * tint[1] + 0.114 * tint[2];
    tint.map(|t| (luma + t - mean).clamp(0.0, 1.0))
}

fn blend(under: Color, over: Color, share: f32) -> Color {
    [0, 1, 2].map(|c| under[c] + (over[c] - under[c]) * share)
}

/// The share of a pixel inside an edge at signed distance `distance`.
fn coverage(distance: f32, pixel: f32) -> f32 {
    (0.5 - distance / pixel).clamp(0.0, 1.0)
}

/// Noise from -1 to 1 that depends on the pixel.
fn hash_noise(x: u32, y: u32, seed: u32) -> f32 {
    let mut h = x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77) ^ seed;
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    h = (h ^ (h >> 12)).wrapping_mul(0x297a_2d39);
    (h ^ (h >> 15)) as f32 / u32::MAX as f32 * 2.0 - 1.0
}

fn dot(a: Point, b: Point) -> f32 {
    a[0] * b[0] + a[1] * b[1]
}

fn sub(a: Point, b: Point) -> Point {
    [a[0] - b[0], a[1] - b[1]]
}

fn length(a: Point) -> f32 {
    a[0].hypot(a[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The board's edge must not show at squares that are outside.
    #[test]
    fn the_checkerboard_has_no_outline() {
        let class = CLASSES.iter().position(|name| *name == "checker").unwrap();
        for along in [-0.645, -0.215, 0.215, 0.645] {
            for edge in [0.86_f32, -0.86] {
                let beside = |step: f32| [edge + step * edge.signum(), along];
                let (inner, outer) =
                    (shape_distance(class, beside(-0.01)), shape_distance(class, beside(0.01)));
                let filled = inner < 0.0;
                assert!(
                    if filled { outer > 0.0 && outer < 0.02 } else { outer > 0.2 },
                    "{edge} {along}: {outer}"
                );
            }
        }
    }
}
