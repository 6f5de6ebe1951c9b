//! The clients at the other end of the simulated connections: how they send, whether they read, and
//! how they leave. `protocol` defines what they send, `reader` checks what they receive.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::marks::Mark;
use super::member::Member;
use super::protocol::{Flaw, Script, Served};
use super::reader::Reader;
use super::wire::{Framing, Header, Proxy, Records, Wire, header, proxy, records};
use super::world::{EndpointId, ServerEnd, Unseen, World, WorldEvent, address_of};
use crate::base::time::Time;
use crate::builtin::url::After;
use crate::error::Errno;

/// How a peer behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Manner {
    /// Sends and reads as much as it can.
    Fast,
    /// One byte at a time, each way.
    OneByte,
    /// Long pauses.
    Slow,
    /// Sends everything before it reads, as far as the socket's buffer has room.
    Pipelined,
    /// Closes its side after the last byte, and reads to the end.
    HalfClosing,
    /// Sends some bytes as urgent data.
    Urgent,
    /// Resets the connection at some point.
    Resetting,
    /// Sends and never reads, until it gives up.
    NeverReading,
    /// Connects and sends nothing.
    Silent,
}

impl Manner {
    pub(super) const ALL: [Manner; 9] = [
        Manner::Fast,
        Manner::OneByte,
        Manner::Slow,
        Manner::Pipelined,
        Manner::HalfClosing,
        Manner::Urgent,
        Manner::Resetting,
        Manner::NeverReading,
        Manner::Silent,
    ];

    fn done(self) -> Mark {
        match self {
            Manner::Fast => Mark::FastDone,
            Manner::OneByte => Mark::OneByteDone,
            Manner::Slow => Mark::SlowDone,
            Manner::Pipelined => Mark::PipelinedDone,
            Manner::HalfClosing => Mark::HalfClosedDone,
            Manner::Urgent => Mark::UrgentDone,
            Manner::Resetting => Mark::PeerReset,
            Manner::NeverReading => Mark::NeverReadGaveUp,
            Manner::Silent => Mark::SilentDone,
        }
    }

    /// Whether it waits for its whole reply.
    fn is_honest(self) -> bool {
        !matches!(self, Manner::Resetting | Manner::NeverReading | Manner::Silent)
    }
}

/// How a peer's connection ended, as the peer saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PeerEnd {
    /// The other side closed with FIN.
    Fin,
    /// It was reset.
    Reset,
    /// It was refused.
    Refused,
    /// The peer left by its own choice.
    Left,
}

/// A simulated client.
pub(super) struct Peer {
    pub(super) number: usize,
    pub(super) manner: Manner,
    endpoint: EndpointId,
    pub(super) script: Rc<RefCell<Script>>,
    pub(super) sent: u64,
    pub(super) reader: Reader,
    /// Present if the server is a hub.
    pub(super) member: Option<Member>,
    /// Present if its listener has a byte layer.
    wire: Option<Wire>,
    /// The number of its listener.
    listener: usize,
    /// Number of bytes received, including external messages.
    heard: u64,
    /// It has nothing more to send.
    shut: bool,
    said_fin: bool,
    /// It stays connected for a while after it has received everything.
    stays: bool,
    pub(super) end: Option<PeerEnd>,
    begun: bool,
    gave_up: bool,
    /// When a byte last moved, either way, be it the service's or a layer's.
    moved_at: Time,
    /// It gave up because no byte had moved for [`STUCK_AFTER`].
    stuck: bool,
    /// Consecutive turns in which no byte moved. The pause between turns grows with them.
    idle_turns: u32,
    /// A rude peer leaves at this time. An honest peer with `stays` does not leave before it.
    leaves_at: Time,
}

/// Longest time that a rude peer stays.
const RUDE_FOR: Duration = Duration::from_secs(8);

/// Shortest time that a member stays to receive everything that others send.
const AUDIENCE_FOR: Duration = Duration::from_secs(17);

/// After the faults end, a byte moves again within this time on any healthy connection.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(20);

impl Peer {
    /// `pool` is how many bytes all buffers of the server hold.
    pub(super) fn new(
        world: &mut World,
        number: usize,
        manner: Manner,
        mut script: Script,
        pool: usize,
    ) -> Peer {
        let mut stays = world.rng.u8(0..3) == 0;
        let mut stay = Duration::from_nanos(world.rng.u64(0..RUDE_FOR.as_nanos() as u64));
        let mut member = None;
        if let Served::Hub(hub) = script.served() {
            let wishes = if manner == Manner::Silent { 0 } else { world.rng.usize(0..=12) };
            member = Some(Member::new(hub, number, wishes));
            if manner == Manner::HalfClosing && world.rng.u8(0..4) != 0 {
                // Stays to receive what all others have sent.
                stays = true;
                stay = AUDIENCE_FOR + stay / 2;
            }
        }
        let farewell = manner == Manner::HalfClosing;
        let listener = match world.framings.len() {
            0 | 1 => 0,
            several => world.rng.usize(0..several),
        };
        let wire = match world.framings.get(listener) {
            None | Some(Framing::Plain) => None,
            Some(Framing::Header) => {
                Some(Wire::Header(Header::draw(&mut world.rng, number, farewell)))
            }
            Some(&Framing::Proxy { required }) => {
                let of_script = (script.takes_any_bytes(), manner == Manner::Silent);
                let rng = &mut world.rng;
                let mut proxy = Proxy::draw(rng, number, required, of_script, pool);
                script.begin_with(&proxy.take_payload());
                proxy.undecided_max = script.undecided_max();
                Some(Wire::Proxy(proxy))
            }
            Some(Framing::Records) => {
                let silent = manner == Manner::Silent;
                Some(Wire::Records(Records::draw(&mut world.rng, silent)))
            }
        };
        Peer {
            number,
            manner,
            endpoint: usize::MAX,
            script: Rc::new(RefCell::new(script)),
            sent: 0,
            reader: Reader::default(),
            member,
            wire,
            listener,
            heard: 0,
            shut: false,
            said_fin: false,
            stays,
            end: None,
            begun: false,
            gave_up: false,
            moved_at: world.now,
            stuck: false,
            idle_turns: 0,
            leaves_at: world.now + stay,
        }
    }

    /// Whether it received everything that it waited for.
    pub(super) fn is_satisfied(&self) -> bool {
        !self.manner.is_honest() || self.has_all()
    }

    fn has_all(&self) -> bool {
        if !self.is_introduced() {
            return false;
        }
        let script = self.script.borrow();
        let owed = match script.served() {
            // The service ignores what it sends. It waits for the same number of bytes.
            Served::Chargen => script.said.len(),
            _ => script.owed(script.said.len(), self.shut),
        };
        if self.member.is_some() {
            return self.has_sent_all();
        }
        // The server may close before it reads bytes behind the last one that it replies to.
        let all_sent = self.sent as usize == script.said.len()
            || script.closes.is_some()
            || script.served() == Served::Chargen;
        all_sent && self.reader.reply >= owed
    }

    /// Whether it reads to the end of the stream.
    pub(super) fn reads_to_the_end(&self) -> bool {
        self.manner.is_honest()
    }

    /// Length of the reply in bytes once the server has received `said` bytes.
    pub(super) fn owed(&self, said: u64) -> usize {
        self.script.borrow().owed(said as usize, self.shut && said == self.sent)
    }

    /// Length of the reply in bytes to what the service has received. `ended`: whether it has been
    /// told that the peer closed its side.
    pub(super) fn owed_for(&self, delivered: u64, ended: bool) -> usize {
        self.script.borrow().owed(delivered as usize, ended)
    }

    /// What the server had not seen when it sent FIN, and when it closed the connection.
    pub(super) fn unseen(&self, world: &World) -> (Option<Unseen>, Unseen) {
        world.unseen_by_other(self.endpoint)
    }

    /// Whether the server has neither sent FIN nor had a system call fail.
    pub(super) fn gets_no_fin(&self, world: &World) -> bool {
        self.begun && world.other_sends_no_fin(self.endpoint)
    }

    /// Whether it gave up.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// Gives up, unless it has left.
    pub(super) fn give_up(&mut self, world: &mut World) {
        if self.end.is_none() {
            self.gave_up = true;
            self.stuck = self.manner.is_honest() && self.moved_at + STUCK_AFTER < world.now;
            if self.begun {
                world.close(self.endpoint);
            }
            self.ends(world, PeerEnd::Left);
        }
    }

    /// Whether it has sent or received a byte since `time`.
    pub(super) fn moved_since(&self, time: Time) -> bool {
        self.moved_at >= time
    }

    /// Whether no byte had moved for [`STUCK_AFTER`] when it gave up.
    pub(super) fn was_stuck(&self) -> bool {
        self.stuck
    }

    fn pause(&self, world: &mut World) -> Duration {
        let most: u64 = match self.manner {
            Manner::Slow => 200_000,
            Manner::OneByte => 500,
            _ => 3_000,
        };
        let most = most.max(most.saturating_mul(1 << self.idle_turns.min(20)).min(100_000));
        Duration::from_micros(world.rng.u64(1..=most))
    }

    /// One turn of the peer. Schedules its next turn.
    ///
    /// # Panics
    /// If it receives a byte that it must not receive.
    pub(super) fn act(&mut self, world: &mut World) {
        if self.end.is_some() {
            return;
        }
        if !self.begun {
            self.begun = true;
            let own = || address_of(self.number);
            let from = self.wire.as_ref().map_or_else(own, |wire| wire.address(self.number));
            self.endpoint = world.connect_to(self.listener, from, false);
            if let Some(proxy) = self.proxy() {
                proxy.introduction.endpoint.set(self.endpoint);
            }
            let (number, manner) = (self.number, self.manner);
            let total = self.script.borrow().said.len() as u64;
            world.trace(30, number, total, || {
                format!("peer {number} ({manner:?}) connects, to send {total} bytes")
            });
        }
        match world.connect_outcome(self.endpoint) {
            None => self.idle_turns += 1,
            Some(Err(_)) => return self.ends(world, PeerEnd::Refused),
            Some(Ok(())) => {
                let before = (self.sent, self.heard);
                self.exchange(world);
                let moved = before != (self.sent, self.heard);
                if moved {
                    self.moved_at = world.now;
                }
                self.idle_turns = if moved { 0 } else { self.idle_turns + 1 };
            }
        }
        if self.end.is_none() {
            let pause = self.pause(world);
            world.at(world.now + pause, WorldEvent::Peer(self.number));
        }
    }

    fn exchange(&mut self, world: &mut World) {
        if self.reads(world) {
            self.read(world);
        }
        if self.end.is_none() && !self.shut {
            self.write(world);
        }
        if self.end.is_none() {
            self.leave_if_done(world);
        }
    }

    fn reads(&self, world: &mut World) -> bool {
        // The stream of chargen never ends, so it stops reading once it has enough.
        if self.has_all() && self.script.borrow().served() == Served::Chargen {
            return false;
        }
        match self.manner {
            Manner::NeverReading => false,
            Manner::Pipelined => self.has_sent_all() || world.rng.u8(0..8) == 0,
            _ => true,
        }
    }

    fn read(&mut self, world: &mut World) {
        let most = match self.manner {
            Manner::OneByte => 1,
            _ => world.rng.usize(1..=4096),
        };
        match world.recv(self.endpoint, most) {
            Ok(bytes) if bytes.is_empty() => self.fin_came(world),
            Ok(bytes) => {
                self.heard += bytes.len() as u64;
                let of_service = match &mut self.wire {
                    Some(Wire::Header(header)) => header.hear(world, &bytes),
                    Some(Wire::Records(records)) => records.hear(&bytes),
                    None | Some(Wire::Proxy(_)) => Ok(bytes),
                };
                match of_service {
                    Ok(of_service) => self.hear(&of_service),
                    Err(wrong) => panic!("peer {}: {wrong}", self.number),
                }
            }
            Err(Errno::AGAIN) => {}
            Err(_) => self.ends(world, PeerEnd::Reset),
        }
    }

    /// Checks bytes that the service sent.
    fn hear(&mut self, bytes: &[u8]) {
        let script = self.script.borrow();
        let heard = match &mut self.member {
            Some(member) => member.hear(bytes),
            None => self.reader.hear(&script, bytes),
        };
        if let Err(wrong) = heard {
            panic!("peer {}: {wrong}", self.number);
        }
        let owed = script.owed(self.sent as usize, self.shut);
        assert!(
            self.reader.reply <= owed || script.served() == Served::Chargen,
            "peer {}: the reply is too long",
            self.number
        );
    }

    fn fin_came(&mut self, world: &mut World) {
        if let Some(Wire::Header(header)) = &mut self.wire {
            let of_service = header.fin_came(world);
            self.hear(&of_service);
        }
        self.ends(world, PeerEnd::Fin);
        world.close(self.endpoint);
    }

    /// Lets a member add requests to its script.
    fn speak(&mut self, world: &mut World) {
        let Some(member) = &mut self.member else { return };
        let mut script = self.script.borrow_mut();
        let script = &mut *script;
        let said_all = self.sent as usize == script.said.len();
        if !said_all || member.wishes == 0 || world.rng.u8(0..3) != 0 {
            return;
        }
        for _ in 0..world.rng.usize(1..=3).min(member.wishes) {
            let asked = member.ask(&mut world.rng, &mut script.said);
            script.asked.push((script.said.len(), asked));
        }
        let begin = script.said.len();
        match world.rng.u8(0..16) {
            _ if member.wishes > 0 => {}
            0 => {
                let reason = member.misspeak(&mut world.rng, &mut script.said);
                script.closes = Some((begin + 4, reason));
            }
            1 => {
                member.wishes = 1;
                member.ask(&mut world.rng, &mut script.said);
                script.said.truncate(world.rng.usize(begin + 1..script.said.len()));
                script.flaw = Some(Flaw::Half);
            }
            _ => {}
        }
    }

    /// Whether the service must never see it.
    pub(super) fn is_refused(&self) -> bool {
        self.wire.as_ref().is_some_and(Wire::is_refused)
    }

    /// The header of the PROXY protocol that it sends, or should.
    pub(super) fn proxy(&self) -> Option<&Proxy> {
        match &self.wire {
            Some(Wire::Proxy(proxy)) => Some(proxy),
            _ => None,
        }
    }

    /// Its records, if the server has the stand-in for TLS.
    pub(super) fn records(&self) -> Option<&Records> {
        match &self.wire {
            Some(Wire::Records(records)) => Some(records),
            _ => None,
        }
    }

    /// Whether it has ended its stream of records, and not the connection.
    pub(super) fn has_shut_without_fin(&self) -> bool {
        self.shut && !self.said_fin
    }

    /// The life of the server's end of its connection, if it has one.
    pub(super) fn server_end(&self, world: &World) -> Option<ServerEnd> {
        self.begun.then(|| world.server_end(self.endpoint))
    }

    /// Whether it has sent what it says before the service's bytes.
    fn is_introduced(&self) -> bool {
        self.wire.as_ref().is_none_or(Wire::is_introduced)
    }

    /// Sends the layer's header piece by piece. Returns whether the header is complete.
    fn introduces_itself(&mut self, world: &mut World) -> bool {
        let Some(Wire::Header(wire)) = &mut self.wire else { return true };
        let rest = wire.header_rest();
        if rest.is_empty() {
            if wire.flaw == Some(header::Flaw::Half) {
                self.sends_fin(world);
                return false;
            }
            return true;
        }
        if self.manner == Manner::Silent {
            return false;
        }
        let part = &rest[..world.rng.usize(1..=rest.len())];
        match world.send(self.endpoint, part, false) {
            Ok(count) => {
                wire.header_sent(count);
                self.moved_at = world.now;
            }
            Err(Errno::AGAIN) => {}
            Err(_) => self.ends(world, PeerEnd::Reset),
        }
        false
    }

    /// Sends a part of the header of the PROXY protocol. Returns the part that is to be sent with
    /// bytes of the service, or `None` if these have to wait.
    fn says_header(&mut self, world: &mut World) -> Option<Vec<u8>> {
        let Some(Wire::Proxy(proxy)) = &mut self.wire else { return Some(Vec::new()) };
        if self.manner == Manner::Silent {
            return None;
        }
        let part = match proxy.next(&mut world.rng, world.now) {
            proxy::Next::Over => return Some(Vec::new()),
            proxy::Next::Wait => return None,
            proxy::Next::End => {
                self.sends_fin(world);
                return None;
            }
            proxy::Next::Say { part, ends } if ends && world.rng.bool() => {
                return Some(part.to_vec());
            }
            proxy::Next::Say { part, .. } => part.to_vec(),
        };
        match world.send(self.endpoint, &part, false) {
            Ok(count) => {
                proxy.has_said(count);
                self.moved_at = world.now;
            }
            Err(Errno::AGAIN) => {}
            Err(_) => self.ends(world, PeerEnd::Reset),
        }
        None
    }

    fn sends_fin(&mut self, world: &mut World) {
        (self.shut, self.said_fin) = (true, true);
        let _ = world.shutdown(self.endpoint);
    }

    /// The next bytes of the service, at most as many as its manner allows.
    fn next_bytes(&self, world: &mut World) -> Vec<u8> {
        let script = self.script.borrow();
        let rest = &script.said[self.sent as usize..];
        let most = match self.manner {
            Manner::OneByte => 1,
            _ => world.rng.usize(1..=512),
        };
        rest[..rest.len().min(most)].to_vec()
    }

    /// Sends records, or a part of one.
    fn write_records(&mut self, world: &mut World) {
        if self.manner == Manner::Silent {
            return;
        }
        let all_said = self.has_said_all();
        let Some(Wire::Records(records)) = &mut self.wire else { return };
        match records.next(&mut world.rng, all_said) {
            records::Next::Wait => return,
            records::Next::End => return self.sends_fin(world),
            records::Next::Send => {}
            records::Next::Speak => {
                self.speak(world);
                let bytes = self.next_bytes(world);
                if bytes.is_empty() {
                    return;
                }
                if let Some(Wire::Records(records)) = &mut self.wire {
                    records.speak(&bytes);
                }
            }
        }
        let most = if self.manner == Manner::OneByte { 1 } else { world.rng.usize(1..=700) };
        let Some(Wire::Records(records)) = &mut self.wire else { return };
        match world.send(self.endpoint, &records.part(most), false) {
            Ok(count) => {
                self.sent += records.has_sent(count);
                self.moved_at = world.now;
            }
            Err(Errno::AGAIN) => {}
            Err(_) => return self.ends(world, PeerEnd::Reset),
        }
        if records.ends_within_a_record() {
            self.sends_fin(world);
        }
    }

    fn write(&mut self, world: &mut World) {
        if self.records().is_some() {
            return self.write_records(world);
        }
        if !self.introduces_itself(world) {
            return;
        }
        let Some(before) = self.says_header(world) else { return };
        self.speak(world);
        let script = self.script.borrow();
        let rest = &script.said[self.sent as usize..];
        let most = match self.manner {
            Manner::OneByte => 1,
            Manner::Silent => 0,
            _ => world.rng.usize(1..=512),
        };
        let bytes = &rest[..rest.len().min(most)];
        if bytes.is_empty() && before.is_empty() {
            return;
        }
        let urgent = self.manner == Manner::Urgent && world.rng.bool();
        let sent = match &self.wire {
            Some(Wire::Header(header)) => world.send(self.endpoint, &header.sealed(bytes), urgent),
            _ => world.send(self.endpoint, &[&before, bytes].concat(), urgent),
        };
        drop(script);
        match sent {
            Ok(count) => {
                let of_header = count.min(before.len());
                if let Some(Wire::Proxy(proxy)) = &mut self.wire {
                    proxy.has_said(of_header);
                    proxy.together |= of_header > 0 && count > of_header;
                }
                self.sent += (count - of_header) as u64;
            }
            Err(Errno::AGAIN) => {}
            Err(_) => self.ends(world, PeerEnd::Reset),
        }
    }

    fn has_sent_all(&self) -> bool {
        self.is_introduced() && self.has_said_all()
    }

    fn has_said_all(&self) -> bool {
        let said_all = self.member.as_ref().is_none_or(|member| member.wishes == 0);
        said_all && self.sent as usize == self.script.borrow().said.len()
    }

    /// Whether it may leave now. Some peers stay to receive external messages, or after half a
    /// message.
    fn may_leave(&self, world: &World) -> bool {
        !self.stays || world.now >= self.leaves_at
    }

    /// Whether the server must close the connection.
    fn awaits_end(&self) -> bool {
        self.script.borrow().closes.is_some()
    }

    fn leave_if_done(&mut self, world: &mut World) {
        let endless = self.script.borrow().served() == Served::Chargen;
        match self.manner {
            // The server never closes.
            Manner::HalfClosing if endless && self.has_all() => self.leave(world),
            Manner::HalfClosing if self.has_sent_all() && !self.shut && self.may_leave(world) => {
                self.half_close(world);
            }
            // Waits for the FIN.
            Manner::HalfClosing => {}
            Manner::Resetting if self.has_sent_all() || world.rng.u8(0..16) == 0 => {
                let half = self.script.borrow().flaw == Some(Flaw::Half);
                if half && self.has_sent_all() {
                    world.mark(Mark::HalfThenReset);
                }
                world.abort(self.endpoint);
                self.ends(world, PeerEnd::Left);
            }
            Manner::Resetting => {}
            Manner::NeverReading | Manner::Silent if world.now >= self.leaves_at => {
                self.leave(world);
            }
            Manner::NeverReading | Manner::Silent => {}
            _ if self.has_all() && !self.awaits_end() && self.may_leave(world) => self.leave(world),
            _ => {}
        }
    }

    fn half_close(&mut self, world: &mut World) {
        if !self.has_closed_records() {
            return;
        }
        // close_notify is enough; FIN may follow.
        self.shut = true;
        if self.records().is_none() || world.rng.bool() {
            self.sends_fin(world);
        }
    }

    /// Ends its stream of records, if it has one. Returns whether that is done.
    fn has_closed_records(&mut self) -> bool {
        let Some(Wire::Records(records)) = &mut self.wire else { return true };
        if records.can_close() {
            records.close();
        }
        records.is_all_sent()
    }

    fn leave(&mut self, world: &mut World) {
        // A server whose output never ends may not read the end of its peer's records.
        let endless = self.script.borrow().served() == Served::Chargen;
        let is_polite = self.manner.is_honest() && self.number.is_multiple_of(2) && !endless;
        if is_polite && !self.has_closed_records() {
            return;
        }
        world.close(self.endpoint);
        self.ends(world, PeerEnd::Left);
    }

    fn ends(&mut self, world: &mut World, end: PeerEnd) {
        self.end = Some(end);
        // A layer that has sent an alert drops the rest of what the service has sent.
        let alerted = self.records().is_some_and(|records| records.heard_alert);
        let whole = end == PeerEnd::Fin && !alerted;
        let heard = match &self.member {
            Some(member) => member.end(whole),
            None => self.reader.end(&self.script.borrow(), whole),
        };
        let (number, sent, received) = (self.number, self.sent, self.reader.reply as u64);
        world.trace(31, number, received, || {
            format!("peer {number} ends: {end:?}, sent {sent}, received {received}")
        });
        if let Err(wrong) = heard {
            panic!("peer {number}: {wrong}");
        }
        if self.is_satisfied() && end != PeerEnd::Refused {
            world.mark(self.manner.done());
        }
        if self.manner.is_honest() && self.has_all() && end != PeerEnd::Refused {
            self.mark_done(world);
        }
    }

    fn mark_done(&self, world: &mut World) {
        let script = self.script.borrow();
        match script.served() {
            Served::Echo => {}
            Served::Discard => world.mark(Mark::DiscardDone),
            Served::Chargen if self.reader.reply > 0 => world.mark(Mark::ChargenDone),
            Served::Chargen => {}
            Served::Framed(_) => world.mark(Mark::FramedDone),
            Served::Message(options) if options.after == After::Close => {
                world.mark(Mark::MessageClosed);
            }
            Served::Message(_) => world.mark(Mark::MessageDone),
            Served::Hub(_) => world.mark(Mark::MemberDone),
        }
        match script.flaw {
            Some(Flaw::Half) if self.shut => world.mark(Mark::HalfThenFin),
            Some(Flaw::Half) => world.mark(Mark::HalfThenSilence),
            _ => {}
        }
    }
}
