//! Services that panic when they are asked about a connection, and not called for it.

use std::cell::Cell;

use super::*;

/// Which question is answered with a panic, once, when the client has sent `!`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    FullDuplex,
    InputMax,
    FreshClock,
}

/// Echo that panics once. It leaves input in place while that begins with `k`.
struct PanicsOnce {
    asked: Asked,
    armed: Cell<bool>,
}

impl PanicsOnce {
    fn answer<T>(&self, asked: Asked, answer: T) -> T {
        if asked == self.asked && self.armed.take() {
            panic!("on purpose, in {asked:?}");
        }
        answer
    }
}

impl Service for PanicsOnce {
    type Session = ();

    fn fresh_clock(&self, _: u64) -> bool {
        self.answer(Asked::FreshClock, false)
    }

    fn full_duplex(&self, _: u64) -> bool {
        self.answer(Asked::FullDuplex, false)
    }

    fn input_max(&self, _: u64) -> usize {
        self.answer(Asked::InputMax, 1 << 20)
    }

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        if connection.input.first_slice().starts_with(b"!") {
            self.armed.set(true);
        }
        match connection.input.first_slice().starts_with(b"k") {
            true => Answer::Continue,
            false => Echo.data(connection, session),
        }
    }
}

#[test]
fn a_panic_in_an_answer_about_a_connection_closes_that_connection_only() {
    for asked in [Asked::FullDuplex, Asked::InputMax, Asked::FreshClock] {
        let config = Config::new().max_connections(10).buffer_size(1024);
        let make = move || PanicsOnce { asked, armed: Cell::new(false) };
        let (server, address) = start(config, make);
        let (mut bystander, mut arms) = (connect(address), connect(address));
        echoes(&mut bystander, b"x").unwrap();
        echoes(&mut arms, b"!").unwrap();
        let mut victim = connect(address);
        if asked != Asked::FullDuplex {
            let _ = victim.write_all(&[b'k'; 64 << 10]);
        }
        until(&server, "it is closed", |total| total.closed(CloseReason::ServicePanic) == 1);
        drop((victim, arms));
        echoes(&mut bystander, b"y").unwrap();
        echoes(&mut connect(address), b"z").unwrap();
        drop(bystander);
        assert_eq!(server.drain(GUARD), Drained::Clean, "{asked:?}");
    }
}
