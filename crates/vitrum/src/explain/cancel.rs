//! The end of an explanation before it is done.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ExplainError;

/// Says whether an explanation is still wanted. Each pass asks before it begins. The default cancels nothing.
#[derive(Clone, Default)]
pub struct Cancel(Option<Arc<dyn Fn() -> bool + Send + Sync>>);

impl Cancel {
    /// Cancels once the function returns true.
    pub fn when(is_cancelled: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(is_cancelled)))
    }

    /// Whether the explanation is cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.as_ref().is_some_and(|is_cancelled| is_cancelled())
    }

    /// Nothing, or the error of a cancelled explanation.
    ///
    /// # Errors
    /// [`ExplainError::Cancelled`].
    pub fn check(&self) -> Result<(), ExplainError> {
        if self.is_cancelled() { Err(ExplainError::Cancelled) } else { Ok(()) }
    }
}

/// Cancels once the flag is true.
impl From<Arc<AtomicBool>> for Cancel {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self::when(move || flag.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Cancel(…)" } else { "Cancel(never)" })
    }
}
