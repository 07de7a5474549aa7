//! Times of the whole inspection and, beside them, of `serde_json` reading the same bytes into a tree: `cargo bench -p comfygate-policy --bench inspect`.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a bench that fails panics, and documents itself"
)]
#![allow(clippy::disallowed_methods, reason = "benches read their cases; the engine itself stays pure")]

mod cases;

use std::hint::black_box;

use comfygate_policy::{Catalogue, Policy};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn inspections(criterion: &mut Criterion) {
    let (policy, catalogue, scope) = (Policy::builtin("default").unwrap(), Catalogue::builtin(), cases::scope());
    for case in cases::all() {
        let mut group = criterion.benchmark_group(&case.name);
        group.sample_size(10).throughput(Throughput::Bytes(case.body.len() as u64));
        group.bench_function("inspect", |bencher| {
            bencher.iter(|| cases::inspect(black_box(&case.body), &policy, catalogue, &case.files, &scope));
        });
        group.bench_function("serde_json", |bencher| {
            bencher.iter(|| cases::read_with_serde_json(black_box(&case.body)))
        });
        group.finish();
    }
}

criterion_group!(benches, inspections);
criterion_main!(benches);
