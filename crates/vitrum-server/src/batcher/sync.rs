//! What the exchange of jobs and answers waits with. The test of its schedules has another module in this place.

use std::io;
use std::time::Instant;

pub use std::sync::atomic::{AtomicBool, Ordering};
pub use std::sync::{Condvar, Mutex, MutexGuard};
pub use std::thread::JoinHandle;

/// The time.
pub fn now() -> Instant {
    Instant::now()
}

/// Starts a thread.
///
/// # Errors
/// The system has none.
pub fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name).spawn(work)
}

/// Waits until the deadline; `None` if it passed.
pub async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(deadline.into(), future).await.ok()
}
