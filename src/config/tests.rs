//! Tests of ranges, derived settings, and the sum of memory.

use std::net::SocketAddr;

use super::*;

fn config() -> Config {
    Config::new().listen("127.0.0.1:0".parse::<SocketAddr>().unwrap()).workers(2)
}

fn limit_error(config: Config) -> (&'static str, u64, u64, u64) {
    match config.check() {
        Err(StartError::Limit { field, value, min, max }) => (field, value, min, max),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_defaults_are_those_of_the_documents() {
    let limits = config().max_connections(500).check().unwrap();
    assert_eq!((limits.workers, limits.max_connections), (2, 500));
    assert_eq!((limits.buffer_size, limits.buffers), (16_384, 500));
    assert_eq!((limits.leases_per_connection_max, limits.backlog), (4, 4096));
    assert_eq!((limits.idle_timeout, limits.share_port), (None, false));
    assert_eq!(limits.max_connections_per_address, None);
    assert_eq!(limits.send_timeout, Some(Duration::from_secs(30)));
    assert_eq!(limits.shed_after, Some(Duration::from_secs(1)));
    assert_eq!(limits.linger, Duration::from_secs(2));
}

#[test]
fn files_are_kept_free_for_copies_of_the_listening_sockets_and_for_listeners_that_may_come() {
    let mut config = config().reserve_files(100);
    let reserved = |config: &Config| config.check().unwrap().reserved_files;
    assert_eq!(reserved(&config), 100);
    config.is_replaceable = true;
    assert_eq!(reserved(&config), 102, "one for each worker");
    config.gains_listeners = true;
    assert_eq!(reserved(&config), 102 + 2 * 2 * LISTENERS_ADDED_MAX as u32);
}

#[test]
fn what_is_unset_is_derived() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let limits = Config::new().listen(any).check().unwrap();
    assert!((1..=WORKERS_MAX).contains(&limits.workers));
    assert!((1..=CONNECTIONS_DERIVED_MAX).contains(&limits.max_connections));
    let buffers = |connections| config().checked_buffers(2, connections).unwrap();
    assert_eq!(buffers(1), 128, "64 for each worker");
    assert_eq!(buffers(1000), 1000, "one for each connection");
    assert_eq!(buffers(10_000), 4096, "the most that is taken unasked");
}

#[test]
fn more_listeners_than_there_are_keys_for_are_an_error() {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let with = |count| (0..count).fold(config(), |config, _| config.listen(any));
    assert!(with(LISTENERS_MAX - 1).check().is_ok());
    let one_too_many = limit_error(with(LISTENERS_MAX));
    assert_eq!(one_too_many, ("listen", 4097, 1, 4096));
}

#[test]
fn each_range_ends_where_it_says() {
    let ok = |config: Config| assert!(config.check().is_ok(), "{config:?}");
    ok(config().workers(1));
    ok(config().workers(64).max_connections(1));
    assert_eq!(limit_error(config().workers(0)), ("workers", 0, 1, 64));
    assert_eq!(limit_error(config().workers(65)), ("workers", 65, 1, 64));

    ok(config().max_connections(1));
    let max = u64::from(CONNECTIONS_MAX);
    assert_eq!(limit_error(config().max_connections(0)), ("max_connections", 0, 1, max));
    let above = config().max_connections(CONNECTIONS_MAX + 1);
    assert_eq!(limit_error(above), ("max_connections", max + 1, 1, max));

    let per_address = |most| config().max_connections_per_address(Some(most));
    ok(per_address(1));
    ok(per_address(CONNECTIONS_MAX));
    let field = "max_connections_per_address";
    assert_eq!(limit_error(per_address(0)), (field, 0, 1, max));
    assert_eq!(limit_error(per_address(CONNECTIONS_MAX + 1)), (field, max + 1, 1, max));

    ok(config().buffer_size(256));
    ok(config().buffer_size(1 << 20));
    assert_eq!(limit_error(config().buffer_size(255)), ("buffer_size", 255, 256, 1 << 20));
    let above = config().buffer_size((1 << 20) + 1);
    assert_eq!(limit_error(above), ("buffer_size", (1 << 20) + 1, 256, 1 << 20));

    ok(config().buffers(2));
    ok(config().buffers(1 << 24));
    assert_eq!(limit_error(config().buffers(1)), ("buffers", 1, 2, 1 << 24));
    assert_eq!(limit_error(config().buffers((1 << 24) + 1)).0, "buffers");

    ok(config().backlog(1));
    ok(config().backlog(65_535));
    assert_eq!(limit_error(config().backlog(0)), ("backlog", 0, 1, 65_535));
    assert_eq!(limit_error(config().backlog(65_536)).0, "backlog");
}

#[test]
fn a_budget_of_memory_is_as_many_buffers_as_fit() {
    let limits = config().buffer_size(4096).memory(10 * 4096 + 4095).check().unwrap();
    assert_eq!(limits.buffers, 10);
    let error = limit_error(config().buffer_size(4096).memory(8191));
    assert_eq!((error.0, error.1, error.2), ("memory", 8191, 8192));
    assert!(config().memory(u64::MAX).check().is_err(), "more than a number of buffers can say");
    assert_eq!(config().memory(1 << 20).buffers(7).check().unwrap().buffers, 7, "the last counts");
}

#[test]
fn few_buffers_are_not_all_given_to_one_connection() {
    let leases = |buffers| config().buffers(buffers).check().unwrap().leases_per_connection_max;
    assert_eq!([leases(2), leases(4), leases(7), leases(8), leases(1000)], [1, 2, 3, 4, 4]);
}

#[test]
fn times_are_checked_and_may_be_off() {
    type Set = fn(Config, Option<Duration>) -> Config;
    let times: [(&str, Set); 3] = [
        ("idle_timeout", Config::idle_timeout),
        ("send_timeout", Config::send_timeout),
        ("shed_after", Config::shed_after),
    ];
    for (name, set) in times {
        for allowed in [None, Some(TIMEOUT_MIN), Some(TIMEOUT_MAX)] {
            assert!(set(config(), allowed).check().is_ok(), "{name} {allowed:?}");
        }
        let nano = Duration::from_nanos(1);
        for refused in [Duration::ZERO, TIMEOUT_MIN - nano, TIMEOUT_MAX + nano] {
            match set(config(), Some(refused)).check() {
                Err(StartError::Timeout { field, value, .. }) => {
                    assert_eq!((field, value), (name, refused));
                }
                other => panic!("{name} {refused:?}: {other:?}"),
            }
        }
    }
    assert!(config().linger(Duration::ZERO).check().is_ok());
    assert!(config().linger(LINGER_MAX).check().is_ok());
    assert!(config().linger(LINGER_MAX + TIMEOUT_MIN).check().is_err());
}

#[test]
fn more_connections_than_open_files_is_an_error_with_the_remedy() {
    let hard_limit = open_files::hard_limit();
    let Ok(asked) = u32::try_from(hard_limit.min(CONNECTIONS_MAX.into())) else { unreachable!() };
    if hard_limit > asked.into() {
        let why = "the limit of open files is above what can be asked for";
        assert!(std::env::var_os("CI").is_none(), "would be skipped, but this is CI: {why}");
        eprintln!("skipped: {why}");
        return;
    }
    let error = config().max_connections(asked).check().unwrap_err().to_string();
    assert!(error.contains(&format!("{asked} connections need")), "{error}");
    assert!(error.contains(&format!("the hard limit is {hard_limit}")), "{error}");
    assert!(error.contains("ulimit") && error.contains("LimitNOFILE"), "{error}");
}

#[test]
fn endpoints_are_checked_too() {
    assert!(matches!(Config::new().check(), Err(StartError::NothingToListenOn)));
    let twice: SocketAddr = "127.0.0.1:7".parse().unwrap();
    let config = Config::new().listen(twice).listen(twice);
    assert!(matches!(config.check(), Err(StartError::ListenedTwice(_))));
}

#[test]
fn the_soft_limit_of_open_files_is_raised_to_what_is_needed() {
    let limits = config().check().unwrap();
    limits.raise_open_files(1).unwrap();
    let soft = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    assert!(soft.is_none_or(|soft| soft >= limits.max_connections.into()), "{soft:?}");
}

fn sizes() -> Sizes {
    Sizes {
        context_bytes: 200,
        slot_bytes: 50,
        worker_bytes: 4096,
        service_bytes: 1000,
        directory_bytes: 32,
        address_bytes: 0,
        session_bytes: 0,
        datagram_bytes: 0,
        datagram_threads: 0,
    }
}

#[test]
fn the_sum_of_memory_has_every_part() {
    let limits = config().max_connections(10).buffers(100).buffer_size(1024).check().unwrap();
    let sum = limits.memory(&sizes());
    let expected = [
        ("buffers", 100 * 1024),
        ("buffer lists", 100 * (2 * (16 + 4) + 16)),
        ("contexts", 2 * 10 * 200),
        ("engines", 2 * 10 * 50),
        ("workers", 2 * 4096),
        ("service", 1000),
        ("directory", 2 * 10 * 32),
        ("stacks", 2 * WORKER_STACK_BYTES as u64),
    ];
    let terms: Vec<_> = sum.terms.iter().map(|term| (term.name, term.bytes)).collect();
    assert_eq!(terms, expected);
    assert_eq!(sum.total(), expected.iter().map(|(_, bytes)| bytes).sum::<u64>());
    assert_eq!(sum.kernel.bytes, 10 * 4096);
    let with = limits.memory(&Sizes { address_bytes: 77, ..sizes() });
    assert_eq!((with.terms[8].name, with.total()), ("addresses", sum.total() + 77));
    let with = limits.memory(&Sizes { datagram_bytes: 66, datagram_threads: 2, ..sizes() });
    assert_eq!((with.terms[8].name, with.total()), ("datagrams", sum.total() + 66));
    let with = limits.memory(&Sizes { session_bytes: 7, ..sizes() });
    assert_eq!((with.terms[8].name, with.total()), ("TLS sessions", sum.total() + 70));
}

#[test]
fn the_workers_share_the_directory_the_counts_of_addresses_and_the_inboxes() {
    let limits = config().max_connections(10).check().unwrap();
    let sizes = Sizes { address_bytes: 77, ..sizes() };
    assert_eq!(limits.shared_tables_bytes(&sizes), 2 * 10 * 32 + 77 + 2 * 4096);
}

#[test]
fn the_largest_sum_of_memory_does_not_overflow() {
    let mut limits = config().check().unwrap();
    limits.workers = WORKERS_MAX;
    limits.max_connections = CONNECTIONS_MAX;
    limits.buffers = BUFFERS_MAX;
    limits.buffer_size = BUFFER_SIZE_MAX;
    assert!(limits.memory(&sizes()).total() > 1 << 44);
}

#[test]
fn the_sum_of_memory_is_a_table() {
    let limits = config().max_connections(10).buffers(100).check().unwrap();
    let text = limits.memory(&sizes()).to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 1 + 8 + 1 + 1, "{text}");
    assert_eq!(lines[1], "  buffers               1.6 MiB  100 × 16.0 KiB");
    assert!(lines[9].starts_with("  total "), "{text}");
    assert!(lines[10].starts_with("  kernel, estimated "), "{text}");
    assert!(!text.ends_with('\n'));
}
