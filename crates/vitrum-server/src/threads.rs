//! Threads with a large stack: models nest deeply, above all in builds without optimisation.

use std::io;
use std::thread::Builder;

/// Bytes of a stack. The system gives memory only for the part that is used.
pub const STACK: usize = 32 << 20;

/// Does the work on a thread of its own and waits for it. A panic goes on in the caller.
///
/// # Errors
/// No thread can be started.
pub fn with_large_stack<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = Builder::new().name(name.to_string()).stack_size(STACK).spawn_scoped(scope, work)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
