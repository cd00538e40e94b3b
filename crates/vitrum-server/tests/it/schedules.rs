//! The exchange of jobs and answers under thousands of orders of events: every job that is taken is answered once, no
//! thread waits for ever, and draining ends after the last answer.
//!
//! The code under test is compiled a second time, on the threads, locks and clock of this file. `shuttle` decides at each of
//! their steps which thread goes on, and reports a deadlock when none can. Time passes only where a test lets it pass, so
//! that a wake-up that got lost is a deadlock, not a delay.

#[path = "../../src/batcher/exchange.rs"]
mod exchange;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::sync::Barrier;
use shuttle::thread;
use vitrum_server::batcher::{Failure, Outcome, Reply};
use vitrum_server::queue::{self, Limits, Refusal};

use exchange::{Exchange, Ticket};
use sync::{end_of_time, now, pass_time};

/// What takes the place of `batcher/sync.rs`.
mod sync {
    use std::io;
    use std::pin::{Pin, pin};
    use std::sync::{Arc, LockResult, Mutex as Plain, MutexGuard as PlainGuard, PoisonError};
    use std::task::{Context, Poll, Waker};
    use std::time::{Duration, Instant};

    use shuttle::rand::{Rng, thread_rng};
    use shuttle::thread::{self, Thread};

    pub use shuttle::sync::atomic::{AtomicBool, Ordering};
    pub use shuttle::thread::JoinHandle;

    /// Another thread may go on here.
    fn step() {
        AtomicBool::new(false).store(true, Ordering::SeqCst);
    }

    /// A thread that waits.
    struct Sleeper {
        thread: Thread,
        is_woken: std::sync::atomic::AtomicBool,
    }

    impl Sleeper {
        fn is_woken(&self) -> bool {
            self.is_woken.load(Ordering::SeqCst)
        }

        fn wake(&self) {
            self.is_woken.store(true, Ordering::SeqCst);
            self.thread.unpark();
        }
    }

    /// Who waits for a time.
    enum Timer {
        Sleeper(Arc<Sleeper>),
        Task(Waker),
    }

    /// The time since the beginning of a schedule, and who waits for one.
    #[derive(Default)]
    struct Clock {
        passed: Duration,
        timers: Vec<(Instant, Timer)>,
    }

    shuttle::lazy_static! {
        /// Each schedule has its own. Threads change only at steps, so this lock is always free.
        static ref CLOCK: Plain<Clock> = Plain::default();
        static ref BEGIN: Instant = Instant::now();
    }

    fn clock() -> PlainGuard<'static, Clock> {
        CLOCK.lock().unwrap()
    }

    /// The time.
    pub fn now() -> Instant {
        *BEGIN + clock().passed
    }

    /// A time that never comes unless a test lets it.
    pub fn end_of_time() -> Instant {
        *BEGIN + Duration::from_secs(3600)
    }

    /// Lets time pass. Wakes who waited for it.
    pub fn pass_time(time: Duration) {
        step();
        clock().passed += time;
        let now = now();
        let timers = std::mem::take(&mut clock().timers);
        let (due, rest): (Vec<_>, Vec<_>) = timers.into_iter().partition(|(until, _)| *until <= now);
        clock().timers.extend(rest);
        for (_, timer) in due {
            match timer {
                Timer::Sleeper(sleeper) => sleeper.wake(),
                Timer::Task(waker) => waker.wake(),
            }
        }
    }

    /// A lock whose guard knows it.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(shuttle::sync::Mutex<T>);

    pub struct MutexGuard<'a, T> {
        guard: shuttle::sync::MutexGuard<'a, T>,
        of: &'a Mutex<T>,
    }

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            let with = |guard| MutexGuard { guard, of: self };
            self.0.lock().map(with).map_err(|error| PoisonError::new(with(error.into_inner())))
        }
    }

    impl<T> std::ops::Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.guard
        }
    }

    impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.guard
        }
    }

    /// A condition with time limits; shuttle's own never reaches one. No thread is woken without a reason.
    #[derive(Default)]
    pub struct Condvar(Plain<Vec<Arc<Sleeper>>>);

    impl Condvar {
        pub fn new() -> Self {
            Self::default()
        }

        fn sleepers(&self) -> PlainGuard<'_, Vec<Arc<Sleeper>>> {
            self.0.lock().unwrap()
        }

        fn sleep<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            until: Option<Instant>,
        ) -> LockResult<MutexGuard<'a, T>> {
            let sleeper = Arc::new(Sleeper { thread: thread::current(), is_woken: false.into() });
            self.sleepers().push(sleeper.clone());
            if let Some(until) = until {
                clock().timers.push((until, Timer::Sleeper(sleeper.clone())));
            }
            let mutex = guard.of;
            drop(guard);
            while !sleeper.is_woken() {
                thread::park();
            }
            self.sleepers().retain(|other| !Arc::ptr_eq(other, &sleeper));
            mutex.lock()
        }

        pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
            self.sleep(guard, None)
        }

        pub fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            time: Duration,
        ) -> LockResult<MutexGuard<'a, T>> {
            self.sleep(guard, Some(now() + time))
        }

        /// Wakes any one of those that sleep.
        pub fn notify_one(&self) {
            step();
            let asleep: Vec<_> = self.sleepers().iter().filter(|one| !one.is_woken()).cloned().collect();
            if !asleep.is_empty() {
                asleep[thread_rng().gen_range(0..asleep.len())].wake();
            }
        }

        pub fn notify_all(&self) {
            step();
            let asleep = self.sleepers().clone();
            asleep.iter().for_each(|sleeper| sleeper.wake());
        }
    }

    pub fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(name).spawn(work)
    }

    /// A future that ends at a time, at the latest.
    struct Until<F> {
        deadline: Instant,
        future: F,
    }

    impl<F: Future + Unpin> Future for Until<F> {
        type Output = Option<F::Output>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            if let Poll::Ready(value) = pin!(&mut self.future).poll(context) {
                return Poll::Ready(Some(value));
            }
            if now() >= self.deadline {
                return Poll::Ready(None);
            }
            clock().timers.push((self.deadline, Timer::Task(context.waker().clone())));
            Poll::Pending
        }
    }

    pub async fn until<T>(deadline: Instant, future: impl Future<Output = T> + Unpin) -> Option<T> {
        Until { deadline, future }.await
    }
}

/// The job whose pass panics.
const THIRTEEN: usize = 13;

/// Most jobs of a test.
const JOBS: usize = 16;

/// An exchange with its workers, and how often each job was computed.
struct Hall {
    exchange: Exchange<usize, usize>,
    computed: Arc<[AtomicUsize; JOBS]>,
}

impl Hall {
    fn open(workers: usize, max_batch: usize, max_queue: usize, max_delay: Duration) -> Self {
        let exchange = Exchange::new(Limits { max_batch, max_queue, max_delay });
        let computed: Arc<[AtomicUsize; JOBS]> = Arc::default();
        for worker in 0..workers {
            let computed = computed.clone();
            let compute = move |jobs: Vec<usize>| {
                for job in &jobs {
                    computed[*job].fetch_add(1, Ordering::SeqCst);
                }
                thread::yield_now();
                if jobs.contains(&THIRTEEN) {
                    // A panic that prints nothing.
                    std::panic::resume_unwind(Box::new(()));
                }
                jobs.into_iter().map(|job| Ok(2 * job)).collect()
            };
            exchange.start_worker(format!("worker-{worker}"), compute).unwrap();
        }
        Self { exchange, computed }
    }

    fn computed(&self, job: usize) -> usize {
        self.computed[job].load(Ordering::SeqCst)
    }
}

/// An answer that is there already.
fn at_once(ticket: Ticket<usize>) -> Outcome<usize> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(ticket.wait()).poll(&mut context) {
        std::task::Poll::Ready(outcome) => outcome,
        std::task::Poll::Pending => panic!("a job that was taken has no answer"),
    }
}

/// Time stands still and the queue stays open: batches that are full must be computed by wake-ups alone.
fn full_batches_are_computed() {
    let workers = thread_rng().gen_range(1..=2);
    let hall = Arc::new(Hall::open(workers, 2, JOBS, Duration::from_secs(60)));
    let clients: Vec<_> = (0..4)
        .map(|job| {
            let hall = hall.clone();
            thread::spawn(move || {
                let ticket = hall.exchange.submit(job, 1, end_of_time()).unwrap();
                let reply = block_on(ticket.wait()).unwrap();
                assert_eq!((reply.answer, reply.batch), (2 * job, 2));
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert_eq!(hall.exchange.waiting(), 0);
    hall.exchange.drain();
    (0..4).for_each(|job| assert_eq!(hall.computed(job), 1));
}

/// What was taken before the end is answered when draining ends; after it nothing is taken.
fn draining_answers_what_was_taken() {
    let workers = thread_rng().gen_range(1..=2);
    let delay = if thread_rng().gen_bool(0.5) { Duration::ZERO } else { Duration::from_secs(60) };
    let hall = Arc::new(Hall::open(workers, 2, JOBS, delay));
    let submitters: Vec<_> = (0..3)
        .map(|submitter| {
            let hall = hall.clone();
            thread::spawn(move || {
                let submit = |job| {
                    let images = thread_rng().gen_range(1..=2);
                    hall.exchange.submit(job, images, end_of_time()).map(|ticket| (job, ticket))
                };
                // The first one brings the job whose pass panics.
                [THIRTEEN - 2 * submitter, 12 - 2 * submitter].map(submit)
            })
        })
        .collect();
    if thread_rng().gen_bool(0.3) {
        let hall = hall.clone();
        thread::spawn(move || hall.exchange.close());
    }
    hall.exchange.drain();
    assert_eq!(hall.exchange.submit(0, 1, end_of_time()).unwrap_err(), Refusal::Closed);
    let mut taken = 0;
    for outcome in submitters.into_iter().flat_map(|submitter| submitter.join().unwrap()) {
        match outcome {
            Err(refusal) => assert_eq!(refusal, Refusal::Closed),
            Ok((job, ticket)) => {
                taken += 1;
                assert_eq!(hall.computed(job), 1);
                match at_once(ticket) {
                    Ok(reply) => assert_eq!(reply.answer, 2 * job),
                    Err(failure) => assert_eq!((failure, hall.computed(THIRTEEN)), (Failure::Crashed, 1)),
                }
            }
        }
    }
    assert_eq!((0..JOBS).map(|job| hall.computed(job)).sum::<usize>(), taken);
    // The second time there is nothing to do.
    hall.exchange.drain();
}

/// An exchange that is dropped still answers what it took.
fn dropping_answers_what_was_taken() {
    let hall = Hall::open(thread_rng().gen_range(1..=2), 2, JOBS, Duration::from_secs(60));
    let clients: Vec<_> = (0..3)
        .map(|job| {
            let ticket = hall.exchange.submit(job, 1, end_of_time()).unwrap();
            thread::spawn(move || assert_eq!(block_on(ticket.wait()).unwrap().answer, 2 * job))
        })
        .collect();
    drop(hall);
    clients.into_iter().for_each(|client| client.join().unwrap());
}

/// An exchange whose passes wait so often at a barrier: for each other, or for the test.
fn held(workers: usize, waits: usize, barrier: &Arc<Barrier>) -> Exchange<usize, usize> {
    let limits = Limits { max_batch: 2, max_queue: JOBS, max_delay: Duration::from_secs(60) };
    let exchange = Exchange::new(limits);
    for worker in 0..workers {
        let barrier = barrier.clone();
        let compute = move |jobs: Vec<usize>| {
            for _ in 0..waits {
                barrier.wait();
            }
            jobs.into_iter().map(|job| Ok(2 * job)).collect()
        };
        exchange.start_worker(format!("worker-{worker}"), compute).unwrap();
    }
    exchange
}

/// Two batches are computed at the same time, also if one worker alone has heard of both.
fn the_rest_is_for_another_worker() {
    let exchange = held(2, 1, &Arc::new(Barrier::new(2)));
    // The first job alone is no full batch. The second one completes it, does not fit, and is a batch itself.
    let tickets = [(1, 1), (2, 2)].map(|(job, images)| exchange.submit(job, images, end_of_time()).unwrap());
    for (ticket, answer) in tickets.into_iter().zip([2, 4]) {
        assert_eq!(block_on(ticket.wait()).unwrap().answer, answer);
    }
    exchange.drain();
}

/// A batch that is not full is computed after its delay, without a further job.
fn a_delay_ends() {
    let hall = Hall::open(thread_rng().gen_range(1..=2), 2, JOBS, Duration::from_millis(5));
    let ticket = hall.exchange.submit(1, 1, end_of_time()).unwrap();
    let is_there = Arc::new(AtomicUsize::new(1));
    let client = thread::spawn({
        let is_there = is_there.clone();
        move || {
            assert_eq!(block_on(ticket.wait()).unwrap().batch, 1);
            is_there.store(0, Ordering::SeqCst);
        }
    });
    while is_there.load(Ordering::SeqCst) > 0 {
        pass_time(Duration::from_millis(3));
        thread::yield_now();
    }
    client.join().unwrap();
    hall.exchange.drain();
}

/// A deadline that passes within the pass does not count.
fn a_pass_that_began_is_waited_for() {
    let barrier = Arc::new(Barrier::new(2));
    let exchange = held(1, 2, &barrier);
    let ticket = exchange.submit(1, 2, now() + Duration::from_millis(5)).unwrap();
    let client = thread::spawn(move || assert_eq!(block_on(ticket.wait()).unwrap().answer, 2));
    barrier.wait();
    pass_time(Duration::from_millis(10));
    barrier.wait();
    client.join().unwrap();
    exchange.drain();
}

/// What a client does with its ticket.
fn wait_or_leave(ticket: Ticket<usize>, job: usize, deadline: Instant, hall: &Hall) {
    match thread_rng().gen_range(0..4) {
        // Leaves at once.
        0 => drop(ticket),
        // Looks whether there is an answer, and leaves.
        1 => {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let _ = std::pin::pin!(ticket.wait()).poll(&mut context);
        }
        _ => match block_on(ticket.wait()) {
            Ok(reply) => assert_eq!((reply.answer, hall.computed(job)), (2 * job, 1)),
            Err(failure) => {
                assert_eq!(failure, Failure::Late);
                assert!(now() >= deadline, "late before its deadline");
            }
        },
    }
}

/// Small queues, deadlines, clients that leave, and a clock: no job is computed twice or left without an answer.
fn deadlines_and_leavers() {
    let ms = Duration::from_millis;
    let delay = ms([0, 5, 60_000][thread_rng().gen_range(0..3)]);
    let hall = Arc::new(Hall::open(thread_rng().gen_range(1..=2), 2, 3, delay));
    let there = Arc::new(AtomicUsize::new(4));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (hall, there) = (hall.clone(), there.clone());
            thread::spawn(move || {
                for job in [2 * client, 2 * client + 1] {
                    let deadline = now() + ms(thread_rng().gen_range(1..=20));
                    match hall.exchange.submit(job, thread_rng().gen_range(1..=2), deadline) {
                        Ok(ticket) => wait_or_leave(ticket, job, deadline, &hall),
                        Err(refusal) => assert_eq!(refusal, Refusal::Full),
                    }
                }
                there.fetch_sub(1, Ordering::SeqCst);
            })
        })
        .collect();
    while there.load(Ordering::SeqCst) > 0 {
        pass_time(ms(thread_rng().gen_range(1..=8)));
        thread::yield_now();
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    hall.exchange.drain();
    assert_eq!(hall.exchange.waiting(), 0);
    (0..8).for_each(|job| assert!(hall.computed(job) <= 1));
}

/// Tries a test under random schedules, and under those that change the thread at few places.
fn under_many_schedules(test: fn()) {
    // Builds without optimisation are many times slower.
    let schedules = if cfg!(debug_assertions) { 300 } else { 10_000 };
    shuttle::check_random(test, schedules);
    shuttle::check_pct(test, schedules / 4, 3);
}

#[test]
fn full_batches_are_computed_without_a_clock() {
    under_many_schedules(full_batches_are_computed);
}

#[test]
fn draining_answers_what_was_taken_before() {
    under_many_schedules(draining_answers_what_was_taken);
}

#[test]
fn dropping_answers_what_was_taken_before() {
    under_many_schedules(dropping_answers_what_was_taken);
}

#[test]
fn the_rest_of_a_batch_is_for_another_worker() {
    under_many_schedules(the_rest_is_for_another_worker);
}

#[test]
fn a_batch_that_is_not_full_waits_for_its_delay_alone() {
    under_many_schedules(a_delay_ends);
}

#[test]
fn a_deadline_within_the_pass_does_not_count() {
    under_many_schedules(a_pass_that_began_is_waited_for);
}

#[test]
fn deadlines_and_leavers_lose_nothing() {
    under_many_schedules(deadlines_and_leavers);
}
