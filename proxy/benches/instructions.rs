//! Prints, for each mix of held jobs or for the one that is named, how many bytes a held job takes and how many decisions were made, while callgrind counts these: `instructions.sh` puts both together.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs,
    reason = "a bench that fails panics, and documents itself"
)]

mod cases;

use cases::{JOBS, MIXES};
use comfygate::dispatch::schedule::{Assignment, Millis, Scheduler};
use peak_alloc::PeakAlloc;
use std::hint::black_box;

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Decisions that are counted.
const DECISIONS: u32 = 1_000;

/// The function that callgrind counts; by its name, so never inlined.
#[inline(never)]
fn counted_decision(scheduler: &mut Scheduler, now: Millis) -> Option<Assignment> {
    black_box(scheduler.next(black_box(now)))
}

fn main() {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    if only.as_deref() == Some("names") {
        MIXES.iter().for_each(|mix| println!("{}", mix.name));
        return;
    }
    for mix in MIXES.iter().filter(|mix| only.as_ref().is_none_or(|only| only == mix.name)) {
        let before = MEMORY.current_usage();
        let mut queue = mix.queue();
        let bytes = MEMORY.current_usage().saturating_sub(before) as u64 / JOBS;
        for _ in 0..DECISIONS {
            let now = queue.free_one();
            if let Some(assignment) = counted_decision(&mut queue.scheduler, now) {
                queue.over(assignment, mix);
            }
        }
        println!("{}\t{bytes}\t{DECISIONS}", mix.name);
    }
}
