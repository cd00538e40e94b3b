//! The lane of work that takes long: one piece at a time, and few requests that wait.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::ApiError;
use crate::images::turn;
use crate::threads::with_large_stack;

/// Requests that may wait; each holds an image.
const WAITING: usize = 16;

/// One piece of work at a time, on a thread of its own.
#[derive(Debug)]
pub struct Lane {
    turns: Arc<Semaphore>,
    places: Semaphore,
}

impl Default for Lane {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(1)), places: Semaphore::new(1 + WAITING) }
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

    /// Waits for its turn and does the work.
    ///
    /// # Errors
    /// Those of the work, and [`ApiError::Late`] if it has no answer by the deadline.
    pub async fn run<T: Send + 'static>(
        &self,
        deadline: Instant,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = turn(&self.turns, deadline).await?;
        let work = move || {
            // Until the work is done, also if the client leaves.
            let _turn = turn;
            with_large_stack("lane", work).map_err(ApiError::bug)?
        };
        let done = tokio::time::timeout_at(deadline.into(), tokio::task::spawn_blocking(work)).await;
        done.map_err(|_| ApiError::Late)?.map_err(ApiError::bug)?
    }
}
