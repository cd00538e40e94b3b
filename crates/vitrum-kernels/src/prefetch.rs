//! Prefetching of cache lines.

/// Bytes of a cache line, the unit of prefetching.
pub(crate) const LINE: usize = 64;

/// Prefetches a cache line that will be needed soon.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    prefetch_line::<T, false>(at);
}

/// Prefetches a cache line to the first-level cache or, with `SECOND_LEVEL`, to the second.
#[inline(always)]
fn prefetch_line<T, const SECOND_LEVEL: bool>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint that reads nothing; any address is valid. SSE is part of x86-64.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        match SECOND_LEVEL {
            false => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
            true => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// The memory after the part of an operand that is in use. Tiles prefetch it line by line.
pub(crate) struct PrefetchQueue<T> {
    at: *const T,
    /// Cache lines that are not yet prefetched.
    left: usize,
}

impl<T> PrefetchQueue<T> {
    /// The memory after the `numbers` numbers at `from`, of the same length.
    pub(crate) fn new(from: *const T, numbers: usize) -> Self {
        Self { at: from.wrapping_add(numbers), left: (numbers * size_of::<T>()).div_ceil(LINE) }
    }

    /// The next `count` lines.
    #[inline(always)]
    pub(crate) fn lines(&mut self, count: usize) -> Lines<T> {
        let lines = Lines { at: self.at, step: if self.left > 0 { LINE / size_of::<T>() } else { 0 } };
        self.left = self.left.saturating_sub(count);
        self.at = self.at.wrapping_add(count * LINE / size_of::<T>());
        lines
    }
}

/// Cache lines that a tile prefetches one after the other.
#[derive(Clone, Copy)]
pub(crate) struct Lines<T> {
    at: *const T,
    /// Step between lines, in numbers; 0 if all lines have been prefetched.
    step: usize,
}

impl<T> Lines<T> {
    /// No lines.
    pub(crate) fn none() -> Self {
        Self { at: std::ptr::null(), step: 0 }
    }

    /// Prefetches the next line.
    #[inline(always)]
    pub(crate) fn prefetch_next(&mut self) {
        prefetch_line::<T, true>(self.at);
        self.at = self.at.wrapping_add(self.step);
    }
}
