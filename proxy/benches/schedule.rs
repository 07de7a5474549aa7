//! Times of the scheduler with 10,000 held jobs: `cargo bench -p comfygate --bench schedule`. Aims: a decision in 20 µs, what all may expect in 10 ms.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a bench that fails panics, and documents itself"
)]

mod cases;

use cases::{JOBS, MIXES};
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};

fn schedule(criterion: &mut Criterion) {
    for mix in MIXES {
        let mut group = criterion.benchmark_group(mix.name);
        group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_secs(1));
        let mut queue = mix.queue();
        group.bench_function("a decision", |bencher| {
            bencher.iter_custom(|rounds| {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    let now = queue.free_one();
                    let start = Instant::now();
                    let decided = black_box(queue.scheduler.next(now));
                    took += start.elapsed();
                    if let Some(assignment) = decided {
                        queue.over(assignment, &mix);
                    }
                }
                took
            });
        });
        group.bench_function("hold and withdraw", |bencher| {
            bencher.iter_batched(
                || mix.request(JOBS * 1000),
                |request| {
                    let job = request.job;
                    queue.scheduler.hold(request);
                    queue.scheduler.withdraw(job)
                },
                criterion::BatchSize::SmallInput,
            );
        });
        let last = mix.request(JOBS * 1000);
        queue.scheduler.hold(last.clone());
        group.bench_function("the position of one", |bencher| bencher.iter(|| queue.scheduler.position(last.job)));
        group.bench_function("the outlook of all", |bencher| bencher.iter(|| queue.scheduler.outlook(0).len()));
        group.finish();
    }
}

criterion_group!(benches, schedule);
criterion_main!(benches);
