//! Tests of what the services of several listeners share; what each does is tested beside it.

use std::net::SocketAddr;

use super::*;
use crate::buffer::{Chain, Pool, Reserve};
use crate::service::{ConnectionId, Requests};

const LISTENERS: usize = 3;

/// Calls `open` for a client of a listener, while there is no buffer.
fn open(services: &mut ListenerServices, pool: &Pool, id: u64, listener: usize) {
    let (mut input, mut output) = (Chain::new(pool), Chain::new(pool));
    let mut connection = Connection {
        id: ConnectionId(id),
        peer: SocketAddr::from(([127, 0, 0, 1], 1)).into(),
        tag: listener as u64,
        discarded: 0,
        sent: 0,
        now: Time::ZERO,
        pool,
        input: &mut input,
        output: &mut output,
    };
    let answer = services.open(&mut connection, &mut BuiltinSession::default());
    assert!(matches!(answer, Answer::WaitUntil(_)) && output.is_empty());
}

#[test]
fn the_listeners_have_their_turn_in_rotation_where_few_clients_can_be_woken() {
    const CLIENTS: usize = 30;
    let pool = Pool::new(Reserve::new(256, 64).unwrap(), 0);
    let factory = OfListener::new(vec![ServiceOptions::Chargen; LISTENERS]);
    let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let limits = Config::new().listen(any_port).check().unwrap();
    let context = WorkerContext::alone(pool.clone(), LISTENERS * CLIENTS);
    let mut services = factory.plan(&limits).make(&context);
    let taken: Vec<Lease> = std::iter::from_fn(|| pool.lease()).collect();
    for client in 0..LISTENERS * CLIENTS {
        open(&mut services, &pool, client as u64 | 1 << 30, client % LISTENERS);
    }
    drop(taken);
    let mut woken = [0; LISTENERS];
    let mut requests = Requests::with_capacity(2);
    for turns in 1..=CLIENTS {
        let wakes_max = 2;
        let requests = &mut requests;
        let mut turn = Turn { now: Time::ZERO, open: 0, free_slots: 0, wakes_max, requests };
        assert_eq!(services.turn(&mut turn), Some(Time::ZERO), "others wait to be woken");
        for id in requests.wakes.drain(..) {
            woken[id.slot() as usize % LISTENERS] += 1;
        }
        assert_eq!(woken.iter().sum::<usize>(), 2 * turns);
        assert!(woken.iter().all(|&count| count >= turns / LISTENERS * 2), "{woken:?}");
    }
}
