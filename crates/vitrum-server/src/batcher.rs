//! The threads of a model: they take batches from its queue and answer each request.
//!
//! The batcher knows no model. It gets a function from jobs to answers, and calls it within the rayon pool of the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rayon::ThreadPool;
use tokio::sync::oneshot;

use crate::queue::{Limits, Next, Queue, Refusal};
use crate::threads::STACK;

/// Why a request that was taken has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Its deadline passed before its turn.
    Late,
    /// The pass failed by a bug of ours.
    Crashed,
    /// The model cannot answer this request.
    Model(String),
}

/// The answer to a request, and when it was computed.
#[derive(Clone, Debug)]
pub struct Reply<A> {
    /// The answer.
    pub answer: A,
    /// From arrival to the beginning of the pass.
    pub waited: Duration,
    /// The pass.
    pub computed: Duration,
    /// Images of the pass.
    pub batch: usize,
}

/// The answer, or why there is none.
pub type Outcome<A> = Result<Reply<A>, Failure>;

/// Computes the answers of a batch, in the order of the jobs.
pub type Compute<J, A> = dyn Fn(Vec<J>) -> Vec<Result<A, String>> + Send + Sync;

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Ticket<A> {
    answer: oneshot::Receiver<Outcome<A>>,
    is_started: Arc<AtomicBool>,
    deadline: Instant,
}

impl<A> Ticket<A> {
    /// The answer. Once the pass has begun, the deadline no longer counts.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn wait(mut self) -> Outcome<A> {
        let lost = |_| Err(Failure::Crashed);
        match tokio::time::timeout_at(self.deadline.into(), &mut self.answer).await {
            Ok(answer) => answer.unwrap_or_else(lost),
            Err(_) if self.is_started.load(Ordering::Acquire) => self.answer.await.unwrap_or_else(lost),
            Err(_) => Err(Failure::Late),
        }
    }
}

/// A job in the queue.
struct Entry<J, A> {
    job: J,
    images: usize,
    arrived: Instant,
    is_started: Arc<AtomicBool>,
    reply: oneshot::Sender<Outcome<A>>,
}

impl<J, A> Entry<J, A> {
    /// Sends the outcome. A client that has left takes no answer; that is no error.
    fn answer(reply: oneshot::Sender<Outcome<A>>, outcome: Outcome<A>) {
        let _ = reply.send(outcome);
    }
}

/// What submitters and workers share.
struct Shared<J, A> {
    queue: Mutex<Queue<Entry<J, A>>>,
    /// A request came, or the queue was closed.
    changed: Condvar,
}

impl<J, A> Shared<J, A> {
    fn lock(&self) -> MutexGuard<'_, Queue<Entry<J, A>>> {
        // No code that can panic runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum BatcherError {
    /// A pool of threads.
    #[error("a pool of {threads} threads cannot be started: {source}")]
    Pool {
        /// Threads of the pool.
        threads: usize,
        /// Why.
        source: rayon::ThreadPoolBuildError,
    },
    /// A thread that takes batches.
    #[error("a thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The queue of a model and its threads. Dropping it closes the queue; what waits is still computed.
pub struct Batcher<J, A> {
    shared: Arc<Shared<J, A>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
    limits: Limits,
}

impl<J: Send + 'static, A: Send + 'static> Batcher<J, A> {
    /// Starts `workers` threads, each with a rayon pool of `threads` threads.
    ///
    /// # Errors
    /// [`BatcherError`].
    pub fn start(
        name: &str,
        limits: Limits,
        workers: usize,
        threads: usize,
        compute: Arc<Compute<J, A>>,
    ) -> Result<Self, BatcherError> {
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::new(limits)), changed: Condvar::new() });
        let batcher = Self { shared, workers: Mutex::default(), limits };
        for worker in 0..workers {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .stack_size(STACK)
                .thread_name({
                    let name = name.to_string();
                    move |thread| format!("{name}-{worker}-{thread}")
                })
                .build()
                .map_err(|source| BatcherError::Pool { threads, source })?;
            let (shared, compute) = (batcher.shared.clone(), compute.clone());
            let thread = std::thread::Builder::new()
                .name(format!("{name}-{worker}"))
                .spawn(move || work(&shared, &pool, &*compute))?;
            batcher.workers().push(thread);
        }
        Ok(batcher)
    }

    fn workers(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a job of so many images.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn submit(&self, job: J, images: usize, deadline: Instant) -> Result<Ticket<A>, Refusal> {
        let (reply, answer) = oneshot::channel();
        let is_started = Arc::new(AtomicBool::new(false));
        let now = Instant::now();
        let entry = Entry { job, images, arrived: now, is_started: is_started.clone(), reply };
        let mut queue = self.shared.lock();
        let mut late = Vec::new();
        let pushed = match queue.push(entry, images, now, deadline) {
            Err((entry, Refusal::Full)) => {
                late = queue.drop_late(now, |entry| entry.reply.is_closed());
                queue.push(entry, images, now, deadline)
            }
            pushed => pushed,
        };
        drop(queue);
        self.shared.changed.notify_one();
        late.into_iter().for_each(|entry| Entry::<J, A>::answer(entry.reply, Err(Failure::Late)));
        match pushed {
            Ok(()) => Ok(Ticket { answer, is_started, deadline }),
            Err((_, refusal)) => Err(refusal),
        }
    }

    /// Images that wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().images()
    }

    /// The limits of the queue.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes no more jobs and computes those that wait. Returns when the threads have ended.
    pub fn drain(&self) {
        self.close();
        let workers = std::mem::take(&mut *self.workers());
        for worker in workers {
            // A worker catches the panics of its passes.
            let _ = worker.join();
        }
    }
}

impl<J, A> Batcher<J, A> {
    /// Takes no more jobs. What waits is still computed.
    pub fn close(&self) {
        self.shared.lock().close();
        self.shared.changed.notify_all();
    }
}

impl<J, A> Drop for Batcher<J, A> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes batches until the queue ends.
fn work<J: Send, A: Send>(shared: &Shared<J, A>, pool: &ThreadPool, compute: &Compute<J, A>) {
    loop {
        let mut queue = shared.lock();
        match queue.next(Instant::now(), |entry| entry.reply.is_closed()) {
            Next::End => return,
            Next::Wait(None) => {
                drop(shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner));
            }
            Next::Wait(Some(until)) => {
                let time = until.saturating_duration_since(Instant::now());
                drop(shared.changed.wait_timeout(queue, time).unwrap_or_else(PoisonError::into_inner));
            }
            Next::Batch { jobs, late } => {
                jobs.iter().for_each(|entry| entry.is_started.store(true, Ordering::Release));
                if queue.images() > 0 {
                    shared.changed.notify_one();
                }
                drop(queue);
                late.into_iter().for_each(|entry| Entry::<J, A>::answer(entry.reply, Err(Failure::Late)));
                if !jobs.is_empty() {
                    pass(jobs, pool, compute);
                }
            }
        }
    }
}

/// Computes a batch and answers it.
fn pass<J: Send, A: Send>(entries: Vec<Entry<J, A>>, pool: &ThreadPool, compute: &Compute<J, A>) {
    let begin = Instant::now();
    let batch = entries.iter().map(|entry| entry.images).sum();
    let (mut jobs, mut replies) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    for Entry { job, arrived, reply, .. } in entries {
        jobs.push(job);
        replies.push((reply, begin.saturating_duration_since(arrived)));
    }
    let answers = catch_unwind(AssertUnwindSafe(|| pool.install(|| compute(jobs))));
    let computed = begin.elapsed();
    let mut answers = answers.unwrap_or_default().into_iter();
    for (reply, waited) in replies {
        let outcome = match answers.next() {
            Some(Ok(answer)) => Ok(Reply { answer, waited, computed, batch }),
            Some(Err(why)) => Err(Failure::Model(why)),
            None => Err(Failure::Crashed),
        };
        Entry::<J, A>::answer(reply, outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn limits(max_batch: usize, max_queue: usize) -> Limits {
        Limits { max_batch, max_queue, max_delay: Duration::ZERO }
    }

    fn start(
        limits: Limits,
        compute: impl Fn(Vec<u32>) -> Vec<Result<u32, String>> + Send + Sync + 'static,
    ) -> Batcher<u32, u32> {
        Batcher::start("test", limits, 1, 1, Arc::new(compute)).unwrap()
    }

    fn doubled(jobs: Vec<u32>) -> Vec<Result<u32, String>> {
        jobs.into_iter().map(|job| Ok(2 * job)).collect()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test]
    async fn everyone_gets_the_own_answer() {
        let batcher = start(limits(8, 1000), doubled);
        let tickets: Vec<_> = (0..500).map(|job| batcher.submit(job, 1, soon()).unwrap()).collect();
        for (job, ticket) in tickets.into_iter().enumerate() {
            let reply = ticket.wait().await.unwrap();
            assert_eq!(reply.answer, 2 * job as u32);
            assert!(reply.batch <= 8);
        }
    }

    #[tokio::test]
    async fn a_panic_answers_its_batch_and_the_worker_goes_on() {
        let compute = |jobs: Vec<u32>| {
            assert!(!jobs.contains(&13), "thirteen");
            doubled(jobs)
        };
        let batcher = start(limits(1, 10), compute);
        let crashed = batcher.submit(13, 1, soon()).unwrap().wait().await;
        assert_eq!(crashed.unwrap_err(), Failure::Crashed);
        assert_eq!(batcher.submit(4, 1, soon()).unwrap().wait().await.unwrap().answer, 8);
    }

    #[tokio::test]
    async fn a_failure_of_one_job_is_its_own() {
        let compute = |jobs: Vec<u32>| {
            let one = |job| if job == 1 { Err("one".to_string()) } else { Ok(job) };
            jobs.into_iter().map(one).collect()
        };
        let batcher = start(limits(4, 10), compute);
        let tickets = [0, 1, 2].map(|job| batcher.submit(job, 1, soon()).unwrap());
        let mut outcomes = Vec::new();
        for ticket in tickets {
            outcomes.push(ticket.wait().await.map(|reply| reply.answer));
        }
        assert_eq!(outcomes, [Ok(0), Err(Failure::Model("one".into())), Ok(2)]);
    }

    /// A batcher whose passes wait at a barrier, twice: at the beginning and at the end.
    fn held(limits: Limits) -> (Batcher<u32, u32>, Arc<Barrier>) {
        let barrier = Arc::new(Barrier::new(2));
        let inner = barrier.clone();
        let compute = move |jobs: Vec<u32>| {
            inner.wait();
            inner.wait();
            doubled(jobs)
        };
        (start(limits, compute), barrier)
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_late_ones_make_room() {
        let (batcher, barrier) = held(limits(1, 1));
        let first = batcher.submit(1, 1, soon()).unwrap();
        barrier.wait();
        let second = batcher.submit(2, 1, Instant::now() + Duration::from_millis(30)).unwrap();
        assert_eq!(batcher.submit(3, 1, soon()).unwrap_err(), Refusal::Full);
        assert_eq!(second.wait().await.unwrap_err(), Failure::Late);
        let third = batcher.submit(3, 1, soon()).unwrap();
        barrier.wait();
        assert_eq!(first.wait().await.unwrap().answer, 2);
        barrier.wait();
        barrier.wait();
        assert_eq!(third.wait().await.unwrap().answer, 6);
    }

    #[tokio::test]
    async fn a_deadline_within_the_pass_does_not_count() {
        let (batcher, barrier) = held(limits(1, 1));
        let ticket = batcher.submit(1, 1, Instant::now() + Duration::from_millis(200)).unwrap();
        barrier.wait();
        tokio::time::sleep(Duration::from_millis(300)).await;
        barrier.wait();
        assert_eq!(ticket.wait().await.unwrap().answer, 2);
    }

    #[tokio::test]
    async fn draining_computes_what_waits() {
        let batcher = start(limits(3, 100), doubled);
        let tickets: Vec<_> = (0..50).map(|job| batcher.submit(job, 1, soon()).unwrap()).collect();
        batcher.drain();
        assert_eq!(batcher.submit(0, 1, soon()).unwrap_err(), Refusal::Closed);
        for (job, ticket) in tickets.into_iter().enumerate() {
            assert_eq!(ticket.wait().await.unwrap().answer, 2 * job as u32);
        }
    }
}
