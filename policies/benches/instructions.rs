//! Prints what `instructions.sh` puts together: a line a case with bytes and peak memory, while callgrind counts the two measured functions and writes a dump after each.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a bench that fails panics, and documents itself"
)]
#![allow(clippy::disallowed_methods, reason = "benches read their cases; the engine itself stays pure")]

mod cases;

use std::hint::black_box;

use comfygate_policy::{Catalogue, FileFacts, OutputScope, Policy};
use peak_alloc::PeakAlloc;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The function that callgrind counts; by its name, so never inlined.
#[inline(never)]
fn counted_engine(
    body: &[u8],
    policy: &Policy,
    catalogue: &Catalogue,
    files: &FileFacts,
    scope: &OutputScope,
) -> usize {
    cases::inspect(black_box(body), policy, catalogue, files, scope)
}

/// The other one.
#[inline(never)]
fn counted_serde(body: &[u8]) -> bool {
    cases::read_with_serde_json(black_box(body))
}

/// Bytes at the peak of `work` over those before.
fn peak<T>(work: impl FnOnce() -> T) -> usize {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    black_box(work());
    MEMORY.peak_usage().saturating_sub(before)
}

fn main() {
    let (policy, catalogue, scope) = (Policy::builtin("default").unwrap(), Catalogue::builtin(), cases::scope());
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    for case in cases::all().iter().filter(|case| only.as_ref().is_none_or(|only| case.name.contains(only.as_str()))) {
        // Once without counting: what is made once a process, such as the caches of pattern matching, is no part of a case.
        black_box(cases::inspect(&case.body, &policy, catalogue, &case.files, &scope));
        let engine_peak = peak(|| cases::inspect(&case.body, &policy, catalogue, &case.files, &scope));
        let serde_peak = peak(|| serde_json::from_slice::<serde_json::Value>(&case.body));
        black_box(counted_engine(&case.body, &policy, catalogue, &case.files, &scope));
        black_box(counted_serde(&case.body));
        println!("{}\t{}\t{engine_peak}\t{serde_peak}", case.name, case.body.len());
    }
}
