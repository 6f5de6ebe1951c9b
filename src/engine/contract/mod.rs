//! The contract of [`engine`](super), each rule a test, run on every engine: the readiness engine
//! on the real kernel and on the simulated one, and the completions of the simulation.
//!
//! * this file: the environment that an engine's tests need ([`Testbed`]), and which rule runs on
//!   which engine.
//! * `bench`: an engine with a pool, permits and peers, which checks that operations complete
//!   exactly once.
//! * `sockets`, `bytes`, `endings`, `turns`: the rules.
//! * `kernel`, `simulated`: the testbeds.
//!
//! A further engine needs a testbed and one line at the end of this file.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Engine, Sink};
use crate::base::time::Time;
use crate::buffer::Pool;
use crate::error::Errno;
use crate::shared::permits::Permits;

mod bench;
mod bytes;
mod endings;
mod kernel;
mod simulated;
mod sockets;
mod turns;

/// The parts that an engine is created from.
struct Parts {
    slots: usize,
    pool: Pool,
    permits: Arc<Permits>,
    /// Size of the kernel's receive buffer in bytes, if it can be chosen.
    window: usize,
}

/// An engine's environment, with peers that the test controls.
trait Testbed: Sized {
    type Engine: Engine;
    type Peer;

    /// A rule is run with each seed below this number.
    const SEEDS: u64;
    /// The number of connections for tests with many of them.
    const MANY: usize;
    /// Whether time advances only during waits, so that it can be compared exactly.
    const EXACT_TIME: bool;

    /// An engine with one listener.
    fn set(seed: u64, parts: Parts) -> (Self, Self::Engine);

    /// Has the engine poll.
    fn poll(
        &mut self,
        engine: &mut Self::Engine,
        deadline: Option<Time>,
        sink: &mut impl Sink<Self::Engine>,
    );

    /// The address at which the engine can connect to its own listener.
    fn listener(&self) -> SocketAddr;

    /// Creates a peer that is connected to the listener, accepted or not.
    fn connect(&mut self) -> Self::Peer;

    /// The peer's address, in canonical form.
    fn address(&self, peer: &Self::Peer) -> SocketAddr;

    /// Writes as much as there is room for, and returns the number of bytes.
    fn write(&mut self, peer: &mut Self::Peer, bytes: &[u8]) -> usize;

    /// Writes an urgent byte.
    fn write_urgent(&mut self, peer: &mut Self::Peer, byte: u8);

    /// Writes bytes and closes the sending side, in one segment if that is possible.
    fn write_and_shutdown(&mut self, peer: &mut Self::Peer, bytes: &[u8]);

    /// Closes the sending side.
    fn shutdown(&mut self, peer: &mut Self::Peer);

    /// Reads the available bytes. Returns `None` if there are none, and 0 at the end of the stream.
    fn read(&mut self, peer: &mut Self::Peer, room: &mut [u8]) -> Option<Result<usize, Errno>>;

    /// Closes with RST.
    fn reset(&mut self, peer: Self::Peer);

    /// Closes.
    fn close(&mut self, peer: Self::Peer);
}

/// Prints the seed if a rule fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("with seed {}", self.0);
        }
    }
}

fn run<S: Testbed>(rule: fn(u64)) {
    for seed in 0..S::SEEDS {
        let _said = Seed(seed);
        rule(seed);
    }
}

macro_rules! rules_on {
    ($engine:ident, $testbed:ty, $($file:ident: $($rule:ident)*;)*) => {
        mod $engine {
            $($(
                #[test]
                fn $rule() {
                    super::run::<$testbed>(super::$file::$rule::<$testbed>);
                }
            )*)*
        }
    };
}

macro_rules! contract {
    ($engine:ident, $testbed:ty) => {
        rules_on! {
            $engine, $testbed,
            sockets:
                accept_takes_a_permit_and_tells_a_canonical_peer
                accept_without_a_permit_leaves_the_connection_waiting
                accept_takes_all_who_wait_one_by_one
                an_accepted_connection_that_is_dropped_is_closed
                connect_joins_two_keys
                connect_is_refused_where_nobody_listens
                cancelled_connect_completes_once
                cancelled_accept_completes_once_and_loses_nobody
                closing_a_listener_tells_who_waited
                thousands_of_keys;
            bytes:
                recv_at_every_split
                recv_before_and_after_the_bytes
                recv_into_buffers_of_every_size
                recv_without_a_buffer_resumes
                end_needs_no_buffer
                a_receive_waits_for_the_end_without_a_buffer
                what_is_thrown_away_needs_no_buffer
                short_sends
                half_close_at_every_offset
                urgent_byte_at_every_offset
                both_ways_at_once;
            endings:
                reset_while_a_receive_waits
                reset_while_a_send_waits
                reset_while_both_wait
                reset_between_operations
                cancel_against_bytes
                cancel_against_room_to_send
                a_socket_that_is_given_up_goes_on_where_it_was
                cancel_of_everything
                cancel_of_nothing
                shutdown_follows_every_byte
                close_gives_fin_and_reset_gives_a_reset
                reuse_of_a_key
                reuse_within_a_batch;
            turns:
                a_deadline_ends_a_poll
                a_poll_without_waiting
                the_waker_ends_one_poll
                cancelled_operations_are_told_without_waiting
                the_sink_may_submit
                two_receives_at_once_panic
                two_sends_at_once_panic
                two_accepts_at_once_panic
                closing_with_a_receive_in_flight_panics;
        }
    };
}

contract!(mio_on_kernel, super::kernel::OnKernel);
contract!(mio_in_world, super::simulated::Readiness);
contract!(completions_in_world, super::simulated::Completions);
