//! The allocator's habits (feature `mimalloc`).

/// `mi_option_purge_delay` of `mimalloc.h`, versions 2 and 3; the binding does not name it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Lets mimalloc keep freed memory for the next allocation instead of giving it back after a second.
///
/// A training step frees what the next one asks for again: fresh pages, which the system must clear, took up to a
/// third of its time. The process keeps its peak. `MIMALLOC_PURGE_DELAY` in the environment, in milliseconds, is
/// followed instead where it is set. To be called before the work begins, by programs whose allocator is mimalloc.
pub fn keep_freed_memory() {
    // SAFETY: a known option and a plain number, stored where mimalloc keeps its options; before the work begins no
    // other thread reads it.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, -1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No compiler checks the option's number; its default is no other option's.
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
