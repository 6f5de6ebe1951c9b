//! Plans for an invented machine.

use std::collections::HashSet;

use super::*;
use crate::cli::RunArgs;
use crate::cli::target::Address;
use clap::Parser;

fn machine() -> Machine {
    Machine {
        open_files_max: 20_000,
        open_files_now: 4,
        ports: 32_768..=60_999,
        processors: 4,
        backlog_max: Some(4096),
    }
}

fn plan_on(machine: &Machine, flags: &str) -> Result<Plan, Failure> {
    let spec = RunArgs::parse_from(format!("loadgen {flags}").split_whitespace()).run;
    let addresses = spec.targets.iter().filter_map(|target| target.address.as_ref());
    let addresses = addresses.flat_map(|one| match one {
        Address::Unix(address) => vec![Endpoint::Unix(*address)],
        Address::Tcp { host, ports } => {
            let host = host.parse().expect("an address");
            ports.clone().map(|port| SocketAddr::new(host, port).into()).collect()
        }
        Address::Udp { host, ports } => {
            let host = host.parse().expect("an address");
            ports.clone().map(|port| Endpoint::Udp(SocketAddr::new(host, port))).collect()
        }
    });
    Plan::new(&spec, machine, &addresses.collect::<Vec<_>>(), 1)
}

fn plan(flags: &str) -> Plan {
    plan_on(&machine(), flags).expect("possible")
}

#[test]
fn without_flags_10000_connections_for_10_seconds() {
    let plan = plan("");
    assert_eq!((plan.connections_asked, plan.connections), (10_000, 10_000));
    assert_eq!((plan.threads, plan.server_workers, plan.size, plan.pipeline), (2, 2, 64, 1));
    assert_eq!((plan.duration, plan.requests), (Some(Duration::from_secs(10)), None));
    assert_eq!((plan.shortfall, plan.sources), (None, vec![]));
    assert!(plan.local_server && !plan.connections_explicit);
}

#[test]
fn a_number_of_requests_alone_has_no_time_limit() {
    assert_eq!(plan("-n 5").duration, None);
    assert_eq!(plan("-n 5 -d 1s").duration, Some(Duration::from_secs(1)));
}

#[test]
fn too_few_open_files_are_named_with_both_numbers_and_the_remedy() {
    let machine = Machine { open_files_max: 1_024, ..machine() };
    let plan = plan_on(&machine, "").expect("fewer are possible");
    let shortfall = plan.shortfall.expect("10000 do not fit");
    assert_eq!(shortfall.possible, plan.connections);
    assert!((800..1_024).contains(&plan.connections), "{}", plan.connections);
    let text = shortfall.to_string();
    for part in ["10000", &plan.connections.to_string(), "1024", "ulimit -Hn"] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
}

#[test]
fn a_limit_of_open_files_that_the_kernel_refuses_by_default_has_a_remedy_before_it() {
    let machine = Machine { open_files_max: 1_024, ..machine() };
    let text = |flags| {
        let plan = plan_on(&machine, flags).expect("fewer are possible");
        plan.shortfall.expect("they do not fit").to_string()
    };
    assert!(!text("-c 1m").contains("fs.nr_open"));
    assert!(text("-c 2m").contains("unit; before that, sysctl -w fs.nr_open=2000"));
    let beside = text("-c 900 --with idle:100");
    assert!(beside.contains("open files in a process, including 100 for --with, and"), "{beside}");
}

#[test]
fn not_even_one_connection_is_a_failure() {
    let machine = Machine { open_files_max: 16, ..machine() };
    assert!(matches!(plan_on(&machine, ""), Err(Failure::Setup(_))));
}

#[test]
fn loopback_has_many_source_addresses_and_ipv6_one() {
    let machine = Machine { open_files_max: 1 << 20, ..machine() };
    let on = |flags: &str| plan_on(&machine, flags).expect("possible");
    assert_eq!(on("127.0.0.1:7 -c 25000").sources.len(), 0);
    let many = on("127.0.0.1:7 -c 100k");
    assert_eq!(many.connections, 100_000);
    assert_eq!(many.sources.len(), 4);
    assert_eq!(many.source(5, &many.targets[0]), Some(Ipv4Addr::new(127, 0, 0, 2).into()));
    let few = on("[::1]:7 -c 100k");
    assert_eq!(few.connections, 28_232);
    assert!(few.shortfall.expect("too few ports").to_string().contains("--source-ip"));
    assert_eq!(on("10.0.0.1:7 -c 40k --source-ip 10.0.0.2 --source-ip 10.0.0.3").shortfall, None);
}

#[test]
fn ports_run_out_for_each_target_by_itself() {
    let machine = Machine { open_files_max: 1 << 20, ..machine() };
    let on = |flags: &str| plan_on(&machine, flags).expect("possible");
    assert_eq!(on("10.0.0.1:7 -c 100k").connections, 28_232);
    let four = on("10.0.0.1:7 10.0.0.1:11-13 -c 100k");
    assert_eq!((four.connections, four.shortfall), (100_000, None));
    let three = on("10.0.0.1:11-13 -c 100k");
    assert_eq!(three.connections, 3 * 28_232);
    let text = three.shortfall.expect("too few ports").to_string();
    assert!(text.contains("28232 ports each for each of 3 target(s)"), "{text}");
    // One source address is enough for a number that needs two with one target.
    assert_eq!(on("127.0.0.1:7 -c 50k").sources.len(), 2);
    assert_eq!(on("127.0.0.1:7-8 -c 50k").sources.len(), 0);
}

#[test]
fn a_unix_socket_takes_no_ports_and_no_source_addresses() {
    let machine = Machine { open_files_max: 1 << 20, backlog_max: Some(10), ..machine() };
    let on = |flags: &str| plan_on(&machine, flags).expect("possible");
    let unix = on("unix:///e -c 100k");
    assert_eq!((unix.connections, unix.sources.len()), (100_000, 0));
    assert_eq!((unix.shortfall, unix.backlog_short), (None, None));
    let mixed = on("unix:///e 127.0.0.1:7 -c 100k");
    assert_eq!((mixed.connections, mixed.sources.len()), (100_000, 2));
    assert_eq!(mixed.source(0, &mixed.targets[0]), None);
    assert!(mixed.source(1, &mixed.targets[1]).is_some());
    let refused = plan_on(&machine, "unix:///e --source-ip 127.0.0.1").unwrap_err();
    assert!(refused.to_string().contains("does not work with unix:///e"), "{refused}");
}

/// Four-tuples must not be reused while others are free.
#[test]
fn every_pair_of_source_and_target_is_used_before_one_is_used_again() {
    for (flags, pairs) in [
        ("10.0.0.1:1-2 --source-ip 10.0.1.0/30", 4),
        ("10.0.0.1:1-3 --source-ip 10.0.1.0/30", 6),
        ("10.0.0.1:1-4 --source-ip 10.0.1.0/29", 24),
    ] {
        let plan = plan(flags);
        let pair = |number| {
            (&plan.targets[plan.target_index(number)], plan.source(number, &plan.targets[0]))
        };
        let used: HashSet<_> = (0..pairs).map(pair).collect();
        assert_eq!(used.len() as u64, pairs, "{flags}");
        assert_eq!(pair(pairs), pair(0), "{flags}");
    }
}

#[test]
fn rude_clients_need_files_and_ports_too() {
    let machine = Machine { open_files_max: 1_024, ..machine() };
    let without = plan_on(&machine, "127.0.0.1:7 -c 10k").expect("fewer").connections;
    let with = plan_on(&machine, "127.0.0.1:7 -c 10k --with idle:300").expect("fewer");
    assert_eq!(with.connections, without - 300);
}

#[test]
fn a_network_of_sources_is_its_addresses_in_order() {
    let plan = plan("10.0.0.1:7 -c 40k --source-ip 10.0.1.0/30 --source-ip 10.0.2.1");
    let shown: Vec<_> = plan.sources.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.0.1.1", "10.0.1.2", "10.0.2.1"]);
    assert_eq!((plan.sources_unused, plan.source(4, &plan.targets[0])), (0, Some(plan.sources[1])));
    assert!(self::plan("10.0.0.1:7 --source-ip 10.0.0.0/8").sources_unused > 0);
}

#[test]
fn stages_say_how_long_the_run_is() {
    let open = plan("127.0.0.1:7 --stages 10s:1k,20s:5k");
    assert_eq!(open.duration, Some(Duration::from_secs(30)));
    assert!(open.open_loop.is_some() && open.rate.is_none());
    assert_eq!(plan("127.0.0.1:7 --stages 10s:1k -d 5s").duration, Some(Duration::from_secs(5)));
    assert_eq!(plan("127.0.0.1:7 -q 500").rate, Some(crate::traffic::rate::Rate::per_second(500)));
    assert_eq!(plan("127.0.0.1:7").open_loop, None);
}

#[test]
fn a_lifetime_is_requests_or_time() {
    let parsed = |text: &str| text.parse::<Lifetime>();
    assert_eq!(parsed("1000"), Ok(Lifetime::Requests(1_000)));
    assert_eq!(parsed("10k"), Ok(Lifetime::Requests(10_000)));
    assert_eq!(parsed("5s"), Ok(Lifetime::Time(Duration::from_secs(5))));
    assert_eq!(parsed("2m"), Ok(Lifetime::Time(Duration::from_secs(120))));
    for bad in ["0", "0s", "many", ""] {
        assert!(parsed(bad).is_err(), "{bad}");
    }
}

#[test]
fn each_connection_belongs_to_one_thread() {
    let plan = plan("-c 10 -t 3");
    let shares: Vec<_> = (0..3).map(|thread| plan.share(thread)).collect();
    let mut next = 0;
    for share in &shares {
        assert_eq!(share.first_connection, next);
        assert!((3..=4).contains(&share.connections));
        next += share.connections as u64;
    }
    assert_eq!(next, 10);
    assert_eq!(self::plan("-c 2 -t 3").threads, 2, "no thread without work");
}

#[test]
fn memory_follows_need_up_to_a_budget() {
    let small = plan("");
    assert!(small.memory_bytes() < 64 << 20, "{}", small.memory_bytes());
    let large = plan("-c 10000 -l 1m -p 16");
    assert!(large.memory_bytes() < 160 << 20, "{}", large.memory_bytes());
    for flags in ["-c 1", "-l 1g", "-c 1 -l 64k -p 100 -t 4", "-c 10000 -l 1m -t 4"] {
        let plan = self::plan(flags);
        let share = plan.share(0);
        assert!(share.output_leases_max >= 1, "{flags}: output goes on");
        assert!(share.limits.buffer_size as u64 > (plan.size * plan.pipeline).min(65_535));
    }
}

#[test]
fn a_backlog_that_a_burst_of_connects_overflows_is_said_with_its_remedy() {
    assert_eq!(plan("").backlog_short, None, "4096 hold 1024");
    let small = Machine { backlog_max: Some(128), ..machine() };
    let short = |flags: &str| plan_on(&small, flags).expect("possible").backlog_short;
    let begun = |flags: &str| short(flags).map(|short| (short.begun, short.held));
    assert_eq!(begun(""), Some((1024, 128)));
    assert_eq!(begun("-t 1"), Some((512, 128)));
    assert_eq!(begun("127.0.0.1:7 -c 129"), Some((129, 128)));
    for fine in ["-c 128", "--connect-rate 100", "10.0.0.1:7 -c 1000"] {
        assert_eq!(begun(fine), None, "{fine}");
    }
    let text = short("").expect("too small").to_string();
    assert!(text.contains("sysctl -w net.core.somaxconn=4096"), "{text}");
    let unknown = Machine { backlog_max: None, ..machine() };
    assert_eq!(plan_on(&unknown, "").expect("possible").backlog_short, None);
}

#[test]
fn contradictions_are_usage_errors() {
    for flags in [
        "10.0.0.1:7 --source-ip ::1",
        "10.0.0.1:7 [::1]:7 --source-ip ::1",
        "10.0.0.1:1-2000",
        "-t 5000",
        "-p 1m",
        "--strict",
        "--arrivals poisson",
    ] {
        assert!(matches!(plan_on(&machine(), flags), Err(Failure::Usage(_))), "{flags}");
    }
}

#[test]
fn threads_that_never_sleep_have_a_processor_each() {
    let plan = plan("-t 3 --busy-poll");
    assert_eq!((plan.threads, plan.server_workers, plan.busy_poll), (3, 1, true));
    assert!(plan.share(0).limits.busy_poll);
    assert!(!self::plan("-t 3").share(0).limits.busy_poll);
    assert_eq!(self::plan("127.0.0.1:7 -t 4 --busy-poll").threads, 4);
    assert_eq!(self::plan("127.0.0.1:7 -t 5 -c 4 --busy-poll").threads, 4, "one each");
    for (flags, says) in [
        ("-t 4 --busy-poll", "4 of loadgen and 1 of the server; this process may use 4"),
        ("127.0.0.1:7 -t 5 --busy-poll", "5 of loadgen; this"),
    ] {
        let Err(Failure::Usage(text)) = plan_on(&machine(), flags) else { panic!("{flags}") };
        assert!(text.contains(says), "{text}");
    }
}

#[test]
fn a_server_that_closes_is_driven_with_a_connection_for_each_request() {
    let kept = plan("message://127.0.0.1:7?after=keep -p 4");
    assert_eq!((kept.lifetime, kept.server_closes), (None, false));
    let closed = plan("message://127.0.0.1:7");
    assert_eq!((closed.lifetime, closed.server_closes), (Some(Lifetime::Requests(1)), true));
}

#[test]
fn a_server_of_our_own_has_the_buffers_for_what_it_sees_whole() {
    assert_eq!(plan("").server_buffers(), None, "its default is right for an echo");
    let frames = plan("framed:// -c 1000 -l 100k").server_buffers().expect("a number");
    let each = 2 * 8;
    assert_eq!(frames, 1_000 * each, "7 for 100 KiB, which may begin within one, half filled");
    let large = plan("framed:// -c 10000 -l 1m").server_buffers().expect("a number");
    assert_eq!(large, 32_768, "a budget of 512 MiB");
    let few = plan("framed:// -c 1 -l 1").server_buffers().expect("a number");
    assert!(few >= 132, "what the service itself asks for: {few}");
}

#[test]
fn a_hub_of_our_own_has_fewer_clients_and_its_senders_have_schedules() {
    let hub = plan("hub:// -R 100 --senders 3 -t 2");
    assert_eq!((hub.connections, hub.hub.expect("a hub").senders), (1_000, 3));
    assert!((0..2).all(|thread| hub.dispatch(thread).is_some()));
    assert!(plan("hub:// -R 100 -t 2").dispatch(0).is_none(), "its thread has no sender");
}

#[test]
fn connections_are_begun_at_their_rate_by_all_threads_together() {
    for (threads, connections, rate) in [(1, 100, 50), (4, 100, 50), (3, 10, 1), (7, 1_000, 999)] {
        let flags = format!("127.0.0.1:7 -c {connections} -t {threads} --connect-rate {rate}");
        let plan = plan(&flags);
        let shares = (0..plan.threads).map(|thread| plan.share(thread));
        let due = shares.flat_map(|share| {
            let plan = &plan;
            (0..share.connections).map(move |nth| plan.connect_due(&share, nth).as_secs_f64())
        });
        let due: Vec<f64> = due.collect();
        assert_eq!(due.len(), connections);
        for seconds in [0.5, 1.0, 2.0, 5.0] {
            let begun = due.iter().filter(|due| **due < seconds).count() as f64;
            let expected = (rate as f64 * seconds).min(connections as f64);
            // Each thread begins its first connection at once.
            assert!((begun - expected).abs() <= threads as f64, "{flags}: {begun} in {seconds} s");
        }
    }
}

#[test]
fn what_shards_cannot_do_is_refused_with_the_remedy() {
    for (flags, reason) in [
        ("--shard 1/4 -t 1", "shard 1/4: give the target"),
        ("--shard 1/4 127.0.0.1:7", "give the number of threads (-t), the same in every shard"),
        ("--shard 1/4 127.0.0.1:7 -t 2 -c 7", "-c 7 is too few for 8 threads in total"),
        ("--shard 1/4 127.0.0.1:7 -t 1 -n 3", "-n is less than the number of shards"),
        ("--shard 1/4 hub://127.0.0.1:7 -t 1", "a hub's clients must be in one process"),
        ("--barrier localhost:7", "--barrier is for a run of several shards: give --shard"),
        ("--shard 1/4 127.0.0.1:7 -t 1 --search p99:1ms", "--search needs one process"),
    ] {
        let error = plan_on(&machine(), flags).expect_err(flags).to_string();
        assert!(error.contains(reason), "{flags}: {error}");
    }
    let small = Machine { open_files_max: 1_024, ..machine() };
    let error = plan_on(&small, "--shard 1/2 127.0.0.1:7 -t 1 -c 10k").expect_err("too many");
    assert!(error.to_string().starts_with("shard 1/2: 5000 connections requested"), "{error}");
    assert!(plan_on(&machine(), "--shard 0/1").is_ok(), "a shard that is the whole run");
}

#[test]
fn a_shard_has_its_part_of_everything() {
    let flags = "127.0.0.1:7001-7003 -t 2 -c 103 -n 1001 --with idle:5 --connect-rate 100";
    let whole = plan(&flags.replace("-t 2", "-t 8"));
    let (mut first, mut requests, mut idle) = (0, 0, 0);
    for index in 0..4 {
        let part = plan(&format!("{flags} --shard {index}/4"));
        assert_eq!((part.first_connection(), part.connections_all), (first, 103));
        for thread in 0..2 {
            let (own, same) = (part.share(thread), whole.share(2 * index + thread));
            assert_eq!(own.first_connection, same.first_connection);
            assert_eq!(own.connections, same.connections);
            assert_eq!(part.connect_due(&own, 7), whole.connect_due(&same, 7));
        }
        first += part.connections;
        requests += part.own_requests().expect("-n");
        idle += part.rude.total();
        assert_eq!(part.rude_all.total(), 5);
    }
    assert_eq!((first, requests, idle), (103, 1001, 5));
}

#[test]
fn over_udp_there_are_no_connections_that_could_end() {
    let plan = plan("udp://127.0.0.1:7 -c 5 --pipeline 4 -l 1k");
    assert!(plan.over_udp);
    assert_eq!(plan.target_addresses(), ["udp://127.0.0.1:7"]);
    let more = |flags: &str| {
        let flags = format!("udp://127.0.0.1:7 -c 1000 -t 1 -l 1k {flags}");
        plan_on(&machine(), &flags).expect("possible").memory_bytes()
    };
    // Each remembers 64 datagrams, or four times as many as may be outstanding.
    assert_eq!(more("--pipeline 64") - more("--pipeline 16"), 1_000 * (256 - 64) * 24);
    for (flags, part) in [
        ("-l 11", "from 12 to 65507"),
        ("-l uniform:12-65508", "from 12 to 65507"),
        ("--lifetime 5", "--lifetime"),
        ("--reconnect", "--reconnect"),
        ("--connect-rate 5", "--connect-rate"),
        ("--with idle:5", "--with"),
        ("--proxy-protocol v2", "--proxy-protocol"),
        ("127.0.0.1:8", "in two runs"),
    ] {
        let error = plan_on(&machine(), &format!("udp://127.0.0.1:7 {flags}")).unwrap_err();
        assert!(error.to_string().contains(part), "{flags}: {error}");
    }
    assert!(plan_on(&machine(), "udp://127.0.0.1:7 -l 12 -R 1k").is_ok());
}
