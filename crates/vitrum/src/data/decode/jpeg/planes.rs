//! Samples of components to rows of pixels: libjpeg's smooth upsampling of chroma, and its colours.

use super::frame::{Color, Component, Frame};
use super::idct;

/// The samples of one component.
pub(super) struct Plane {
    samples: Vec<u8>,
    stride: usize,
    /// Size without the padding to whole blocks.
    width: usize,
    height: usize,
    /// How many pixels a sample covers.
    across: usize,
    down: usize,
}

impl Plane {
    pub(super) fn new(component: Component, frame: &Frame) -> Self {
        let stride = component.stride * 8;
        let (across, down) = (frame.across / component.across, frame.down / component.down);
        let (width, height) = (frame.width.div_ceil(across), frame.height.div_ceil(down));
        let samples = if component.samples.is_empty() { samples(&component) } else { component.samples };
        Self { samples, stride, width, height, across, down }
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.stride]
    }

    /// Row `y` of the picture, in `out`, at least as long as the picture is wide.
    pub(super) fn upsample(&self, y: usize, out: &mut Vec<u8>) {
        out.clear();
        let near = self.row(y / self.down);
        match (self.across, self.down) {
            (1, 1) => out.extend_from_slice(near),
            (2, 1) if self.width > 2 => self.across_twice(near, out),
            (1, 2) => {
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                let mix = |(&a, &b): (&u8, &u8)| ((u32::from(a) * 3 + u32::from(b) + bias) >> 2) as u8;
                out.extend(near.iter().zip(self.next_row(y)).map(mix));
            }
            (2, 2) if self.width > 2 => self.both_twice(near, self.next_row(y), out),
            (across, _) => out.extend(near.iter().flat_map(|&v| std::iter::repeat_n(v, across))),
        }
    }

    /// The second nearest row, for two rows of pixels per row of samples.
    fn next_row(&self, y: usize) -> &[u8] {
        let at = y / 2;
        self.row(if y.is_multiple_of(2) { at.saturating_sub(1) } else { (at + 1).min(self.height - 1) })
    }

    /// Three parts of the nearer sample and one of the further, rounded down and up in turn.
    fn across_twice(&self, row: &[u8], out: &mut Vec<u8>) {
        let row = &row[..self.width];
        let mix = |near: u8, far: u8, bias: u32| ((u32::from(near) * 3 + u32::from(far) + bias) >> 2) as u8;
        out.resize(row.len() * 2, 0);
        for (out, three) in out[2..].chunks_exact_mut(2).zip(row.windows(3)) {
            out[0] = mix(three[1], three[0], 1);
            out[1] = mix(three[1], three[2], 2);
        }
        let last = row.len() - 1;
        (out[0], out[1]) = (row[0], mix(row[0], row[1], 2));
        (out[2 * last], out[2 * last + 1]) = (mix(row[last], row[last - 1], 1), row[last]);
    }

    fn both_twice(&self, near: &[u8], next: &[u8], out: &mut Vec<u8>) {
        let mix = |(&near, &next): (&u8, &u8)| u16::from(near) * 3 + u16::from(next);
        let sums: Vec<u16> = near[..self.width].iter().zip(next).map(mix).collect();
        let mix = |near: u16, far: u16, bias: u16| ((near * 3 + far + bias) >> 4) as u8;
        out.resize(sums.len() * 2, 0);
        for (out, three) in out[2..].chunks_exact_mut(2).zip(sums.windows(3)) {
            out[0] = mix(three[1], three[0], 8);
            out[1] = mix(three[1], three[2], 7);
        }
        let last = sums.len() - 1;
        (out[0], out[1]) = (mix(sums[0], sums[0], 8), mix(sums[0], sums[1], 7));
        (out[2 * last], out[2 * last + 1]) =
            (mix(sums[last], sums[last - 1], 8), mix(sums[last], sums[last], 7));
    }
}

/// The samples of the blocks.
fn samples(component: &Component) -> Vec<u8> {
    let stride = component.stride * 8;
    let mut samples = vec![0; stride * component.rows * 8];
    let steps = component.steps.unwrap_or([0; 64]);
    let rows = samples.chunks_exact_mut(stride * 8);
    for (row, blocks) in rows.zip(component.blocks.chunks_exact(component.stride)) {
        for (x, block) in blocks.iter().enumerate() {
            idct::block(block, &steps, &mut row[x * 8..], stride);
        }
    }
    samples
}

/// The pixels, the components side by side: grey, RGB, or four inks.
pub(super) fn pixels(planes: &[Plane], frame: &Frame) -> Vec<u8> {
    let mut rows = vec![Vec::new(); planes.len()];
    let mut out = vec![0; frame.width * frame.height * planes.len()];
    for (y, out) in out.chunks_exact_mut(frame.width * planes.len()).enumerate() {
        for (plane, row) in planes.iter().zip(&mut rows) {
            plane.upsample(y, row);
        }
        interleave(&rows, frame.color, out);
    }
    out
}

fn interleave(rows: &[Vec<u8>], color: Color, out: &mut [u8]) {
    match (rows, color) {
        ([y, cb, cr], Color::YCbCr) => {
            rgb_row([y, cb, cr].map(|row| &row[..out.len() / 3]), out);
        }
        ([y, cb, cr, k], Color::Ycck) => {
            let samples = y.iter().zip(cb).zip(cr).zip(k);
            for (out, (((&y, &cb), &cr), &k)) in out.chunks_exact_mut(4).zip(samples) {
                let [r, g, b] = rgb_of_ycc(y, cb, cr);
                out.copy_from_slice(&[255 - r, 255 - g, 255 - b, k]);
            }
        }
        _ => {
            for (channel, row) in rows.iter().enumerate() {
                let out = out[channel..].iter_mut().step_by(rows.len());
                out.zip(row).for_each(|(out, &sample)| *out = sample);
            }
        }
    }
}

/// How many pixels are converted at once.
const SPAN: usize = 16;

fn rgb_row([y, cb, cr]: [&[u8]; 3], out: &mut [u8]) {
    let (y, last_y) = y.as_chunks::<SPAN>();
    let (cb, last_cb) = cb.as_chunks::<SPAN>();
    let (cr, last_cr) = cr.as_chunks::<SPAN>();
    let (out, last) = out.as_chunks_mut::<{ SPAN * 3 }>();
    for (((y, cb), cr), out) in y.iter().zip(cb).zip(cr).zip(out) {
        *out = rgb_span(y, cb, cr);
    }
    let samples = last_y.iter().zip(last_cb).zip(last_cr);
    for (out, ((&y, &cb), &cr)) in last.chunks_exact_mut(3).zip(samples) {
        out.copy_from_slice(&rgb_of_ycc(y, cb, cr));
    }
}

fn rgb_span(y: &[u8; SPAN], cb: &[u8; SPAN], cr: &[u8; SPAN]) -> [u8; SPAN * 3] {
    let [mut r, mut g, mut b] = [[0; SPAN]; 3];
    for k in 0..SPAN {
        [r[k], g[k], b[k]] = rgb_of_ycc(y[k], cb[k], cr[k]);
    }
    let mut out = [0; SPAN * 3];
    for k in 0..SPAN {
        (out[3 * k], out[3 * k + 1], out[3 * k + 2]) = (r[k], g[k], b[k]);
    }
    out
}

/// Factors in 16-bit fixed point: 1.402, 1.772, 0.71414, 0.34414; whole parts are added apart, so that each product is
/// one of 16 bits by 16.
#[inline(always)]
fn rgb_of_ycc(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let [y, cb, cr] = [i16::from(y), i16::from(cb) - 128, i16::from(cr) - 128];
    let part = |a: i32, b: i32| ((a * i32::from(cb) + b * i32::from(cr) + HALF) >> 16) as i16;
    let clamp = |v: i16| v.clamp(0, 255) as u8;
    [
        clamp(y + cr + part(0, 91881 - 65536)),
        clamp(y - cr + part(-22554, 65536 - 46802)),
        clamp(y + 2 * cb + part(116130 - 131072, 0)),
    ]
}
