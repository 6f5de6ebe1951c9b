//! Single parts of the data path: leases, chains, the table of contexts.
//!
//! Each takes a few nanoseconds, compared with a few microseconds per echo. These benchmarks show
//! when one of them becomes slower.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use echopool::buffer::{Chain, Pool};
use echopool::internals::{self, Table};

const BUFFER_SIZE: usize = 16 << 10;
const BUFFERS: u32 = 1024;

fn pool() -> Pool {
    internals::pool(BUFFER_SIZE, BUFFERS).expect("16 MiB")
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
    // The chain operations per echo of a small message.
    criterion.bench_function("chain/push, append, pop of 1", |bencher| {
        bencher.iter(|| pass(&pool, &mut input, &mut output, 1));
    });
    // The same for 64 KiB.
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

/// About the size of a connection's context.
type Entry = [u64; 24];

fn bench_table(criterion: &mut Criterion) {
    let mut table: Table<Entry> = Table::new(10_000);
    // Half full, with free slots in random order, as after an hour of clients.
    let keys: Vec<_> = (0..10_000).map(|_| table.insert([0; 24])).collect();
    for index in 0..5_000 {
        table.remove(keys[index * 7_919 % 10_000]);
    }
    criterion.bench_function("table/insert, remove", |bencher| {
        bencher.iter(|| {
            let key = table.insert(black_box([1; 24]));
            table.remove(key)
        });
    });
    let mut index = 0;
    criterion.bench_function("table/find one of 10,000", |bencher| {
        bencher.iter(|| {
            index = (index + 7_919) % 10_000;
            table.get_mut(keys[index]).map(|entry| entry[0])
        });
    });
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    bench_lease(&mut criterion);
    bench_chain(&mut criterion);
    bench_table(&mut criterion);
    criterion.final_summary();
}
