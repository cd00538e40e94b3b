//! What the targets of requests share: how an input is read, and what every parser owes.

use axum::body::Bytes;
use peak_alloc::PeakAlloc;
use vitrum_server::error::ApiError;
use vitrum_server::fuzz::{Brought, Sent};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Bytes of memory that a parser may hold for each byte of its input, above [`BASE`].
const MULTIPLE: usize = 48;

/// Bytes of memory that a parser may hold for an input of nothing.
const BASE: usize = 64 << 10;

/// An input: a line with the part of the address behind `?`, a line with the kind of the body, the body.
pub fn sent(input: &[u8]) -> Option<Sent<'_>> {
    let mut parts = input.splitn(3, |byte| *byte == b'\n');
    let query = std::str::from_utf8(parts.next()?).ok()?;
    let kind = std::str::from_utf8(parts.next()?).ok()?;
    Some(Sent { query, kind: (!kind.is_empty()).then_some(kind), body: parts.next()? })
}

/// Does the work, and checks how much memory it held.
pub fn bounded<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let done = work();
    let held = MEMORY.peak_usage().saturating_sub(before);
    assert!(held <= BASE + MULTIPLE * bytes, "{held} bytes of memory for an input of {bytes}");
    done
}

/// Whether the client is told that the mistake is its own.
pub fn check_refusal(error: &ApiError) {
    assert!(error.status().is_client_error(), "{}: {error}", error.status());
}

/// A refusal that blames the client, or images that are together no longer than the body.
pub fn check<'a>(sent: &Sent<'a>, read: impl FnOnce(&Sent<'a>) -> Option<Brought>) {
    let bytes = sent.query.len() + sent.kind.map_or(0, str::len) + sent.body.len();
    match bounded(bytes, || read(sent)) {
        None => {}
        Some(Err(error)) => check_refusal(&error),
        Some(Ok(images)) => assert!(images.iter().map(Bytes::len).sum::<usize>() <= sent.body.len()),
    }
}
