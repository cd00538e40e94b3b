//! The patches of a convolution as an operand: they are packed straight from the maps and never stored as a matrix.

use std::ops::Range;

use super::TALLEST;
use crate::simd::{Kernel, Real, Simd, Vector};

/// A window that slides over maps `[B, H, W, C]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// Number of maps.
    pub maps: usize,
    /// Rows and columns of a map.
    pub grid: [usize; 2],
    /// Numbers between pixels.
    pub pixel: usize,
    /// Positions of the window down and across.
    pub out: [usize; 2],
    /// Pixels between positions.
    pub stride: [usize; 2],
}

/// The matrix of patches `[maps · positions, runs · length]`. A patch is some runs of contiguous numbers. A run begins
/// some pixels from the position of the window. If its first pixel is outside the map, the run is zeros.
pub(crate) struct Patches<'a, T> {
    values: &'a [T],
    window: Window,
    /// The number within a pixel at which runs begin.
    first: usize,
    /// Offsets of the runs.
    runs: &'a [[isize; 2]],
    /// Numbers per run.
    length: usize,
    zeros: Vec<T>,
}

impl<'a, T: Real> Patches<'a, T> {
    /// Patches of the numbers `first .. first + length` of each pixel under the window. A run must lie within its
    /// pixel, or within its row of pixels if the maps hold their padding.
    ///
    /// # Panics
    /// If the maps have fewer numbers than the window says.
    pub(crate) fn new(
        values: &'a [T],
        window: Window,
        runs: &'a [[isize; 2]],
        first: usize,
        length: usize,
    ) -> Self {
        let Window { maps, grid: [h, w], pixel, .. } = window;
        assert!(values.len() >= maps * h * w * pixel, "maps exceed their numbers");
        Self { values, window, first, runs, length, zeros: vec![T::ZERO; length + 16] }
    }

    /// Rows and columns.
    pub(crate) fn shape(&self) -> [usize; 2] {
        let Window { maps, out: [rows, columns], .. } = self.window;
        [maps * rows * columns, self.runs.len() * self.length]
    }

    /// The first number of a run. `None`: outside the map.
    #[inline(always)]
    fn start(&self, position: Position, run: [isize; 2]) -> Option<usize> {
        let Window { grid: [h, w], pixel, .. } = self.window;
        let (y, x) = (position.y + run[0], position.x + run[1]);
        // The first pixel decides. Only padded maps have runs over several pixels, and they hold all of them.
        if y < 0 || x < 0 || y >= h as isize || x >= w as isize {
            return None;
        }
        Some(((position.map * h + y as usize) * w + x as usize) * pixel + self.first)
    }

    /// Packs rows (patches) and terms as a strip `[terms, rows]`.
    ///
    /// # Safety
    /// The processor must have the instructions of `V`. Rows and terms must lie within the matrix, at most
    /// [`TALLEST`] rows. `to` must have space for the strip and for a register more, which is overwritten.
    #[inline(always)]
    unsafe fn pack_rows<V: Vector<Scalar = T>>(&self, rows: &Range<usize>, terms: &Range<usize>, to: *mut T) {
        let height = rows.len();
        debug_assert!(height <= TALLEST, "a strip of {height} rows");
        let mut positions = [Position::default(); TALLEST];
        let mut position = Position::of(&self.window, rows.start);
        for slot in positions.iter_mut().take(height) {
            *slot = position;
            position.step(&self.window);
        }
        let mut starts = [self.zeros.as_ptr(); TALLEST];
        for piece in Pieces::new(terms, self.length) {
            let run = self.runs[piece.run];
            let mut largest = 0;
            for i in 0..height {
                starts[i] = match self.start(positions[i], run) {
                    Some(start) => {
                        largest = largest.max(start);
                        self.values.as_ptr().wrapping_add(start + piece.within)
                    }
                    None => self.zeros.as_ptr(),
                };
            }
            let to = to.wrapping_add(piece.at * height);
            let whole = piece.count - piece.count % V::LANES;
            // A register may read beyond the run as long as it stays within the maps.
            let fits = largest + piece.within + whole + V::LANES <= self.values.len();
            let end = if fits { piece.count } else { whole };
            // SAFETY: upheld by the caller. Before `end`, each row has a whole register of numbers. Terms are written
            // in order, so each store overwrites what the one before left beyond the rows.
            unsafe {
                for first in (0..height).step_by(V::LANES) {
                    let group = &starts[first..height.min(first + V::LANES)];
                    // The last group is not full: whole registers would overwrite the next term's first group, which is
                    // written.
                    if height > V::LANES && group.len() < V::LANES {
                        gather(group, 0..piece.count, to.add(first), height);
                        continue;
                    }
                    for p in (0..end).step_by(V::LANES) {
                        let columns = V::LANES.min(piece.count - p);
                        V::transpose_lines(group, p, columns, to.add(p * height + first), height);
                    }
                    gather(group, end..piece.count, to.add(first), height);
                }
            }
        }
    }

    /// Packs a strip `[terms, rows]` of the transposed matrix: its terms are patches.
    ///
    /// # Safety
    /// As [`pack_rows`](Self::pack_rows).
    #[inline(always)]
    unsafe fn pack_columns<V: Vector<Scalar = T>>(
        &self,
        rows: &Range<usize>,
        terms: &Range<usize>,
        to: *mut T,
    ) {
        let height = rows.len();
        let is_whole = Pieces::new(rows, self.length).count() == 1;
        let registers = height.next_multiple_of(V::LANES);
        for piece in Pieces::new(rows, self.length) {
            let run = self.runs[piece.run];
            let mut position = Position::of(&self.window, terms.start);
            for p in 0..terms.len() {
                let to = to.wrapping_add(p * height + piece.at);
                let start = self.start(position, run);
                position.step(&self.window);
                // SAFETY: upheld by the caller; runs lie within the maps. A register may write beyond the rows of a
                // whole strip: the next term overwrites it.
                unsafe {
                    match start.map(|start| start + piece.within) {
                        Some(start) if is_whole && start + registers <= self.values.len() => {
                            let from = self.values.as_ptr().add(start);
                            for j in (0..height).step_by(V::LANES) {
                                V::load(from.add(j)).store(to.add(j));
                            }
                        }
                        Some(start) => {
                            let from = self.values.as_ptr().add(start);
                            for j in 0..piece.count {
                                *to.add(j) = *from.add(j);
                            }
                        }
                        None => {
                            for j in 0..piece.count {
                                *to.add(j) = T::ZERO;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The packing of a strip as a kernel of its own, so that it is compiled once and not for each kind of terms.
pub(super) struct PackPatches<'a, T> {
    pub patches: &'a Patches<'a, T>,
    pub rows: Range<usize>,
    pub terms: Range<usize>,
    pub to: *mut T,
    /// Whether rows and terms are those of the transpose.
    pub turned: bool,
}

impl<T: Real> Kernel for PackPatches<'_, T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: upheld by the caller.
        unsafe {
            match self.turned {
                false => self.patches.pack_rows::<T::In<S>>(&self.rows, &self.terms, self.to),
                true => self.patches.pack_columns::<T::In<S>>(&self.rows, &self.terms, self.to),
            }
        }
    }
}

/// Copies `terms` of each row to `[terms, rows]` at steps of `height`.
///
/// # Safety
/// Rows must have these terms, and `to` must have space for them.
#[inline(always)]
unsafe fn gather<T: Real>(rows: &[*const T], terms: Range<usize>, to: *mut T, height: usize) {
    for p in terms {
        for (i, row) in rows.iter().enumerate() {
            // SAFETY: upheld by the caller.
            unsafe { *to.add(p * height + i) = *row.add(p) };
        }
    }
}

/// A position of the window: the map, and the pixel at its origin.
#[derive(Clone, Copy, Default)]
struct Position {
    map: usize,
    y: isize,
    x: isize,
}

impl Position {
    /// Position number `index`, map by map and row by row.
    #[inline(always)]
    fn of(window: &Window, index: usize) -> Self {
        let Window { out: [rows, columns], stride: [down, across], .. } = *window;
        let (line, x) = (index / columns, index % columns);
        let (map, y) = (line / rows, line % rows);
        Self { map, y: (y * down) as isize, x: (x * across) as isize }
    }

    /// Moves to the next position.
    #[inline(always)]
    fn step(&mut self, window: &Window) {
        let Window { out: [rows, columns], stride: [down, across], .. } = *window;
        self.x += across as isize;
        if self.x == (columns * across) as isize {
            self.x = 0;
            self.y += down as isize;
            if self.y == (rows * down) as isize {
                self.y = 0;
                self.map += 1;
            }
        }
    }
}

/// A part of a run: `count` numbers from `within` on, at `at` among the wanted numbers.
#[derive(Clone, Copy)]
struct Piece {
    run: usize,
    within: usize,
    at: usize,
    count: usize,
}

/// The parts of runs of `length` numbers that make up a range of columns.
struct Pieces {
    from: usize,
    start: usize,
    end: usize,
    length: usize,
}

impl Pieces {
    #[inline(always)]
    fn new(columns: &Range<usize>, length: usize) -> Self {
        Self { from: columns.start, start: columns.start, end: columns.end, length }
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    #[inline(always)]
    fn next(&mut self) -> Option<Piece> {
        if self.from >= self.end {
            return None;
        }
        let (run, within) = (self.from / self.length, self.from % self.length);
        let count = (self.length - within).min(self.end - self.from);
        let at = self.from - self.start;
        self.from += count;
        Some(Piece { run, within, at, count })
    }
}
