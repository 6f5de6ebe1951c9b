//! Explores every state that events and actions can bring the state machine to, and checks each
//! against what an engine would have been given. Then tests the paths that matter one by one.

use super::*;
use std::collections::{HashMap, HashSet, VecDeque};

const EVENTS: [Event; 19] = [
    Event::Connected,
    Event::Received,
    Event::Ended,
    Event::NoBuffer,
    Event::WantBuffer,
    Event::BufferCame,
    Event::Sent,
    Event::ShutDown,
    Event::RecvFailed,
    Event::SendFailed,
    Event::RecvCancelled,
    Event::SendCancelled,
    Event::CancelDone,
    Event::Closed,
    Event::Pause,
    Event::Unpause,
    Event::HalfClose,
    Event::Finish,
    Event::Abort,
];

/// What an engine would report for the operations that it was given. Checks the contract's second
/// rule from the engine's side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct InFlight {
    connect: bool,
    recv: bool,
    send: bool,
    shutdown: bool,
    cancel: bool,
    close: bool,
}

impl InFlight {
    /// Whether an operation of the sending side is in flight.
    fn sends(&self) -> bool {
        self.connect || self.send || self.shutdown
    }

    fn begin(&mut self, action: Action) {
        let sends = self.sends();
        let (field, allowed) = match action {
            Action::Recv | Action::Discard => (&mut self.recv, !self.connect),
            Action::Send => (&mut self.send, !sends),
            Action::Shutdown => (&mut self.shutdown, !sends),
            Action::Cancel => (&mut self.cancel, self.recv || sends),
            Action::Close | Action::Reset => {
                (&mut self.close, !sends && !self.recv && !self.cancel)
            }
            Action::Rest => return,
        };
        assert!(allowed, "{action:?} beside another operation");
        assert!(!std::mem::replace(field, true), "{action:?} twice at once");
    }

    fn end(&mut self, event: Event) {
        match event {
            Event::Received
            | Event::Ended
            | Event::NoBuffer
            | Event::RecvFailed
            | Event::RecvCancelled => self.recv = false,
            Event::Connected => self.connect = false,
            Event::Sent => self.send = false,
            Event::ShutDown => self.shutdown = false,
            Event::SendFailed | Event::SendCancelled => {
                (self.connect, self.send, self.shutdown) = (false, false, false);
            }
            Event::CancelDone => self.cancel = false,
            Event::Closed => self.close = false,
            _ => {}
        }
    }
}

type State = (Machine, InFlight);

fn starts() -> Vec<State> {
    [false, true]
        .into_iter()
        .flat_map(|duplex| {
            let connecting = InFlight { connect: true, ..InFlight::default() };
            [
                (Machine::accepted(duplex), InFlight::default()),
                (Machine::connecting(duplex), connecting),
            ]
        })
        .collect()
}

/// Every state that can be reached by taking actions until rest, with and without output, and then
/// applying any allowed event.
fn reach() -> HashMap<State, Vec<State>> {
    let mut seen: HashMap<State, Vec<State>> = HashMap::new();
    let mut todo: VecDeque<State> = starts().into();
    while let Some(state) = todo.pop_front() {
        if seen.contains_key(&state) {
            continue;
        }
        let mut next = Vec::new();
        for output in [false, true] {
            let (mut machine, mut in_flight) = state;
            // One action at a time: its completion may come before the next call.
            let action = machine.next(output);
            in_flight.begin(action);
            next.push((machine, in_flight));
        }
        for event in EVENTS {
            let (mut machine, mut in_flight) = state;
            if machine.allows(event) {
                machine.apply(event);
                in_flight.end(event);
                next.push((machine, in_flight));
            }
        }
        todo.extend(next.iter().copied());
        seen.insert(state, next);
    }
    seen
}

#[test]
fn the_machine_and_the_engine_agree_on_what_is_in_flight_in_every_reachable_state() {
    let states = reach();
    assert!(states.len() > 100, "only {} states were reached", states.len());
    for (machine, in_flight) in states.keys() {
        assert_eq!(machine.rx == Rx::Receiving, in_flight.recv, "{machine:?}");
        assert_eq!(machine.tx == Tx::Connecting, in_flight.connect, "{machine:?}");
        assert_eq!(machine.tx == Tx::Sending, in_flight.send, "{machine:?}");
        assert_eq!(machine.tx == Tx::ShuttingDown, in_flight.shutdown, "{machine:?}");
        assert_eq!(machine.cancel == Cancel::InFlight, in_flight.cancel, "{machine:?}");
        assert_eq!(machine.phase == Phase::Closing, in_flight.close, "{machine:?}");
    }
}

#[test]
fn what_the_worker_is_told_agrees_with_what_the_engine_was_given() {
    for (machine, in_flight) in reach().into_keys() {
        assert_eq!(machine.is_connecting(), in_flight.connect, "{machine:?}");
        assert_eq!(machine.is_sending(), in_flight.send, "{machine:?}");
        let InFlight { recv, send, .. } = in_flight;
        let only_recv_and_send = in_flight == InFlight { recv, send, ..InFlight::default() };
        let sends_fin = machine.half_closes() || !machine.is_open();
        let can_move = only_recv_and_send && !sends_fin;
        assert!(!machine.is_interruptible() || can_move, "{machine:?}");
        assert!(!machine.is_shut() || machine.half_closes() && !in_flight.sends(), "{machine:?}");
        // Where nothing is to be sent, what is there is not sent either.
        let begins_send = { machine }.next(true) == Action::Send;
        assert!(!begins_send || machine.sends(), "{machine:?}");
    }
}

#[test]
fn every_value_of_every_part_of_the_state_is_reached() {
    let states = reach();
    let count = |part: &dyn Fn(&Machine) -> String| {
        states.keys().map(|(machine, _)| part(machine)).collect::<HashSet<_>>().len()
    };
    assert_eq!(count(&|machine| format!("{:?}", machine.phase)), 6);
    assert_eq!(count(&|machine| format!("{:?}", machine.rx)), 4);
    assert_eq!(count(&|machine| format!("{:?}", machine.tx)), 5);
    assert_eq!(count(&|machine| format!("{:?}", machine.cancel)), 3);
}

#[test]
fn every_event_is_allowed_somewhere_and_refused_somewhere() {
    let states = reach();
    for event in EVENTS {
        assert!(states.keys().any(|(machine, _)| machine.allows(event)), "{event:?}");
        assert!(states.keys().any(|(machine, _)| !machine.allows(event)), "{event:?}");
    }
}

/// The check uses what the engine was given, not what the machine remembers of it.
#[test]
fn an_event_is_allowed_exactly_when_what_it_ends_has_begun() {
    for (machine, ops) in reach().into_keys() {
        for event in EVENTS {
            let possible = match event {
                Event::Connected => ops.connect,
                Event::Received | Event::Ended | Event::NoBuffer | Event::RecvFailed => ops.recv,
                Event::BufferCame => machine.rx == Rx::AwaitingBuffer,
                Event::Sent => ops.send,
                Event::ShutDown => ops.shutdown,
                Event::SendFailed => ops.sends(),
                Event::RecvCancelled => ops.recv && ops.cancel,
                Event::SendCancelled => ops.sends() && ops.cancel,
                Event::CancelDone => ops.cancel && !ops.recv && !ops.sends(),
                Event::Closed => ops.close,
                Event::WantBuffer | Event::Pause | Event::Unpause | Event::HalfClose => {
                    machine.phase == Phase::Open
                }
                Event::Finish | Event::Abort => machine.phase != Phase::Closed,
            };
            assert_eq!(machine.allows(event), possible, "{event:?} in {machine:?}");
        }
    }
}

#[test]
fn from_every_state_the_connection_can_come_to_its_end_and_then_nothing_moves() {
    let states = reach();
    let mut ends: HashSet<State> =
        states.keys().filter(|(machine, _)| machine.phase == Phase::Closed).copied().collect();
    assert!(!ends.is_empty());
    for (machine, in_flight) in &ends {
        assert_eq!(*in_flight, InFlight::default(), "{machine:?}");
    }
    loop {
        let more: Vec<State> = states
            .iter()
            .filter(|(state, next)| {
                !ends.contains(*state) && next.iter().any(|next| ends.contains(next))
            })
            .map(|(state, _)| *state)
            .collect();
        if more.is_empty() {
            break;
        }
        ends.extend(more);
    }
    for state in states.keys() {
        assert!(ends.contains(state), "stuck in {state:?}");
    }
}

#[test]
fn a_resting_connection_waits_for_something() {
    for (mut machine, in_flight) in reach().into_keys() {
        let before = machine;
        if machine.next(false) != Action::Rest || machine != before {
            continue;
        }
        let waits = in_flight != InFlight::default()
            || machine.rx == Rx::AwaitingBuffer
            || machine.paused
            // The peer has closed its side, and the service has answered to continue: it may send.
            || (machine.phase == Phase::Open && machine.rx == Rx::Ended && machine.tx == Tx::Idle)
            || machine.phase == Phase::Closed;
        assert!(waits, "nothing will ever happen to {machine:?}");
    }
}

/// The worker does not call it again.
#[test]
fn a_connection_whose_recv_has_to_wait_rests() {
    let mut receives = 0;
    for (machine, _) in reach().into_keys() {
        for output in [false, true] {
            let mut machine = machine;
            if machine.next(output) == Action::Recv {
                receives += 1;
                assert_eq!(machine.next(output), Action::Rest, "{machine:?}");
            }
        }
    }
    assert!(receives > 0);
}

#[test]
fn fin_is_never_sent_after_output_was_lost() {
    let mut resets = 0;
    for (machine, _) in reach().into_keys() {
        for output in [false, true] {
            let action = { machine }.next(output);
            let lost = machine.lost_output || (output && machine.phase == Phase::Aborting);
            assert!(!(lost && matches!(action, Action::Close | Action::Shutdown)), "{machine:?}");
            assert!(lost || action != Action::Reset, "{machine:?}");
            resets += usize::from(action == Action::Reset);
        }
    }
    assert!(resets > 0);
}

#[test]
fn a_half_duplex_connection_is_not_read_while_it_is_sent_to() {
    for (machine, in_flight) in reach().into_keys() {
        if machine.full_duplex || machine.phase != Phase::Open {
            continue;
        }
        let (mut after, mut ops) = (machine, in_flight);
        let action = after.next(true);
        ops.begin(action);
        let may_read = matches!(machine.tx, Tx::Idle | Tx::Shut);
        assert!(action != Action::Recv || may_read, "{machine:?}");
    }
}

/// Applies the events, and takes the machine's next action before each.
fn after(mut machine: Machine, output: bool, events: &[Event]) -> Machine {
    for &event in events {
        machine.next(output);
        machine.apply(event);
    }
    machine
}

#[test]
fn a_service_is_asked_from_the_connection_on_until_it_ends() {
    for end in [Event::Finish, Event::Abort] {
        let mut machine = Machine::connecting(false);
        assert!(machine.is_connecting() && !machine.is_open());
        machine.apply(Event::Connected);
        assert!(!machine.is_connecting() && machine.is_open() && machine.delivers());
        machine.apply(end);
        assert!(!machine.is_open() && !machine.delivers());
    }
    let mut machine = Machine::connecting(false);
    machine.apply(Event::Abort);
    assert!(!machine.is_open(), "neither connected nor wanted");
}

#[test]
fn a_pause_stops_reading_and_ends_with_the_connection() {
    let mut machine = Machine::accepted(false);
    machine.apply(Event::Pause);
    assert_eq!((machine.is_paused(), machine.peek(false)), (true, Action::Rest));
    for end in [Event::Unpause, Event::Finish, Event::Abort] {
        let mut machine = machine;
        machine.apply(end);
        assert!(!machine.is_paused(), "{end:?}");
        assert_ne!(machine.peek(false), Action::Rest, "{end:?}");
    }
}

#[test]
fn a_connection_whose_service_waits_for_a_buffer_is_not_read_until_one_comes() {
    let mut machine = Machine::accepted(true);
    machine.apply(Event::WantBuffer);
    assert_eq!([true, false].map(|output| machine.next(output)), [Action::Send, Action::Rest]);
    machine.apply(Event::BufferCame);
    assert_eq!(machine.next(false), Action::Recv);
    machine.apply(Event::WantBuffer);
    assert!(machine.allows(Event::Received) && !machine.awaits_buffer(), "it was begun before");
}

#[test]
fn a_full_duplex_connection_is_read_while_it_is_sent_to() {
    let mut machine = Machine::accepted(true);
    assert_eq!([true, true].map(|output| machine.next(output)), [Action::Send, Action::Recv]);
}

#[test]
fn output_is_sent_before_fin_and_fin_before_the_close() {
    let mut machine = Machine::accepted(false);
    machine.apply(Event::Finish);
    assert_eq!(machine.next(true), Action::Send);
    machine.apply(Event::Sent);
    assert_eq!(machine.next(false), Action::Shutdown);
    machine.apply(Event::ShutDown);
    assert_eq!(machine.next(false), Action::Discard, "what the peer still sends is thrown away");
    machine.apply(Event::Ended);
    assert_eq!(machine.next(false), Action::Close);
}

#[test]
fn a_connection_that_the_peer_has_closed_is_closed_without_a_shutdown() {
    let machine = after(Machine::accepted(false), false, &[Event::Ended, Event::Finish]);
    assert_eq!(machine.peek(true), Action::Send);
    assert_eq!(machine.peek(false), Action::Close);
}

#[test]
fn a_connection_is_interruptible_while_it_is_open_and_only_receives_and_sends() {
    for full_duplex in [false, true] {
        let mut machine = Machine::accepted(full_duplex);
        assert!(machine.is_interruptible(), "it is not read yet");
        assert_eq!(machine.next(false), Action::Recv);
        assert!(machine.is_interruptible());
        let ended = after(machine, false, &[Event::Ended]);
        assert!(ended.is_interruptible(), "the peer may have closed its side");
        for event in [Event::Pause, Event::HalfClose, Event::Finish] {
            let mut machine = machine;
            machine.apply(event);
            assert!(!machine.is_interruptible(), "{event:?}");
        }
        machine.forget_recv();
        assert_eq!(machine.next(false), Action::Recv, "the Recv is forgotten");
    }
}

#[test]
fn output_is_sent_until_fin_was_sent_or_the_connection_is_aborted() {
    let mut machine = Machine::accepted(false);
    assert!(machine.sends() && !machine.half_closes() && !machine.is_shut());
    machine.apply(Event::HalfClose);
    assert!(machine.sends() && machine.half_closes() && !machine.is_shut(), "FIN follows");
    let mut finishing = Machine::accepted(false);
    finishing.apply(Event::Finish);
    assert!(finishing.sends() && !finishing.is_shut());
    let mut lingering = after(finishing, false, &[Event::ShutDown]);
    lingering.next(false);
    assert!(lingering.is_shut() && lingering.half_closes() && !lingering.sends());
    finishing.apply(Event::Abort);
    assert!(!finishing.sends());
}

#[test]
fn output_is_lost_by_a_send_that_fails_and_not_by_one_that_completes() {
    for (end, lost) in [(Event::SendFailed, true), (Event::Sent, false)] {
        let machine = after(Machine::accepted(false), true, &[end]);
        assert_eq!(machine.has_lost_output(), lost, "{end:?}");
    }
}

#[test]
fn a_connection_awaits_a_buffer_until_one_comes() {
    let mut machine = after(Machine::accepted(false), false, &[Event::NoBuffer]);
    assert!(machine.awaits_buffer());
    machine.apply(Event::BufferCame);
    assert!(!machine.awaits_buffer());
}

#[test]
fn a_half_close_sends_what_is_left_then_fin_and_reads_on_until_the_peers_fin() {
    let mut machine = Machine::accepted(true);
    machine.apply(Event::HalfClose);
    assert_eq!([true, true].map(|output| machine.next(output)), [Action::Send, Action::Recv]);
    machine.apply(Event::Sent);
    assert_eq!(machine.next(false), Action::Shutdown);
    machine.apply(Event::ShutDown);
    assert!(machine.is_shut() && machine.delivers());
    machine.apply(Event::Received);
    assert_eq!(machine.next(false), Action::Recv);
    machine.apply(Event::Ended);
    let mut paused = machine;
    paused.apply(Event::Pause);
    assert_eq!(paused.next(false), Action::Rest, "the service wants to be called once more");
    // With FIN sent and received, nothing is left to wait for.
    assert_eq!([false, false].map(|output| machine.next(output)), [Action::Close, Action::Rest]);
}

#[test]
fn finishing_a_connect_cancels_it() {
    let mut machine = after(Machine::connecting(false), false, &[Event::Finish]);
    assert_eq!(machine.next(false), Action::Cancel);
    machine.apply(Event::SendCancelled);
    machine.apply(Event::CancelDone);
    assert_eq!(machine.next(false), Action::Close, "nothing was lost: nothing was to be sent");
}

#[test]
fn a_send_that_is_cancelled_or_fails_ends_in_a_reset_and_a_shutdown_in_a_close() {
    let mut finishing = Machine::accepted(false);
    finishing.apply(Event::Finish);
    let aborted = [Event::Abort, Event::SendCancelled, Event::CancelDone];
    for (end, output, last) in [
        (&aborted[..], true, Action::Reset),
        (&[Event::SendFailed], true, Action::Reset),
        (&aborted, false, Action::Close),
        (&[Event::SendFailed], false, Action::Close),
    ] {
        let machine = after(finishing, output, end);
        assert_eq!(machine.peek(false), last, "{end:?}");
    }
}
