//! What the system calls of a thread do in the world, and what is checked at each: a receive offers
//! all its room, and what is sent are exactly the replies that are expected, in their order.

use std::mem::{offset_of, size_of};
use std::net::IpAddr;
use std::time::Duration;

use super::draw::Serves;
use super::model::{Counts, Turn};
use super::socket::{Incoming, Message, Outgoing, Room};
use super::world::{Datagram, Order, World};
use crate::error::Errno;
use crate::shared::counters::Counters;
use crate::sim::marks::Mark;

/// The most datagrams of a batch (`docs/transports.md`).
const BATCH_MAX: usize = 64;

/// A datagram is received at most this long after it came into a socket, unless the machine stood
/// still: the pauses of a thread after errors, several in a row.
const PATIENCE: Duration = Duration::from_secs(1);

/// A thread whose receive failed pauses at least this long, so that it does not spin.
const PAUSE_MIN: Duration = Duration::from_millis(1);

impl World {
    /// A thread calls receive. Returns an order that its process gets while the thread waits.
    pub(super) fn enters_receive(
        &mut self,
        thread: usize,
        rooms: &[Room],
        waits: bool,
    ) -> Option<Order> {
        let state = &mut self.threads[thread];
        state.turn.receives += 1;
        let allowed = 1 + state.turn.interrupted;
        assert!(state.turn.receives <= allowed, "two receives in a turn");
        assert!(waits != self.draw.busy_poll, "a thread waits, or polls, as the other one does");
        assert!(rooms.len() <= BATCH_MAX && !rooms.is_empty());
        if state.model.rooms.is_empty() {
            state.model.rooms = rooms.to_vec();
            let mut buffers: Vec<usize> = rooms.iter().map(|room| room.0).collect();
            buffers.sort_unstable();
            let is_apart = |pair: &[usize]| pair[1] - pair[0] >= self.draw.longest;
            assert!(buffers.windows(2).all(is_apart), "two datagrams share a buffer");
            assert!(rooms.iter().all(|room| room.1 == self.draw.longest));
        }
        assert_eq!(state.model.rooms, rooms, "a buffer, or a part of its room, is missing");
        let process = state.process;
        let order = self.order_in_receive.take_if(|order| order.process == process);
        if order.is_some() {
            self.mark(match self.processes[process].leaves {
                true => Mark::DatagramLeftInReceive,
                false => Mark::DatagramStoppedInReceive,
            });
        }
        order
    }

    /// Receives at most `most` datagrams.
    pub(super) fn receive(
        &mut self,
        thread: usize,
        most: usize,
        waits: bool,
    ) -> Result<Vec<Incoming>, Errno> {
        let rates = self.draw.rates;
        let state = &self.threads[thread];
        let (number, process) = (state.socket, &self.processes[state.process]);
        let (is_told, leaves) = (process.is_told, process.leaves);
        let waiting = self.sockets[number].queue.len();
        if self.chance(rates.receive_interrupted) || waiting == 0 && waits && is_told && leaves {
            self.mark(Mark::DatagramReceiveInterrupted);
            self.threads[thread].turn.interrupted += 1;
            self.event(5, thread, 0, || format!("receive {thread}: EINTR"));
            return Err(Errno::INTR);
        }
        if waiting > 0 && self.chance(rates.receive_error) {
            let errors = [Errno::NOMEM, Errno::NOBUFS, Errno::CONNREFUSED, Errno::NETDOWN];
            let error = *self.rng.choice(&errors).expect("some");
            self.mark(Mark::DatagramReceiveError);
            self.threads[thread].turn.has_failed = true;
            self.event(5, thread, 1, || format!("receive {thread}: {error:?}"));
            return Err(error);
        }
        if waiting > 0 {
            let count = match self.chance(rates.partial_receive) {
                true => self.rng.usize(1..=waiting.min(most)),
                false => waiting.min(most),
            };
            return Ok(self.takes(thread, count, is_told && !leaves));
        }
        if self.sockets[number].is_shut {
            // Each receive of a socket that is shut down returns nothing, from nobody.
            self.event(5, thread, 2, || format!("receive {thread}: it is shut down"));
            let by_own = is_told && !leaves;
            self.mark(if by_own { Mark::DatagramShutDown } else { Mark::DatagramShutByOther });
            self.threads[thread].turn.has_failed = !by_own;
            return Ok(vec![Incoming::default(); self.rng.usize(1..=most)]);
        }
        assert!(!waits, "a thread waits for ever");
        self.mark(Mark::DatagramNothing);
        Err(Errno::AGAIN)
    }

    /// A thread receives so many datagrams. Nobody serves them if its process was stopped meanwhile.
    fn takes(&mut self, thread: usize, count: usize, is_stopped: bool) -> Vec<Incoming> {
        let socket = self.threads[thread].socket;
        let batch: Vec<Datagram> = self.sockets[socket].queue.drain(..count).collect();
        let left = self.sockets[socket].queue.len();
        self.event(5, thread, count as u64, || format!("receive {thread}: {count}, {left} left"));
        self.mark(match count {
            BATCH_MAX => Mark::DatagramBatchFull,
            1 => Mark::DatagramBatchOfOne,
            _ => Mark::DatagramBatch,
        });
        for datagram in &batch {
            let waited = self.now - datagram.at.max(self.resumed_at);
            assert!(waited <= PATIENCE, "a datagram has waited for {waited:?}");
        }
        let mut incoming: Vec<Incoming> = batch.iter().map(|one| self.incoming(one)).collect();
        if left == 0 && self.sockets[socket].is_shut {
            let most = BATCH_MAX - count;
            incoming.resize(count + self.rng.usize(0..=most), Incoming::default());
        }
        if is_stopped {
            self.unread += count as u64;
        } else {
            self.received += count as u64;
            self.threads[thread].model.counts.receives += 1;
            self.threads[thread].turn.batch = batch;
        }
        incoming
    }

    /// A datagram with the control messages of Linux, in its order.
    fn incoming(&self, datagram: &Datagram) -> Incoming {
        let mut control = Vec::new();
        if let Some(ns) = datagram.unix_ns {
            let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
            let time = [seconds.to_ne_bytes(), nanos.to_ne_bytes()].concat();
            control.push((libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, time));
        }
        if datagram.dropped != 0 {
            let dropped = datagram.dropped.to_ne_bytes().to_vec();
            control.push((libc::SOL_SOCKET, libc::SO_RXQ_OVFL, dropped));
        }
        let destination = datagram.group.unwrap_or(datagram.local);
        // A socket of IPv6 tells of IPv4 in both forms.
        if datagram.source.is_ipv6() {
            let ip = match destination {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let mut info = vec![0; size_of::<libc::in6_pktinfo>()];
            info[..16].copy_from_slice(&ip.octets());
            info[16] = 2;
            control.push((libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info));
        }
        let mut limit = (libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT);
        if let (IpAddr::V4(local), IpAddr::V4(destination)) = (datagram.local, destination) {
            let mut info = vec![0; size_of::<libc::in_pktinfo>()];
            info[0] = 2;
            let mut put = |at: usize, ip: [u8; 4]| info[at..at + 4].copy_from_slice(&ip);
            put(offset_of!(libc::in_pktinfo, ipi_spec_dst), local.octets());
            put(offset_of!(libc::in_pktinfo, ipi_addr), destination.octets());
            control.push((libc::IPPROTO_IP, libc::IP_PKTINFO, info));
            limit = (libc::IPPROTO_IP, libc::IP_TTL);
        }
        if let (Serves::Stamp { .. }, Some(hops)) = (self.draw.serves, datagram.hop_limit) {
            control.push((limit.0, limit.1, i32::from(hops).to_ne_bytes().to_vec()));
        }
        let source = datagram.has_name.then_some(datagram.source);
        Incoming { source, bytes: datagram.bytes.clone(), control }
    }

    /// A thread calls send. Returns an order that its process gets before.
    pub(super) fn enters_send(&mut self, thread: usize) -> Option<Order> {
        let process = self.threads[thread].process;
        let order = self.order_in_send.take_if(|order| order.process == process);
        if order.is_some() {
            self.mark(Mark::DatagramToldInSend);
        }
        order
    }

    /// Sends replies. Returns how many the kernel takes.
    pub(super) fn send(&mut self, thread: usize, messages: Vec<Message>) -> Result<usize, Errno> {
        self.expect_replies(thread);
        let rates = self.draw.rates;
        let sizes: Vec<usize> = messages.iter().map(|one| one.datagrams.len()).collect();
        messages.iter().for_each(|message| self.assert_whole(message));
        let sent: Vec<&Outgoing> = messages.iter().flat_map(|one| &one.datagrams).collect();
        let turn = &mut self.threads[thread].turn;
        turn.sends += 1;
        let replies = turn.replies.as_ref().expect("set above");
        let most = replies.len() as u32 + turn.sends_interrupted + turn.split;
        assert!(turn.sends <= most, "more sends than replies");
        let expected = &replies[turn.done..];
        for (sent, expected) in sent.iter().zip(expected) {
            assert!(
                expected.is(sent),
                "{} is sent, and not {}",
                text(sent),
                text(&expected.datagram)
            );
        }
        assert_eq!(sent.len(), expected.len(), "replies of a batch that are to be sent");
        assert_eq!(turn.messages, sizes, "replies of each message");
        if self.chance(rates.send_interrupted) {
            self.mark(Mark::DatagramSendInterrupted);
            self.threads[thread].turn.sends_interrupted += 1;
            return Err(Errno::INTR);
        }
        if self.chance(rates.send_full) {
            self.mark(Mark::DatagramSendFull);
            let state = &mut self.threads[thread];
            state.model.counts.unsent += sent.len() as u64;
            state.turn.done += sent.len();
            state.turn.messages.clear();
            return Err(Errno::AGAIN);
        }
        if let Some(error) = self.refuses_as_one(&messages[0]) {
            return Err(self.split(thread, error));
        }
        if self.chance(rates.send_error) {
            return Err(self.refuses(thread));
        }
        let most = match self.chance(rates.partial_send) {
            true => self.rng.usize(1..=messages.len()),
            false => messages.len(),
        };
        // It stops before a message that it will refuse.
        let refused = messages[1..most].iter().position(|one| self.is_too_long(one));
        let taken = refused.map_or(most, |before| before + 1);
        if taken < messages.len() {
            self.mark(Mark::DatagramPartialSend);
        }
        let messages = &messages[..taken];
        messages.iter().for_each(|message| self.mark_joined(message));
        let count: usize = sizes[..taken].iter().sum();
        let bytes: u64 = sent[..count].iter().map(|one| one.bytes.len() as u64).sum();
        self.event(6, thread, bytes, || {
            format!("send {thread}: {count} of {} in {taken}, {bytes} bytes", sent.len())
        });
        let state = &mut self.threads[thread];
        let counts = &mut state.model.counts;
        counts.sends += 1;
        counts.sent += count as u64;
        counts.bytes_sent += bytes;
        state.turn.done += count;
        state.turn.joined += sizes[..taken].iter().filter(|size| **size > 1).count();
        state.turn.messages.drain(..taken);
        Ok(taken)
    }

    /// What the kernel requires of a message.
    fn assert_whole(&self, message: &Message) {
        let Some(segment) = message.segment else { return };
        assert!(self.draw.knows_segments, "this system sends it as one long datagram");
        let lengths = || message.datagrams.iter().map(|one| one.bytes.len());
        assert!(
            segment > 0 && (2..=64).contains(&message.datagrams.len()),
            "{}",
            lengths().count()
        );
        assert!(lengths().sum::<usize>() <= 65_507, "more than a packet has room for");
    }

    /// Whether a segment is longer than the path allows.
    fn is_too_long(&self, message: &Message) -> bool {
        message.segment.is_some_and(|length| self.draw.mtu.is_some_and(|mtu| length > mtu))
    }

    /// Why the kernel refuses a message of several replies as a whole, if it does.
    fn refuses_as_one(&mut self, message: &Message) -> Option<(Errno, Mark)> {
        let too_long = (Errno::from_raw_os_error(libc::EMSGSIZE), Mark::DatagramSegmentTooLong);
        if self.is_too_long(message) {
            return Some(too_long);
        }
        if message.segment.is_none() || !self.chance(self.draw.rates.segments_refused) {
            return None;
        }
        let errors = [
            too_long,
            (Errno::IO, Mark::DatagramSegmentsIo),
            (Errno::INVAL, Mark::DatagramSegmentsInval),
            (Errno::NOBUFS, Mark::DatagramSegmentsNobufs),
            (Errno::NOMEM, Mark::DatagramSegmentsNomem),
        ];
        self.rng.choice(errors)
    }

    /// The kernel refuses a message of several replies, which leave one by one then.
    fn split(&mut self, thread: usize, (error, mark): (Errno, Mark)) -> Errno {
        self.mark(mark);
        self.event(6, thread, 1, || format!("send {thread}: {error:?} for a message"));
        let turn = &mut self.threads[thread].turn;
        turn.split += 1;
        let count = turn.messages.pop_front().expect("it is to be sent");
        (0..count).for_each(|_| turn.messages.push_front(1));
        error
    }

    fn mark_joined(&mut self, message: &Message) {
        if message.segment.is_none() {
            return;
        }
        let lengths = || message.datagrams.iter().map(|one| one.bytes.len());
        self.mark(match lengths().next() == lengths().next_back() {
            true => Mark::DatagramJoined,
            false => Mark::DatagramJoinedShorter,
        });
    }

    /// The kernel refuses the first of the messages, whose replies are all lost.
    fn refuses(&mut self, thread: usize) -> Errno {
        let of_any = [
            (Errno::CONNREFUSED, Mark::DatagramSendConnrefused),
            (Errno::PERM, Mark::DatagramSendPerm),
            (Errno::NETUNREACH, Mark::DatagramSendNetunreach),
        ];
        // For a message of several replies, they say something else.
        let of_one = [
            (Errno::NOBUFS, Mark::DatagramSendNobufs),
            (Errno::from_raw_os_error(libc::EMSGSIZE), Mark::DatagramSendMsgsize),
            (Errno::INVAL, Mark::DatagramSendInval),
        ];
        let count = self.threads[thread].turn.messages.pop_front().expect("it is to be sent");
        let errors = of_any.into_iter().chain(of_one.into_iter().filter(|_| count == 1));
        let errors: Vec<(Errno, Mark)> = errors.collect();
        let (error, mark) = *self.rng.choice(&errors).expect("some");
        self.mark(if count == 1 { mark } else { Mark::DatagramJoinedLost });
        self.event(6, thread, 0, || format!("send {thread}: {error:?}"));
        let state = &mut self.threads[thread];
        state.model.counts.unsent += count as u64;
        state.turn.done += count;
        error
    }

    /// Works out the replies of a turn, once its batch has been served.
    fn expect_replies(&mut self, thread: usize) {
        let World { threads, processes, draw, marks, .. } = self;
        let state = &mut threads[thread];
        if state.turn.replies.is_none() {
            let allowances = &mut processes[state.process].allowances;
            let replies = state.model.replies(&mut state.turn, draw, allowances, marks);
            state.turn.messages = state.model.messages(&replies, draw, marks);
            state.turn.replies = Some(replies);
        }
    }

    /// A thread has ended.
    pub(super) fn ends_thread(&mut self, thread: usize, counters: &Counters) {
        let dropped = self.dropped_at(thread);
        let World { threads, marks, .. } = self;
        let state = &mut threads[thread];
        state.model.sees_dropped(dropped, marks);
        state.has_ended = true;
        assert_eq!(
            Counts::of(counters),
            state.model.counts,
            "counters of thread {thread}, at its end"
        );
    }

    /// A turn of a thread is over.
    pub(super) fn ends_turn(&mut self, thread: usize, counters: &Counters) {
        self.expect_replies(thread);
        let World { threads, marks, .. } = self;
        let state = &mut threads[thread];
        let turn = std::mem::take(&mut state.turn);
        state.model.have_left(&turn, marks);
        let Turn { has_failed, paused, done, replies, .. } = turn;
        let replies = replies.expect("set above").len();
        assert_eq!(done, replies, "replies that were sent or refused");
        assert!(!has_failed || paused >= PAUSE_MIN, "a thread whose receive failed does not pause");
        assert!(turn.wall.is_empty() && turn.errors.is_empty(), "clocks were read for no packet");
        assert_eq!(Counts::of(counters), state.model.counts, "counters of thread {thread}");
    }
}

/// A datagram, shortened.
fn text(datagram: &Outgoing) -> String {
    let Outgoing { to, from, bytes } = datagram;
    format!("{} bytes from {from:?} to {to}: {:?}", bytes.len(), &bytes[..bytes.len().min(50)])
}
