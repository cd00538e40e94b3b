//! The threads of a model: they take batches from its queue and answer each request.
//!
//! The batcher knows no model. It gets a function from jobs to answers, and calls it within the rayon pool of the thread.

mod exchange;
mod sync;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::queue::{self, Limits, Refusal};
use crate::threads::STACK;
use exchange::Exchange;

pub use exchange::Ticket;

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
    exchange: Exchange<J, A>,
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
        let batcher = Self { exchange: Exchange::new(limits), limits };
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
            let compute = compute.clone();
            let in_pool = move |jobs| pool.install(|| compute(jobs));
            batcher.exchange.start_worker(format!("{name}-{worker}"), in_pool)?;
        }
        Ok(batcher)
    }

    /// Takes a job of so many images.
    ///
    /// # Errors
    /// Why it was refused.
    pub fn submit(&self, job: J, images: usize, deadline: Instant) -> Result<Ticket<A>, Refusal> {
        self.exchange.submit(job, images, deadline)
    }

    /// Images that wait.
    pub fn waiting(&self) -> usize {
        self.exchange.waiting()
    }

    /// The limits of the queue.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes no more jobs and computes those that wait. Returns when the threads have ended.
    pub fn drain(&self) {
        self.exchange.drain();
    }

    /// Takes no more jobs. What waits is still computed.
    pub fn close(&self) {
        self.exchange.close();
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
