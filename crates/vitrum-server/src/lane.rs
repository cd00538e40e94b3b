//! The lane of work that takes long: one piece at a time, and few requests that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};
use vitrum::explain::Cancel;

use crate::error::ApiError;
use crate::images::turn;
use crate::threads::with_large_stack;

/// Requests that may wait; each holds an image.
const WAITING: usize = 16;

/// One piece of work at a time, on a thread of its own. The work ends before its next pass if its client leaves.
#[derive(Debug)]
pub struct Lane {
    turns: Arc<Semaphore>,
    places: Semaphore,
    passes: Arc<AtomicU64>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            turns: Arc::new(Semaphore::new(1)),
            places: Semaphore::new(1 + WAITING),
            passes: Arc::default(),
        }
    }
}

/// Held while a request waits for its work. Dropping it cancels the work: the client has left, or the deadline has passed.
#[derive(Default)]
struct Waits(Arc<AtomicBool>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Lane {
    /// A place in the lane, until it is dropped.
    ///
    /// # Errors
    /// [`ApiError::Full`].
    pub fn place(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        self.places.try_acquire().map_err(|_| ApiError::Full)
    }

    /// How often the work of all requests has asked whether to go on. It asks before each pass.
    pub fn passes(&self) -> u64 {
        self.passes.load(Ordering::Relaxed)
    }

    /// Waits for its turn and does the work. If the future is dropped, or the deadline passes, the work is cancelled; the
    /// next piece begins when it has ended.
    ///
    /// # Errors
    /// Those of the work, and [`ApiError::Late`] if it has no answer by the deadline.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce(&Cancel) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = turn(&self.turns, deadline).await?;
        let waits = Waits::default();
        let (is_over, passes) = (waits.0.clone(), self.passes.clone());
        let cancel = Cancel::when(move || {
            passes.fetch_add(1, Ordering::Relaxed);
            is_over.load(Ordering::Relaxed)
        });
        let work = move || {
            // Until the work has ended, also if the client leaves.
            let _turn = turn;
            with_large_stack("lane", || work(&cancel)).map_err(ApiError::bug)?
        };
        let done = tokio::time::timeout_at(deadline.into(), tokio::task::spawn_blocking(work)).await;
        done.map_err(|_| ApiError::Late)?.map_err(ApiError::bug)?
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Passes of work that is not cancelled.
    const ALL: u64 = 20_000;

    /// Passes of a millisecond.
    fn work(cancel: &Cancel) -> Result<(), ApiError> {
        for _ in 0..ALL {
            cancel.check()?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn after(time: Duration) -> Instant {
        Instant::now() + time
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test(flavor = "multi_thread")]
    async fn work_ends_when_its_client_leaves() {
        let lane = Arc::new(Lane::default());
        let first = tokio::spawn({
            let lane = lane.clone();
            async move { lane.run(after(HOUR), work).await }
        });
        while lane.passes() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        first.abort();
        lane.run(after(HOUR), |_| Ok(())).await.unwrap();
        assert!(lane.passes() < ALL, "{} passes", lane.passes());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn work_ends_at_its_deadline() {
        let lane = Lane::default();
        let late = lane.run(after(Duration::from_millis(50)), work).await;
        assert_eq!(late, Err(ApiError::Late));
        lane.run(after(HOUR), |_| Ok(())).await.unwrap();
        assert!(lane.passes() < ALL, "{} passes", lane.passes());
    }
}
