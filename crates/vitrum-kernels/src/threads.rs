//! Division of work among threads, such that results do not depend on the number of threads.
//!
//! Work is cut into blocks whose size depends only on shapes. One thread computes each block in one order, and sums
//! over blocks are added in the order of the blocks. So any number of threads gives the same bits.

use std::cell::Cell;
use std::ops::Range;
use std::thread::LocalKey;

use rayon::prelude::*;

use crate::simd::Real;

/// Fewer multiplications than this are not worth a second thread: they take about 20 µs on one core, and rayon needs 5
/// to 10 µs to hand work over.
pub(crate) const WORTH_SPLITTING: usize = 1 << 20;

/// Most images per part: with more, the numbers between two operations leave the cache.
const PART: usize = 8;

/// Calls `pass` for parts of a batch of `images` in parallel, and returns the results in the order of the batch. For
/// inference in which images do not depend on each other.
///
/// Threads that share each operation wait for each other after every operation, and read what the others have written.
/// With two threads and a batch of eight that took 10 to 25 % of the time of ViT-Ti and 16 % of ViT-S; for ViT-B it was
/// not measurable. Memory holds one part per thread at a time, however large the batch. The whole pass runs on the
/// workers: submitting its operations one by one from outside would cost a wake-up each, a tenth of the time of ViT-Ti
/// with one image.
pub fn in_parts<R: Send>(images: usize, pass: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
    rayon::scope(|_| {
        let threads = threads();
        let rounds = images.div_ceil(threads * PART).max(1);
        let share =
            |length: usize, parts: usize, part: usize| part * length / parts..(part + 1) * length / parts;
        let mut results = Vec::new();
        for round in 0..rounds {
            let round = share(images, rounds, round);
            let parts = threads.min(round.len()).max(1);
            let pass = |part| {
                let part = share(round.len(), parts, part);
                pass(round.start + part.start..round.start + part.end)
            };
            results.par_extend((0..parts).into_par_iter().with_max_len(1).map(pass));
        }
        results
    })
}

/// Calls `work(scratch, i)` for i below `blocks`, in parallel if `cost` multiplications in all are worth it.
pub(crate) fn for_each_block<S>(
    blocks: usize,
    cost: usize,
    scratch: impl Fn() -> S + Sync + Send,
    work: impl Fn(&mut S, usize) + Sync + Send,
) {
    if cost < WORTH_SPLITTING || blocks < 2 {
        let mut scratch = scratch();
        (0..blocks).for_each(|block| work(&mut scratch, block));
    } else {
        (0..blocks).into_par_iter().for_each_init(scratch, work);
    }
}

/// Passes what this thread keeps under `key` from call to call. A call within `work` with the same key would get a new
/// value.
pub(crate) fn with_kept<T: Default>(key: &'static LocalKey<Cell<T>>, work: impl FnOnce(&mut T)) {
    let mut kept = key.take();
    work(&mut kept);
    key.set(kept);
}

/// Part `index` of `parts` almost equal parts of `0 .. length`.
pub(crate) fn share(length: usize, parts: usize, index: usize) -> Range<usize> {
    index * length / parts..(index + 1) * length / parts
}

/// The number of threads of the current pool.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads().max(1)
}

/// `length` numbers that `write` fills, without zeroing them first.
///
/// # Safety
/// `write` must write all of them, and must not read any before.
pub(crate) unsafe fn written<T: Real>(length: usize, write: impl FnOnce(Shared<T>)) -> Vec<T> {
    let mut numbers = Vec::with_capacity(length);
    write(Shared(numbers.as_mut_ptr()));
    // SAFETY: the capacity is there, and the caller has written all of it.
    unsafe { numbers.set_len(length) };
    numbers
}

/// Adds all later parts of `size` numbers to the first one, in order.
pub(crate) fn sum_parts<T: Real>(parts: &mut [T], size: usize) {
    if size == 0 {
        return;
    }
    let (first, rest) = parts.split_at_mut(size.min(parts.len()));
    for part in rest.chunks_exact(size) {
        for (sum, &x) in first.iter_mut().zip(part) {
            *sum = *sum + x;
        }
    }
}

/// A buffer that blocks write to in parallel.
///
/// The creator of this value guarantees that no two blocks use the same number while it is shared.
pub(crate) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: the guarantee above; only one thread uses each number.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(buffer: &mut [T]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// The capacity of a vector, whatever its length.
    pub(crate) fn of_capacity(numbers: &mut Vec<T>) -> Self {
        Self(numbers.as_mut_ptr())
    }

    /// The buffer from `start` on.
    pub(crate) fn offset(self, start: usize) -> Self {
        Self(self.at(start))
    }

    /// Pointer to number `index`.
    pub(crate) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }

    /// `length` numbers from `start` on. Numbers that are not initialised yet are written through [`at`](Self::at).
    ///
    /// # Safety
    /// `start .. start + length` must lie in the buffer and be initialised, and no other block may use it.
    #[allow(clippy::mut_from_ref)] // Blocks of one buffer are written at once, each by its own thread.
    pub(crate) unsafe fn part(&self, start: usize, length: usize) -> &mut [T] {
        // SAFETY: upheld by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), length) }
    }
}
