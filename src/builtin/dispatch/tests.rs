//! Tests of what the services of several listeners share. The tests of each service are beside it.

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::buffer::{Chain, Pool, Reserve};
use crate::builtin::delay::{Distribution, Law};
use crate::builtin::url::DelayOptions;
use crate::service::messenger::Messenger;
use crate::service::{Attention, ConnectionId, Requests};

const LISTENERS: usize = 3;

/// A request from a client of a listener. It is due when its session ends.
fn request(services: &mut ListenerServices, pool: &Pool, id: u64, listener: usize) {
    let mut lease = pool.lease().unwrap();
    lease.extend_from_slice(b"x");
    let mut connection = Connection {
        id: ConnectionId(id),
        peer: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        tag: listener as u64,
        discarded: 0,
        sent: 0,
        now: Time::ZERO,
        around: &Time::ZERO,
        pool,
        messenger: &Messenger::alone(pool),
        attention: &Attention::default(),
        timer: &mut Time::MAX.clone(),
        input: &mut Chain::from(lease),
        output: &mut Chain::new(pool),
    };
    let mut session = BuiltinSession::default();
    services.open(&mut connection, &mut session);
    assert_eq!(services.data(&mut connection, &mut session), Answer::Continue);
}

#[test]
fn the_listeners_have_their_turn_in_rotation_where_few_clients_can_be_woken() {
    const CLIENTS: usize = 30;
    let pool = Pool::new(Reserve::new(256, 64).unwrap(), 0);
    let delay = Distribution::Fixed(Duration::from_secs(1));
    let law = Law { delay, queue: false, stall: None };
    let delay = ServiceOptions::Delay(DelayOptions { law, ..DelayOptions::default() });
    let factory = OfListener::new(vec![delay; LISTENERS]);
    let limits = Limits::bare((LISTENERS * CLIENTS) as u32, 256, 64);
    let context = WorkerContext::alone(pool.clone(), LISTENERS * CLIENTS);
    let mut services = factory.plan(&limits).make(&context);
    for client in 0..LISTENERS * CLIENTS {
        request(&mut services, &pool, client as u64 | 1 << 30, client % LISTENERS);
    }
    let messenger = Messenger::alone(&pool);
    let mut woken = [0; LISTENERS];
    let mut requests = Requests::with_capacity(2);
    let now = Time::ZERO + Duration::from_secs(100);
    for turns in 1..CLIENTS {
        let requests = &mut requests;
        let mut turn = Turn {
            now,
            looked_at: now,
            open: 0,
            free_slots: 0,
            wakes_max: 2,
            all_served: true,
            yielded: &crate::base::slot_queue::SlotQueue::new(0),
            requests,
            messenger: &messenger,
        };
        let again = services.turn(&mut turn).expect("others are due");
        assert!(again < now, "{again:?}");
        for id in requests.wakes.drain(..) {
            woken[id.slot() as usize % LISTENERS] += 1;
        }
        assert_eq!(woken.iter().sum::<usize>(), 2 * turns);
        assert!(woken.iter().all(|&count| count >= turns / LISTENERS * 2), "{woken:?}");
    }
}

#[cfg(feature = "daemon")]
#[test]
fn listeners_can_be_added_for_each_service_whose_memory_does_not_grow_with_them() {
    let limits = Limits::bare(100, 16 << 10, 64);
    let all: Vec<_> =
        ServiceOptions::all().into_iter().filter(ServiceOptions::serves_streams).collect();
    let without = OfListener::new(all.clone());
    let with = without.clone().with_spares();
    let spares = with.spares();
    assert!(without.spares().is_empty());
    for service in &all {
        let plan = OfListener::new(vec![*service]).plan(&limits);
        let count = spares.iter().filter(|spare| *spare == service).count();
        let is_possible = ["echo", "discard", "chargen", "framed", "message"];
        let is_possible = is_possible.contains(&service.name());
        let expected = if is_possible { LISTENERS_ADDED_MAX } else { 0 };
        assert_eq!(count, expected, "{}", service.name());
        assert!(!is_possible || plan.bytes_each() == 0, "{}", service.name());
    }
    // A service that several listeners have has not more of them.
    let twice = [&all[..], &all].concat();
    assert_eq!(OfListener::new(twice).with_spares().spares(), spares);
    let (without, with) = (without.plan(&limits), with.plan(&limits));
    assert_eq!(with.bytes_each(), without.bytes_each());
    assert_eq!(with.references_each(), without.references_each());
    let pool = Pool::new(Reserve::new(256, 64).unwrap(), 0);
    let two = OfListener::new(vec![ServiceOptions::Chargen, ServiceOptions::Echo]).with_spares();
    let mut services = two.plan(&limits).make(&WorkerContext::alone(pool.clone(), 100));
    assert_eq!(services.services.len(), 2 + 2 * LISTENERS_ADDED_MAX);
    request(&mut services, &pool, 1, 2 + LISTENERS_ADDED_MAX);
}
