//! Splitting work over threads so that the numbers do not depend on how many there are.
//!
//! Work is cut into blocks whose size depends on shapes alone, each block is computed by one thread in one order, and
//! sums over blocks are taken in the order of the blocks. So one thread and many give the same bits.

use std::ops::Range;

use rayon::prelude::*;

use crate::simd::Real;

/// Fewer multiplications than this are not worth waking a second thread: about 20 µs on one core, against the
/// 5 to 10 µs it takes rayon to hand work over.
const WORTH_SPLITTING: usize = 1 << 20;

/// Images of a part, at most: with more, what lies between two operations leaves the cache.
const PART: usize = 8;

/// Calls `pass` for parts of a batch, `images` in all, side by side, and returns what it gives in the order of the
/// batch; for answers whose numbers do not depend on the other images.
///
/// Threads that share each operation wait for one another after each, and read what the other has written; with two and
/// a batch of eight that took 10 to 25 % of the time of ViT-Ti, 16 % of ViT-S, nothing measurable of ViT-B. What is in
/// memory at a time is that of a part for each thread, however large the batch. All of it runs on the workers: handing
/// the operations of a pass over from outside one by one costs a wake-up each, a tenth of ViT-Ti's time with one image.
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

/// Part `index` of `parts` almost equal ones of `0 .. length`.
pub(crate) fn share(length: usize, parts: usize, index: usize) -> Range<usize> {
    index * length / parts..(index + 1) * length / parts
}

/// How many threads there are to work for the caller.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads().max(1)
}

/// `length` numbers that `write` writes, without zeroing them first.
///
/// # Safety
/// `write` must write all of them, and read none before.
pub(crate) unsafe fn written<T: Real>(length: usize, write: impl FnOnce(Shared<T>)) -> Vec<T> {
    let mut numbers = Vec::with_capacity(length);
    write(Shared(numbers.as_mut_ptr()));
    // SAFETY: the room is there, and the caller has written to it.
    unsafe { numbers.set_len(length) };
    numbers
}

/// Adds all later parts of `size` numbers to the first, in order.
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

/// A buffer that blocks write to side by side.
///
/// Whoever makes one promises that no two blocks touch the same number while it is shared.
pub(crate) struct Shared<T>(*mut T);

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: the promise above; a number is touched by one thread only.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: likewise.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(buffer: &mut [T]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// The room of a vector, whatever its length.
    pub(crate) fn of_capacity(numbers: &mut Vec<T>) -> Self {
        Self(numbers.as_mut_ptr())
    }

    /// The buffer from `start` on.
    pub(crate) fn offset(self, start: usize) -> Self {
        Self(self.at(start))
    }

    /// Where number `index` stands.
    pub(crate) fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }

    /// The numbers from `start` on.
    ///
    /// # Safety
    /// `start .. start + length` must lie in the buffer, and in no other block's part.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, start: usize, length: usize) -> &mut [T] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), length) }
    }
}
