//! From a completion to the connection's next operation. The state machine gets the event, the
//! service is called where it decides, and the machine returns the next action, until it rests.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::connection::Context;
use super::connection::machine::{Action, Event, Phase};
use super::layer::Layer;
use super::{Budget, Core};
use crate::base::key::{Key, OpKind};
use crate::base::time::Time;
use crate::buffer::{Chain, Pool};
use crate::engine::{Engine, Op, Outcome, Submitted};
use crate::error::{CloseReason, Errno};
use crate::net::sockopt::TcpInfo;
use crate::service::messenger::Messenger;
use crate::service::{Answer, Attention, Connection, Service, Surroundings};
use crate::shared::counters::Counters;

impl<S: Service, L: Layer> Core<S, L> {
    /// Submits operations until the connection waits for something. Frees it when it is closed.
    ///
    /// This is a loop: an operation that completes at once does not call back into it, so a chain
    /// of such operations uses no stack.
    pub(super) fn drive<E: Engine>(&mut self, engine: &mut E, key: Key) {
        self.run_until_blocked(engine, key, Budget::TURN);
    }

    /// Like [`drive`](Core::drive), after a pending Recv has brought bytes. An echo begins here.
    #[inline(always)]
    pub(super) fn drive_received<E: Engine>(&mut self, engine: &mut E, key: Key, chain: Chain) {
        let mut budget = Budget::TURN;
        budget.spend(chain.len());
        self.received(engine, key, chain);
        self.run_until_blocked(engine, key, budget);
    }

    /// Like [`drive`](Core::drive), after another pending operation has completed.
    pub(super) fn drive_completed<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        op: OpKind,
        outcome: Outcome<E::Socket>,
    ) {
        match outcome {
            Outcome::Received(chain) => return self.drive_received(engine, key, chain),
            Outcome::Sent { bytes, mut rest } => {
                self.unstall(key);
                let context = self.table.expect_mut(key);
                // The rest goes before what was added since the Send began.
                let outgoing = outgoing(&mut self.layer, context, &self.pool);
                rest.append(outgoing);
                *outgoing = rest;
                let all_sent =
                    sent(&mut self.layer, context, &self.counters, bytes, self.now, &self.pool);
                self.notify_sent(engine, key, all_sent);
            }
            other => self.completed(engine, key, op, other),
        }
        self.drive(engine, key);
    }

    /// The two operations of an echo are handled inline with their completions, so that the
    /// compiler makes one straight path of them. All other operations are rare.
    #[inline(always)]
    fn run_until_blocked<E: Engine>(&mut self, engine: &mut E, key: Key, mut budget: Budget) {
        'look_up: loop {
            if !L::IS_PLAIN && self.layer_starves(engine, key) {
                return;
            }
            let context = self.table.expect_mut(key);
            // Without a look-up as long as nothing but the engine was called.
            loop {
                // Output that a layer has not taken yet counts too: an abort loses it.
                let output = !outgoing(&mut self.layer, context, &self.pool).is_empty()
                    || !L::IS_PLAIN
                        && (!context.output.is_empty() || self.layer.keeps_output(&context.layer));
                if budget.is_spent()
                    && matches!(
                        context.machine.peek(output),
                        Action::Recv | Action::Send | Action::Discard
                    )
                {
                    return self.yield_turn(key);
                }
                match context.machine.next(output) {
                    Action::Recv if !L::IS_PLAIN && self.layer.has_ended(&context.layer) => {
                        self.completed(engine, key, OpKind::Recv, Outcome::Ended);
                    }
                    Action::Recv => match engine.submit(key, Op::Recv(context.leases_wanted)) {
                        Submitted::Pending => return,
                        Submitted::Ready(Outcome::Received(chain)) => {
                            budget.spend(chain.len());
                            self.received(engine, key, chain);
                        }
                        Submitted::Ready(other) => self.completed(engine, key, OpKind::Recv, other),
                    },
                    Action::Send => {
                        match engine.send(key, outgoing(&mut self.layer, context, &self.pool)) {
                            Ok(None) => self.stall(engine, key),
                            Ok(Some(bytes)) => {
                                budget.spend(bytes);
                                let (layer, counters) = (&mut self.layer, &self.counters);
                                let all_sent =
                                    sent(layer, context, counters, bytes, self.now, &self.pool);
                                if L::IS_PLAIN && !(S::HEARS_SENT && all_sent) {
                                    continue;
                                }
                                self.notify_sent(engine, key, all_sent);
                            }
                            Err(error) => self.ended_early(key, OpKind::Send, Some(error)),
                        }
                    }
                    Action::Discard => match engine.submit(key, Op::Discard) {
                        Submitted::Pending => return,
                        Submitted::Ready(outcome) => {
                            if let Outcome::Discarded(bytes) = outcome {
                                budget.spend(bytes);
                            }
                            self.completed(engine, key, OpKind::Recv, outcome);
                        }
                    },
                    Action::Shutdown => self.submit(engine, key, OpKind::Shutdown, Op::Shutdown),
                    Action::Cancel => self.submit(engine, key, OpKind::Cancel, Op::Cancel),
                    Action::Close => self.submit(engine, key, OpKind::Close, Op::Close),
                    Action::Reset => self.submit(engine, key, OpKind::Close, Op::Reset),
                    Action::Rest if context.machine.phase() == Phase::Closed => {
                        return self.free(engine, key);
                    }
                    Action::Rest => return,
                }
                continue 'look_up;
            }
        }
    }

    /// The connection used up its share of this turn; the others come first.
    pub(super) fn yield_turn(&mut self, key: Key) {
        if !self.yielded.contains(key.slot()) {
            self.yielded.push_back(key.slot());
        }
    }

    /// Continues with the connections that used up their share of an earlier turn, as far as the
    /// work of this turn allows.
    #[inline]
    pub(super) fn serve_yielded<E: Engine>(&mut self, engine: &mut E) {
        if !self.yielded.is_empty() {
            self.serve_yielded_now(engine);
        }
    }

    #[inline(never)]
    fn serve_yielded_now<E: Engine>(&mut self, engine: &mut E) {
        let mut work = self.work_of_turn();
        if self.yielded_left == 0 {
            self.yielded_left = self.yielded.len();
        }
        let mut begins = engine.now();
        while self.yielded_left > 0 && !work.is_spent() {
            self.yielded_left -= 1;
            // There are fewer if serving one has closed another.
            let Some(slot) = self.yielded.pop_front() else { break };
            let key = self.table.key_of(slot).expect("a queue holds live connections only");
            let now = self.now;
            let context = self.context(key);
            if context.machine.is_paused() && context.deadline <= now {
                self.timer_came(engine, key);
            }
            self.drive(engine, key);
            self.serve_waiters(engine);
            // Its service may have used much more than a share.
            let ends = engine.now();
            work.spend_share(ends - begins);
            begins = ends;
        }
    }

    #[cold]
    fn submit<E: Engine>(&mut self, engine: &mut E, key: Key, kind: OpKind, op: Op) {
        if let Submitted::Ready(outcome) = engine.submit(key, op) {
            self.completed(engine, key, kind, outcome);
        }
    }

    /// The context of a connection that is known to exist: a slot is freed only when nothing is in
    /// flight, so each completion has one.
    #[inline]
    pub(super) fn context(&mut self, key: Key) -> &mut Context<S::Session, L::State> {
        self.table.expect_mut(key)
    }

    /// Handles a completion that brings no received bytes and reports no sent ones.
    #[cold]
    fn completed<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        op: OpKind,
        outcome: Outcome<E::Socket>,
    ) {
        match (op, outcome) {
            (OpKind::Recv, Outcome::Ended) => self.peer_closed(engine, key),
            (OpKind::Recv, Outcome::Discarded(bytes)) => self.discarded(key, bytes),
            (OpKind::Recv, Outcome::NoBuffer) => self.wait_for_buffer(engine, key),
            (OpKind::Connect, Outcome::Connected) => {
                self.context(key).machine.apply(Event::Connected);
                self.established(engine, key);
            }
            (OpKind::Shutdown, Outcome::Done) => {
                self.context(key).machine.apply(Event::ShutDown);
                if self.context(key).machine.phase() != Phase::Open {
                    self.begin_linger(key);
                }
            }
            (OpKind::Cancel, Outcome::Done) => self.context(key).machine.apply(Event::CancelDone),
            (OpKind::Close, Outcome::Closed { .. }) => {
                self.context(key).machine.apply(Event::Closed);
            }
            (op, Outcome::Cancelled) => self.ended_early(key, op, None),
            (op, Outcome::Failed(error)) => self.ended_early(key, op, Some(error)),
            (op, other) => panic!("{op:?} completed with {other:?}"),
        }
    }

    /// An operation failed or was cancelled.
    fn ended_early(&mut self, key: Key, op: OpKind, error: Option<Errno>) {
        let context = self.context(key);
        if let Some(error) = error {
            // If its output fails, the connection is no longer closed for the earlier reason. After
            // FIN, no output is left that could fail.
            if matches!(context.machine.phase(), Phase::Open | Phase::Finishing) {
                context.reason = Some(CloseReason::of(error));
            }
            context.reason.get_or_insert(CloseReason::of(error));
        }
        if op == OpKind::Connect {
            context.connect_error.get_or_insert(error.unwrap_or(Errno::CANCELED));
        }
        context.machine.apply(match (op == OpKind::Recv, error.is_some()) {
            (true, true) => Event::RecvFailed,
            (true, false) => Event::RecvCancelled,
            (false, true) => Event::SendFailed,
            (false, false) => Event::SendCancelled,
        });
    }

    #[inline(always)]
    fn received<E: Engine>(&mut self, engine: &mut E, key: Key, mut chain: Chain) {
        let bytes = chain.len();
        let context = self.table.expect_mut(key);
        // After one buffer that was not filled, the next receive takes one too.
        if context.leases_wanted > 1 || bytes >= self.pool.buffer_size() {
            let most = self.rules.leases_per_connection_max;
            context.leases_wanted = leases_wanted(context.leases_wanted, most, bytes, &self.pool);
        }
        context.active_at = self.now;
        context.machine.apply(Event::Received);
        if !context.machine.delivers() {
            return self.count_discarded(key, bytes);
        }
        self.counters.receives.add(1);
        let (layer, input) = (&mut context.layer, &mut context.input);
        let taken = self.layer.received(layer, input, &mut chain, &self.pool);
        match taken {
            Ok(bytes) if L::IS_PLAIN => {
                let clock = Clock { engine, key, turn: self.now };
                let (pool, messenger, counters) = (&self.pool, &self.messenger, &self.counters);
                let asked =
                    give_input(&mut self.service, pool, messenger, counters, context, bytes, clock);
                self.carry_out(key, CloseReason::Service, asked);
            }
            taken => {
                self.counters.wire_bytes_received.add(bytes as u64);
                self.layer_was_called(engine, key, taken);
                let context = self.table.expect_mut(key);
                // A layer may also have thrown away what it kept.
                let holds = context.attention.has(Attention::HOLDS);
                if holds || self.layer.keeps_input(&context.layer) {
                    self.look_after(key, 0);
                }
            }
        }
    }

    /// Bytes have arrived and were thrown away.
    fn discarded(&mut self, key: Key, bytes: usize) {
        let now = self.now;
        let context = self.context(key);
        context.active_at = now;
        context.machine.apply(Event::Received);
        self.count_discarded(key, bytes);
    }

    #[cold]
    fn count_discarded(&mut self, key: Key, bytes: usize) {
        self.counters.bytes_discarded.add(bytes as u64);
        self.context(key).bytes_discarded += bytes as u64;
    }

    /// Calls the service for bytes that a layer has put into its input.
    fn give_input<E: Engine>(&mut self, engine: &mut E, key: Key, bytes: usize) {
        let context = self.table.expect_mut(key);
        let clock = Clock { engine, key, turn: self.now };
        let (pool, messenger) = (&self.pool, &self.messenger);
        let asked =
            give_input(&mut self.service, pool, messenger, &self.counters, context, bytes, clock);
        self.carry_out(key, CloseReason::Service, asked);
    }

    /// Calls `Service::sent` if all output is sent and the service wants that call.
    #[inline]
    fn notify_sent<E: Engine>(&mut self, engine: &mut E, key: Key, all_sent: bool) {
        if S::HEARS_SENT && all_sent {
            self.ask(engine, key, CloseReason::Service, S::sent);
        }
    }

    fn peer_closed<E: Engine>(&mut self, engine: &mut E, key: Key) {
        let context = self.context(key);
        context.machine.apply(Event::Ended);
        if context.machine.delivers() {
            context.ended = true;
            self.layer_was_called(engine, key, Ok(0));
        }
    }

    /// Continues with a connection whose layer has been called. `taken` is the number of bytes for
    /// the service, or the reason to close.
    #[cold]
    pub(super) fn layer_was_called<E: Engine>(
        &mut self,
        engine: &mut E,
        key: Key,
        mut taken: Result<usize, CloseReason>,
    ) {
        loop {
            match taken {
                Ok(bytes) => self.pass_on(engine, key, bytes),
                Err(reason) => return self.finish(key, reason),
            }
            let context = self.table.expect_mut(key);
            // A layer can have input and the end at the same time. A service that pauses after the
            // input is told of the end when it continues.
            let waits =
                !L::IS_PLAIN && (context.machine.is_paused() || self.layer.starves(&context.layer));
            if !context.ended || !context.machine.delivers() || waits {
                return;
            }
            taken = self.layer.ended(&mut context.layer, &mut context.input, &self.pool);
            if taken == Ok(0) {
                context.ended = false;
                self.pass_on(engine, key, 0);
                return self.notify_ended(engine, key);
            }
        }
    }

    /// Tells the service that the peer has sent FIN.
    fn notify_ended<E: Engine>(&mut self, engine: &mut E, key: Key) {
        let context = self.context(key);
        match context.opened {
            _ if !context.machine.delivers() => {}
            true => self.ask(engine, key, CloseReason::PeerClosed, S::peer_closed),
            false => self.finish(key, CloseReason::PeerClosed),
        }
    }

    /// Opens the connection if its peer is known now, and calls the service for bytes that the layer
    /// has put into its input.
    fn pass_on<E: Engine>(&mut self, engine: &mut E, key: Key, bytes: usize) {
        let context = self.table.expect_mut(key);
        if !context.opened
            && let Some(peer) = self.layer.peer(&context.layer, context.peer)
        {
            context.peer = peer;
            if !context.count_address() {
                self.warn_of_refusal(peer);
                return self.close_now(key, CloseReason::AddressLimit);
            }
            // `Service::open` must not find input yet.
            let mut came_along = context.input.take();
            self.opened(engine, key);
            let context = self.context(key);
            if context.is_open() {
                context.input.append(&mut came_along);
            }
        }
        if bytes > 0 && self.context(key).is_open() {
            self.give_input(engine, key, bytes);
        }
    }

    /// Whether nothing can be sent because the layer has found no buffer. The connection is then in
    /// the queue for buffers. It is also in the queue of stalled connections, as if a Send were
    /// pending, because the buffers that it holds do not move: it may be shed.
    #[inline(never)]
    fn layer_starves<E: Engine>(&mut self, engine: &mut E, key: Key) -> bool {
        let context = self.table.expect_mut(key);
        let _ = outgoing(&mut self.layer, context, &self.pool);
        if context.ended && !self.layer.starves(&context.layer) {
            // FIN was held back for the layer.
            self.layer_was_called(engine, key, Ok(0));
        }
        let context = self.table.expect_mut(key);
        let starves = context.machine.sends()
            && outgoing(&mut self.layer, context, &self.pool).is_empty()
            && self.layer.starves(&context.layer);
        let sending = context.machine.is_sending();
        if !starves && !sending {
            self.unstall(key);
        }
        if starves && !self.supply.is_stalled(key.slot()) {
            self.stall(engine, key);
        }
        if starves {
            self.enqueue(key);
        }
        starves
    }

    /// Calls a layer again that may have been waiting for a buffer. Returns whether it is still
    /// waiting.
    #[inline(always)]
    pub(super) fn resume_layer<E: Engine>(&mut self, engine: &mut E, key: Key) -> bool {
        if L::IS_PLAIN {
            return false;
        }
        let context = self.table.expect_mut(key);
        if context.machine.delivers() && !context.machine.is_connecting() {
            let (layer, input) = (&mut context.layer, &mut context.input);
            let taken = self.layer.received(layer, input, &mut Chain::new(&self.pool), &self.pool);
            self.layer_was_called(engine, key, taken);
        }
        self.layer_starves(engine, key)
    }

    /// Calls the service and carries out its answer. `reason` is the reason of a close that gives
    /// none.
    #[inline]
    pub(super) fn ask<E: Engine>(
        &mut self,
        engine: &E,
        key: Key,
        reason: CloseReason,
        call: impl FnOnce(&mut S, &mut Connection<'_>, &mut S::Session) -> Answer,
    ) {
        let context = self.table.expect_mut(key);
        let clock = Clock { engine, key, turn: self.now };
        let of_interest = Attention::AFTER_CALL;
        let asked =
            ask(&mut self.service, &self.pool, &self.messenger, context, clock, of_interest, call);
        self.carry_out(key, reason, asked);
    }

    /// Carries out the service's answer.
    #[inline(always)]
    fn carry_out(&mut self, key: Key, reason: CloseReason, asked: Asked) {
        if let Some(answer) = asked.otherwise {
            self.apply_answer(key, reason, answer);
        }
        if asked.needs_attention {
            self.look_after(key, asked.input_before);
        }
    }

    fn apply_answer(&mut self, key: Key, reason: CloseReason, answer: Answer) {
        match answer {
            Answer::Continue => {}
            Answer::WaitUntil(time) => {
                let context = self.table.expect_mut(key);
                context.machine.apply(Event::Pause);
                context.deadline = time;
                match time <= self.now {
                    true => self.yield_turn(key),
                    false => self.schedule_at(key, time),
                }
            }
            Answer::HalfClose => {
                let context = self.table.expect_mut(key);
                context.machine.apply(Event::HalfClose);
                self.layer.finish(&mut context.layer);
            }
            Answer::CloseAfterSend => self.finish(key, reason),
            Answer::Close => self.close_now(key, reason),
            Answer::CloseAfterSendFor(reason) => self.finish(key, reason),
            Answer::CloseFor(reason) => self.close_now(key, reason),
        }
    }
}

/// The bytes to send next.
#[inline(always)]
fn outgoing<'a, Session, L: Layer>(
    layer: &mut L,
    context: &'a mut Context<Session, L::State>,
    pool: &Pool,
) -> &'a mut Chain {
    layer.outgoing(&mut context.layer, &mut context.output, pool)
}

/// Records that bytes were sent. Returns whether `Service::sent` is due because all of the
/// service's output is sent.
#[inline(always)]
fn sent<Session, L: Layer>(
    layer: &mut L,
    context: &mut Context<Session, L::State>,
    counters: &Counters,
    wire_bytes: usize,
    now: Time,
    pool: &Pool,
) -> bool {
    let bytes = layer.sent(&mut context.layer, wire_bytes);
    counters.sends.add(1);
    counters.bytes_sent.add(bytes as u64);
    let all_sent = context.sent(bytes, now);
    if L::IS_PLAIN {
        return all_sent;
    }
    counters.wire_bytes_sent.add(wire_bytes as u64);
    all_sent && bytes > 0 && outgoing(layer, context, pool).is_empty()
}

/// Calls the service for bytes that have been put into its input.
#[inline(always)]
fn give_input<S: Service, LayerState, E: Engine>(
    service: &mut S,
    pool: &Pool,
    messenger: &Messenger,
    counters: &Counters,
    context: &mut Context<S::Session, LayerState>,
    bytes: usize,
    clock: Clock<'_, E>,
) -> Asked {
    context.bytes_received += bytes as u64;
    counters.bytes_received.add(bytes as u64);
    ask(service, pool, messenger, context, clock, Attention::AFTER_BYTES, S::data)
}

/// The result of a call to the service.
struct Asked {
    /// The answer, unless it is to continue.
    otherwise: Option<Answer>,
    /// Whether input is left, or a bit of `Attention` is set that is of interest.
    needs_attention: bool,
    /// Bytes of input before the call.
    input_before: usize,
}

/// Calls the service for a connection. `of_interest` are the bits of `Attention` that matter after it.
#[inline(always)]
fn ask<S: Service, LayerState, E: Engine>(
    service: &mut S,
    pool: &Pool,
    messenger: &Messenger,
    context: &mut Context<S::Session, LayerState>,
    clock: Clock<'_, E>,
    of_interest: u8,
    call: impl FnOnce(&mut S, &mut Connection<'_>, &mut S::Session) -> Answer,
) -> Asked {
    let input_before = context.input.len();
    // After a panic the service's own state is the service's responsibility; the connection is
    // closed. The view is made inside the closure, where fields that the service does not use cost
    // nothing.
    let answer = catch_unwind(AssertUnwindSafe(|| {
        let now = clock.read(service, context.tag);
        let (mut connection, session) = context.for_service(pool, messenger, now, &clock);
        call(service, &mut connection, session)
    }));
    Asked {
        otherwise: match answer {
            Ok(Answer::Continue) => None,
            Ok(other) => Some(other),
            Err(_) => Some(Answer::CloseFor(CloseReason::ServicePanic)),
        },
        needs_attention: !context.input.is_empty() || context.attention.any(of_interest),
        input_before,
    }
}

/// The time for a call to the service, and what the service can ask in it.
struct Clock<'a, E> {
    engine: &'a E,
    key: Key,
    /// The time of the turn.
    turn: Time,
}

impl<E: Engine> Surroundings for Clock<'_, E> {
    fn read_clock(&self) -> Time {
        self.engine.now()
    }

    fn tcp_info(&self) -> Option<TcpInfo> {
        self.engine.tcp_info(self.key)
    }
}

impl<E: Engine> Clock<'_, E> {
    /// The time of the turn, unless the service wants a fresh one.
    #[inline]
    fn read<S: Service>(&self, service: &S, tag: u64) -> Time {
        if service.fresh_clock(tag) { self.engine.now() } else { self.turn }
    }
}

/// How many buffers the next receive of a connection may fill: more after a receive that filled all
/// of them, fewer after one that needed at most a quarter, and one when buffers are scarce.
#[inline]
fn leases_wanted(wanted: u8, most: u8, bytes: usize, pool: &Pool) -> u8 {
    let room = usize::from(wanted) * pool.buffer_size();
    let next = if bytes == room {
        wanted.saturating_mul(2).min(most)
    } else if bytes <= room / 4 {
        (wanted / 2).max(1)
    } else {
        wanted
    };
    if next > 1 && !pool.is_plentiful() { 1 } else { next }
}
