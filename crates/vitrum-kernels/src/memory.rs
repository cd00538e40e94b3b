//! Settings of the allocator (feature `mimalloc`).

/// `mi_option_purge_delay` of `mimalloc.h`, versions 2 and 3. The binding has no name for it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Makes mimalloc keep freed memory for later allocations instead of returning it to the system after a second.
///
/// A training step allocates again what the last one freed. Fresh pages, which the system must clear, took up to a
/// third of its time. The process stays at its peak of memory. The environment variable `MIMALLOC_PURGE_DELAY`, in
/// milliseconds, takes precedence. Call this once at the start, in programs whose allocator is mimalloc.
pub fn keep_freed_memory() {
    // SAFETY: a known option and a plain number, stored in mimalloc's options. No other thread reads them before the
    // work begins.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The compiler cannot check the number of the option, but no other option has the same default.
    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // SAFETY: reads a known option.
        let delay = || unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_some() {
            return;
        }
        assert_eq!(delay(), 1000);
        keep_freed_memory();
        assert_eq!(delay(), -1);
    }
}
