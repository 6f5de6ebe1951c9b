//! Resolves the names of targets, each once, on its own thread, so that a signal or the time-out
//! can end it. No connection is made here.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use echopool::Endpoint;

use crate::cli::target::{Address, Target};
use crate::error::Failure;

/// Interval at which a signal is looked for.
const WATCH_INTERVAL: Duration = Duration::from_millis(20);

/// What the targets' names stand for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resolved {
    /// The first address of each port of each target, in order. Empty for a server that loadgen
    /// starts.
    pub targets: Vec<Endpoint>,
    /// The further addresses of each.
    pub others: Vec<Vec<Endpoint>>,
}

/// The addresses of all targets, in order, without those that cannot be reached from `sources`.
///
/// # Errors
/// A name has no address, there was no answer within the time-out, or a signal came.
pub fn resolve(
    targets: &[Target],
    sources: &[IpAddr],
    timeout: Duration,
    interrupted: &AtomicBool,
) -> Result<Resolved, Failure> {
    let look_up =
        |host: &str| -> io::Result<Vec<SocketAddr>> { Ok((host, 0).to_socket_addrs()?.collect()) };
    resolve_by(look_up, targets, sources, timeout, interrupted)
}

fn resolve_by(
    look_up: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + 'static,
    targets: &[Target],
    sources: &[IpAddr],
    timeout: Duration,
    interrupted: &AtomicBool,
) -> Result<Resolved, Failure> {
    let given: Vec<&Address> = targets.iter().filter_map(|one| one.address.as_ref()).collect();
    let host = |address: &&Address| match address {
        Address::Tcp { host, .. } | Address::Udp { host, .. } => Some(host.clone()),
        Address::Unix(_) => None,
    };
    let mut names: Vec<String> = given.iter().filter_map(host).collect();
    names.sort();
    names.dedup();
    let (send, found) = channel();
    let hosts = names.clone();
    let body = move || hosts.iter().try_for_each(|host| send.send(look_up(host)));
    let failed = |error| Failure::Setup(format!("cannot start a thread: {error}"));
    // If it is not waited for, it ends by itself after its present name.
    thread::Builder::new().name("names".into()).spawn(body).map_err(failed)?;
    let mut known = BTreeMap::new();
    let deadline = Instant::now() + timeout;
    for name in names {
        let addresses = loop {
            match found.recv_timeout(WATCH_INTERVAL) {
                Ok(addresses) => break addresses,
                _ if interrupted.load(Relaxed) => return Err(Failure::Interrupted),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
                Err(_) => {
                    let text = format!("cannot resolve {name}: no reply within {timeout:?}");
                    return Err(Failure::Setup(text));
                }
            }
        };
        let addresses =
            addresses.map_err(|error| Failure::Setup(format!("cannot resolve {name}: {error}")))?;
        known.insert(name, reachable(addresses, sources));
    }
    let mut resolved = Resolved::default();
    for address in given {
        let endpoint: fn(SocketAddr) -> Endpoint = match address {
            Address::Udp { .. } => Endpoint::Udp,
            _ => Endpoint::Tcp,
        };
        let (host, ports) = match address {
            Address::Tcp { host, ports } | Address::Udp { host, ports } => (host, ports),
            Address::Unix(address) => {
                resolved.targets.push(Endpoint::Unix(*address));
                resolved.others.push(Vec::new());
                continue;
            }
        };
        let Some((first, others)) = known[host].split_first() else {
            return Err(Failure::Setup(format!("{host} has no address")));
        };
        for port in ports.clone() {
            // With its zone, which is no part of the IP address.
            let at = |mut address: SocketAddr| {
                address.set_port(port);
                endpoint(address)
            };
            resolved.targets.push(at(*first));
            resolved.others.push(others.iter().copied().map(at).collect());
        }
    }
    Ok(resolved)
}

/// Each address once, without those of the other family than the sources', unless none would be
/// left.
fn reachable(addresses: Vec<SocketAddr>, sources: &[IpAddr]) -> Vec<SocketAddr> {
    let mut kept: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
    let fits =
        |address: &SocketAddr| sources.iter().all(|source| source.is_ipv4() == address.is_ipv4());
    let any = addresses.iter().any(fits);
    for address in addresses {
        if (fits(&address) || !any) && !kept.contains(&address) {
            kept.push(address);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    static NO_SIGNAL: AtomicBool = AtomicBool::new(false);
    const SECOND: Duration = Duration::from_secs(1);

    fn targets(texts: &[&str]) -> Vec<Target> {
        texts.iter().map(|text| text.parse().expect("a target")).collect()
    }

    fn shown(texts: &[&str]) -> Vec<String> {
        let resolved = resolve(&targets(texts), &[], 10 * SECOND, &NO_SIGNAL);
        let resolved = resolved.expect("addresses need no looking up");
        assert!(resolved.others.iter().all(Vec::is_empty));
        resolved.targets.iter().map(Endpoint::address).collect()
    }

    #[test]
    fn a_target_keeps_its_zone() {
        let both = ["[fe80::1%1]:7001", "[fe80::1%1]:7002"];
        assert_eq!(shown(&["[fe80::1%1]:7001-7002"]), both);
    }

    #[test]
    fn a_range_of_ports_is_one_address_for_each_in_the_order_given() {
        let found = shown(&["127.0.0.1:7001-7003", "[::1]:9"]);
        assert_eq!(found, ["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003", "[::1]:9"]);
        assert_eq!(shown(&["127.0.0.1:65535"]), ["127.0.0.1:65535"]);
        assert!(shown(&["hub://"]).is_empty());
    }

    #[test]
    fn each_name_is_looked_up_once_and_each_port_has_all_of_its_addresses() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let look_up = move |host: &str| {
            counted.fetch_add(1, Relaxed);
            let both: [SocketAddr; 3] =
                ["[::1]:0", "127.0.0.1:0", "[::1]:0"].map(|text| text.parse().unwrap());
            Ok(if host == "both" { both.to_vec() } else { both[1..2].to_vec() })
        };
        let given = targets(&["both:1-2", "one:3", "both:4"]);
        let resolved = resolve_by(look_up.clone(), &given, &[], 60 * SECOND, &NO_SIGNAL);
        let resolved = resolved.expect("addresses");
        let text = |addresses: &[Endpoint]| -> Vec<String> {
            addresses.iter().map(Endpoint::address).collect()
        };
        assert_eq!(text(&resolved.targets), ["[::1]:1", "[::1]:2", "127.0.0.1:3", "[::1]:4"]);
        let others = resolved.others.iter().map(|one| text(one)).collect::<Vec<_>>();
        assert_eq!(others, [vec!["127.0.0.1:1"], vec!["127.0.0.1:2"], vec![], vec!["127.0.0.1:4"]]);
        assert_eq!(count.load(Relaxed), 2);
        let from = ["127.0.0.9".parse().unwrap()];
        let resolved =
            resolve_by(look_up, &given, &from, 60 * SECOND, &NO_SIGNAL).expect("addresses");
        assert_eq!(text(&resolved.targets)[0], "127.0.0.1:1", "what the source can reach");
        assert!(resolved.others.iter().all(Vec::is_empty));
    }

    #[test]
    fn a_slow_look_up_is_neither_waited_for_longer_than_the_time_out_nor_after_a_signal() {
        let slow = |_: &str| {
            thread::sleep(60 * SECOND);
            Ok(Vec::new())
        };
        let begun = Instant::now();
        let short = Duration::from_millis(50);
        let error = resolve_by(slow, &targets(&["name:1"]), &[], short, &NO_SIGNAL);
        let text = error.expect_err("no answer").to_string();
        assert_eq!(text, "cannot resolve name: no reply within 50ms");
        let signal = AtomicBool::new(true);
        let error = resolve_by(slow, &targets(&["name:1"]), &[], 100 * SECOND, &signal);
        assert_eq!(error, Err(Failure::Interrupted));
        assert!(begun.elapsed() < 30 * SECOND, "a guard");
        let none =
            resolve_by(|_| Ok(Vec::new()), &targets(&["name:1"]), &[], 60 * SECOND, &NO_SIGNAL);
        assert_eq!(none, Err(Failure::Setup("name has no address".into())));
    }
}
