//! What waits for a model, and which of it makes the next batch. A pure state machine: it knows no thread, no clock and no
//! image.
//!
//! - Batches count images, not requests. A batch never has more than `max_batch` of them; a request is never divided.
//! - Requests leave in the order of their arrival.
//! - A request whose deadline has passed, or whose client is gone, is never computed.
//! - The queue is bounded in images. A full queue refuses at once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The limits of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Images of a batch.
    pub max_batch: usize,
    /// Images that wait.
    pub max_queue: usize,
    /// How long the first request of a batch waits for others.
    pub max_delay: Duration,
}

impl Limits {
    /// Most images of one request: what an idle model can take.
    pub fn max_request(&self) -> usize {
        self.max_batch.min(self.max_queue)
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Too many images wait.
    Full,
    /// The request alone has more images than a batch or the queue.
    TooLarge,
    /// The queue takes no more.
    Closed,
}

/// A request that waits.
#[derive(Debug)]
struct Waiting<T> {
    job: T,
    images: usize,
    arrived: Instant,
    deadline: Instant,
}

/// What a worker is to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// Compute these together. `late` passed their deadlines; they are answered so.
    Batch {
        /// In the order of their arrival. May be empty if there are late ones.
        jobs: Vec<T>,
        /// Not to be computed.
        late: Vec<T>,
    },
    /// Nothing to do before this time, or before a new request. `None`: before a new request.
    Wait(Option<Instant>),
    /// Nothing will come any more.
    End,
}

/// Requests of one model.
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    waiting: VecDeque<Waiting<T>>,
    images: usize,
    is_closed: bool,
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(limits: Limits) -> Self {
        Self { limits, waiting: VecDeque::new(), images: 0, is_closed: false }
    }

    /// Images that wait.
    pub fn images(&self) -> usize {
        self.images
    }

    /// Takes a request with so many images, or hands it back. Requests whose clients have left still count;
    /// [`drop_late`](Self::drop_late) makes room.
    ///
    /// # Errors
    /// The request, and why it was refused.
    pub fn push(
        &mut self,
        job: T,
        images: usize,
        now: Instant,
        deadline: Instant,
    ) -> Result<(), (T, Refusal)> {
        let refusal = match () {
            () if self.is_closed => Some(Refusal::Closed),
            () if images > self.limits.max_request() => Some(Refusal::TooLarge),
            () if images > self.limits.max_queue - self.images => Some(Refusal::Full),
            () => None,
        };
        if let Some(refusal) = refusal {
            return Err((job, refusal));
        }
        self.images += images;
        self.waiting.push_back(Waiting { job, images, arrived: now, deadline });
        Ok(())
    }

    /// Takes no more requests. Those that wait are still computed.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// What a worker is to do now. `is_gone` tells that a client no longer waits.
    pub fn next(&mut self, now: Instant, is_gone: impl Fn(&T) -> bool) -> Next<T> {
        let late = self.drop_late(now, is_gone);
        if !late.is_empty() {
            // Said at once; the worker comes back for the rest.
            return Next::Batch { jobs: Vec::new(), late };
        }
        let Some(first) = self.waiting.front() else {
            return if self.is_closed { Next::End } else { Next::Wait(None) };
        };
        // A delay beyond the end of time waits for a full batch alone.
        let ready_at = first.arrived.checked_add(self.limits.max_delay);
        let is_full = self.images >= self.limits.max_batch;
        if !is_full && !self.is_closed && ready_at.is_none_or(|ready_at| now < ready_at) {
            let deadlines = self.waiting.iter().map(|waiting| waiting.deadline);
            return Next::Wait(deadlines.chain(ready_at).min());
        }
        let (mut jobs, mut count) = (Vec::new(), 0);
        while let Some(next) = self.waiting.front() {
            if count + next.images > self.limits.max_batch {
                break;
            }
            count += next.images;
            jobs.extend(self.waiting.pop_front().map(|waiting| waiting.job));
        }
        self.images -= count;
        Next::Batch { jobs, late: Vec::new() }
    }

    /// Takes out requests whose clients have left, and hands back those whose deadlines have passed.
    pub fn drop_late(&mut self, now: Instant, is_gone: impl Fn(&T) -> bool) -> Vec<T> {
        let is_due = |waiting: &Waiting<T>| waiting.deadline <= now || is_gone(&waiting.job);
        if !self.waiting.iter().any(is_due) {
            return Vec::new();
        }
        let mut late = Vec::new();
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for waiting in self.waiting.drain(..) {
            if is_gone(&waiting.job) {
                self.images -= waiting.images;
            } else if waiting.deadline <= now {
                self.images -= waiting.images;
                late.push(waiting.job);
            } else {
                kept.push_back(waiting);
            }
        }
        self.waiting = kept;
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits(max_batch: usize, max_queue: usize, delay: Duration) -> Limits {
        Limits { max_batch, max_queue, max_delay: delay }
    }

    /// A queue that holds these requests: name, images. All arrived at `now`, with an hour to live.
    fn queue(limits: Limits, now: Instant, requests: &[(u32, usize)]) -> Queue<u32> {
        let mut queue = Queue::new(limits);
        for (name, images) in requests {
            queue.push(*name, *images, now, now + 3600 * SECOND).unwrap();
        }
        queue
    }

    fn batch(jobs: &[u32]) -> Next<u32> {
        Next::Batch { jobs: jobs.to_vec(), late: Vec::new() }
    }

    #[test]
    fn batches_count_images_and_divide_no_request() {
        let now = Instant::now();
        let mut queue = queue(limits(4, 100, Duration::ZERO), now, &[(0, 1), (1, 2), (2, 2), (3, 4), (4, 1)]);
        let next = [0; 5].map(|_| queue.next(now, |_| false));
        assert_eq!(next, [batch(&[0, 1]), batch(&[2]), batch(&[3]), batch(&[4]), Next::Wait(None)]);
    }

    #[test]
    fn a_delay_waits_for_more_until_the_batch_is_full() {
        let now = Instant::now();
        let mut queue = queue(limits(3, 100, SECOND), now, &[(0, 1)]);
        assert_eq!(queue.next(now, |_| false), Next::Wait(Some(now + SECOND)));
        queue.push(1, 2, now, now + SECOND).unwrap();
        assert_eq!(queue.next(now, |_| false), batch(&[0, 1]));
        queue.push(2, 1, now, now + 9 * SECOND).unwrap();
        assert_eq!(queue.next(now + SECOND, |_| false), batch(&[2]));
    }

    #[test]
    fn a_wait_ends_with_the_first_deadline() {
        let now = Instant::now();
        let mut queue = Queue::new(limits(8, 100, 60 * SECOND));
        queue.push(0, 1, now, now + 9 * SECOND).unwrap();
        queue.push(1, 1, now, now + 2 * SECOND).unwrap();
        assert_eq!(queue.next(now, |_| false), Next::Wait(Some(now + 2 * SECOND)));
        let late = Next::Batch { jobs: Vec::new(), late: vec![1] };
        assert_eq!(queue.next(now + 2 * SECOND, |_| false), late);
        assert_eq!(queue.images(), 1);
    }

    #[test]
    fn an_endless_delay_does_not_overflow() {
        let now = Instant::now();
        let mut queue = queue(limits(2, 100, Duration::MAX), now, &[(0, 1)]);
        assert_eq!(queue.next(now, |_| false), Next::Wait(Some(now + 3600 * SECOND)));
    }

    #[test]
    fn refusals_say_why() {
        let now = Instant::now();
        let mut queue = queue(limits(4, 5, Duration::ZERO), now, &[(0, 4)]);
        let far = now + SECOND;
        assert_eq!(queue.push(1, 5, now, far), Err((1, Refusal::TooLarge)));
        assert_eq!(queue.push(2, 2, now, far), Err((2, Refusal::Full)));
        queue.push(3, 1, now, far).unwrap();
        queue.close();
        assert_eq!(queue.push(4, 1, now, far), Err((4, Refusal::Closed)));
        let mut narrow = Queue::new(limits(8, 3, Duration::ZERO));
        assert_eq!(narrow.push(0, 4, now, far), Err((0, Refusal::TooLarge)));
    }

    #[test]
    fn who_has_left_is_not_computed_and_makes_room() {
        let now = Instant::now();
        let mut queue = queue(limits(4, 4, Duration::ZERO), now, &[(0, 2), (1, 2)]);
        assert!(queue.drop_late(now, |name| *name == 0).is_empty());
        assert_eq!(queue.images(), 2);
        assert_eq!(queue.next(now, |_| false), batch(&[1]));
    }

    #[test]
    fn a_closed_queue_is_computed_to_its_end_without_delay() {
        let now = Instant::now();
        let mut queue = queue(limits(4, 100, 60 * SECOND), now, &[(0, 1)]);
        queue.close();
        assert_eq!(queue.next(now, |_| false), batch(&[0]));
        assert_eq!(queue.next(now, |_| false), Next::End);
    }
}
