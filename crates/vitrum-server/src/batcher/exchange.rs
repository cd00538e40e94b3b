//! Jobs come in, threads take them in batches, and answers go out.
//!
//! The exchange does not know what computes. It blocks, wakes and reads the time through [`sync`](super::sync) alone, so
//! that a test can try many orders of events (`tests/it/schedules.rs`).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::queue::{Limits, Next, Queue, Refusal};
use super::sync::{AtomicBool, Condvar, JoinHandle, Mutex, MutexGuard, Ordering, now, spawn, until};
use super::{Failure, Outcome, Reply};

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
        match until(self.deadline, &mut self.answer).await {
            Some(answer) => answer.unwrap_or_else(lost),
            None if self.is_started.load(Ordering::Acquire) => self.answer.await.unwrap_or_else(lost),
            None => Err(Failure::Late),
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

/// A queue and the threads that take from it. Dropping it closes the queue; what waits is still computed.
pub struct Exchange<J, A> {
    shared: Arc<Shared<J, A>>,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

impl<J: Send + 'static, A: Send + 'static> Exchange<J, A> {
    /// A queue without a thread.
    pub fn new(limits: Limits) -> Self {
        let shared = Shared { queue: Mutex::new(Queue::new(limits)), changed: Condvar::new() };
        Self { shared: Arc::new(shared), workers: Mutex::default() }
    }

    /// Starts a thread that takes batches. `compute` answers the jobs of a batch in their order.
    ///
    /// # Errors
    /// The system has no thread.
    pub fn start_worker(
        &self,
        name: String,
        compute: impl Fn(Vec<J>) -> Vec<Result<A, String>> + Send + 'static,
    ) -> io::Result<()> {
        let shared = self.shared.clone();
        let worker = spawn(name, move || work(&shared, &compute))?;
        self.workers().push(worker);
        Ok(())
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
        let now = now();
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

impl<J, A> Exchange<J, A> {
    /// Takes no more jobs. What waits is still computed.
    pub fn close(&self) {
        self.shared.lock().close();
        self.shared.changed.notify_all();
    }
}

impl<J, A> Drop for Exchange<J, A> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Takes batches until the queue ends.
fn work<J, A>(shared: &Shared<J, A>, compute: &dyn Fn(Vec<J>) -> Vec<Result<A, String>>) {
    loop {
        let mut queue = shared.lock();
        match queue.next(now(), |entry| entry.reply.is_closed()) {
            Next::End => return,
            Next::Wait(None) => {
                drop(shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner));
            }
            Next::Wait(Some(until)) => {
                let time = until.saturating_duration_since(now());
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
                    pass(jobs, compute);
                }
            }
        }
    }
}

/// Computes a batch and answers it.
fn pass<J, A>(entries: Vec<Entry<J, A>>, compute: &dyn Fn(Vec<J>) -> Vec<Result<A, String>>) {
    let begin = now();
    let batch = entries.iter().map(|entry| entry.images).sum();
    let (mut jobs, mut replies) = (Vec::with_capacity(entries.len()), Vec::with_capacity(entries.len()));
    for Entry { job, arrived, reply, .. } in entries {
        jobs.push(job);
        replies.push((reply, begin.saturating_duration_since(arrived)));
    }
    let answers = catch_unwind(AssertUnwindSafe(|| compute(jobs)));
    let computed = now().saturating_duration_since(begin);
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
