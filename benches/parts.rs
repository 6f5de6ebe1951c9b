//! The parts of the data path on their own: leases, chains, the table of contexts.
//!
//! Each is a few nanoseconds beside an echo's few microseconds; these benches are there to show
//! when one of them is not any more.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use echopool::buffer::{Chain, Pool, Reserve};

const BUFFER_SIZE: usize = 16 << 10;
const BUFFERS: u32 = 1024;

fn pool() -> Pool {
    Pool::new(Reserve::new(BUFFER_SIZE, BUFFERS).expect("16 MiB"), 0)
}

fn bench_lease(criterion: &mut Criterion) {
    let pool = pool();
    criterion.bench_function("lease/release", |bencher| {
        bencher.iter(|| drop(black_box(pool.lease())));
    });
    criterion.bench_function("lease/release of 64 at once", |bencher| {
        let mut leases = Vec::with_capacity(64);
        bencher.iter(|| {
            leases.extend((0..64).map_while(|_| pool.lease()));
            leases.clear();
        });
    });
}

fn bench_chain(criterion: &mut Criterion) {
    let pool = pool();
    let mut input = Chain::new(&pool);
    let mut output = Chain::new(&pool);
    // What an echo of one small message does with its chains.
    criterion.bench_function("chain/push, append, pop of 1", |bencher| {
        bencher.iter(|| pass(&pool, &mut input, &mut output, 1));
    });
    // What an echo of 64 KiB does.
    criterion.bench_function("chain/push, append, pop of 4", |bencher| {
        bencher.iter(|| pass(&pool, &mut input, &mut output, 4));
    });
}

fn pass(pool: &Pool, input: &mut Chain, output: &mut Chain, leases: usize) {
    for _ in 0..leases {
        let mut lease = pool.lease().expect("a free buffer");
        lease.commit(64);
        input.push_back(lease);
    }
    output.append(black_box(input));
    while let Some(lease) = output.pop_front() {
        drop(black_box(lease));
    }
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bench_lease(&mut criterion);
    bench_chain(&mut criterion);
    criterion.final_summary();
}
