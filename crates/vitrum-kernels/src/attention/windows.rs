//! Windows on maps of tokens.

/// Windows on a map of tokens, shifted or not (Swin, arXiv:2103.14030, section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Rows and columns of the map. They are multiples of the window's.
    pub grid: [usize; 2],
    /// Rows and columns of a window.
    pub window: [usize; 2],
    /// The first window begins at this row and column; the last ones continue at the other side of the map.
    pub shift: [usize; 2],
}

impl Windows {
    /// Number of windows of a map.
    pub fn count(&self) -> usize {
        self.rows_columns().iter().product()
    }

    /// N: number of tokens of a window.
    pub fn tokens(&self) -> usize {
        self.window.iter().product()
    }

    /// Whether the windows are shifted.
    pub fn is_shifted(&self) -> bool {
        self.shift != [0, 0]
    }

    /// Rows and columns of windows.
    fn rows_columns(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.grid[axis] / self.window[axis].max(1))
    }

    /// The tokens of the map, window by window, each row by row.
    pub(crate) fn order(&self) -> Vec<usize> {
        let ([h, w], [rows, columns], [down, right]) = (self.grid, self.window, self.shift);
        let mut order = Vec::with_capacity(h * w);
        for top in (0..h).step_by(rows.max(1)) {
            for left in (0..w).step_by(columns.max(1)) {
                for row in top..top + rows {
                    order.extend((left..left + columns).map(|c| (row + down) % h * w + (c + right) % w));
                }
            }
        }
        order
    }

    /// Which of four masks a window has: 1 is added in the last column of windows, 2 in the last row.
    pub(crate) fn variant(&self, window: usize) -> usize {
        let [rows, columns] = self.rows_columns();
        let (row, column) = (window / columns, window % columns);
        2 * usize::from(row + 1 == rows) + usize::from(column + 1 == columns)
    }

    /// Whether two tokens of a window come from parts of the map that do not touch, for each of the four variants:
    /// `[4, N, N]`. The last windows of a shifted map hold such parts.
    pub(crate) fn apart(&self) -> Vec<bool> {
        let ([rows, columns], [down, right]) = (self.window, self.shift);
        let n = self.tokens();
        let part = |variant: usize, token: usize| {
            let is_beyond = |at: usize, size: usize, shift: usize| shift > 0 && at + shift >= size;
            let (row, column) = (token / columns, token % columns);
            (
                variant & 2 != 0 && is_beyond(row, rows, down),
                variant & 1 != 0 && is_beyond(column, columns, right),
            )
        };
        let pairs = (0..4).flat_map(|variant| (0..n * n).map(move |pair| (variant, pair / n, pair % n)));
        pairs.map(|(variant, a, b)| part(variant, a) != part(variant, b)).collect()
    }
}

/// The tokens of the maps in the order of the windows.
pub(super) struct Order {
    /// Windows per map.
    pub windows: usize,
    /// Tokens per window.
    pub size: usize,
    /// The place of each token in its map, window by window.
    pub tokens: Vec<usize>,
    /// The variant of each window.
    pub variants: Vec<usize>,
}

impl Order {
    pub(super) fn new(windows: Windows) -> Self {
        let (count, size) = (windows.count(), windows.tokens());
        let variants = (0..count).map(|window| windows.variant(window)).collect();
        Self { windows: count, size, tokens: windows.order(), variants }
    }

    /// The map and the token in it, of a token of a window; windows are numbered over all maps.
    #[inline(always)]
    pub(super) fn place(&self, window: usize, token: usize) -> (usize, usize) {
        (window / self.windows, self.tokens[window % self.windows * self.size + token])
    }
}
