//! The test packets of STAMP that the sockets of a thread send, and what is read from the replies.

use echopool::internals::ClockError;
use echopool::internals::stamp::{
    self, COPIED_AT, COPIED_BYTES, ERROR_AT, EXTENSION_HEADER_BYTES, EXTRA_PADDING, ErrorEstimate,
    Format, MALFORMED, PACKET_BYTES, REFLECTED_BYTES_MIN, Reflection, UNRECOGNIZED,
};

use crate::plan::{STAMP_PACKET_BYTES, STAMP_SOCKET_BYTES, new_seed};
use crate::stats::stamp::{Session, StampRecords, times};
use crate::traffic::datagram::Bytes;

/// A packet that was sent.
#[derive(Clone, Copy, Default)]
struct Packet {
    /// When, in nanoseconds since 1970.
    sent: u64,
    /// The reflector's number of the latest reply to it.
    reflected: Option<u64>,
}

// The plan relies on it.
const _: () = assert!(size_of::<Session>() <= STAMP_SOCKET_BYTES as usize);
const _: () = assert!(size_of::<Packet>() <= STAMP_PACKET_BYTES as usize);

/// The packets of a thread.
pub(super) struct Stamp {
    error: ErrorEstimate,
    /// Of each thread, so that no two shards have the same. The plan's seed is the same for all.
    identifier: u16,
    /// As many as the ring of the sockets has.
    packets: Vec<Packet>,
    sessions: Vec<Session>,
    records: Box<StampRecords>,
}

impl Stamp {
    pub(super) fn new(sockets: usize, packets: usize, clock: ClockError) -> Stamp {
        let ClockError { is_synchronized, error_ns } = clock;
        Stamp {
            error: ErrorEstimate { is_synchronized, format: Format::Ntp, error_ns },
            identifier: new_seed() as u16 | 1,
            packets: vec![Packet::default(); packets],
            sessions: vec![Session::default(); sockets],
            records: Box::new(StampRecords::new(clock)),
        }
    }

    /// Writes packet `number`, which has the place `slot` in the ring and is sent at this time of the
    /// clock of the day. What is left of `out` is extra padding.
    pub(super) fn write(&mut self, slot: usize, number: u64, sent: u64, out: &mut [u8]) {
        self.packets[slot] = Packet { sent, reflected: None };
        stamp::write_request(out, number as u32, sent, self.error, self.identifier);
        let rest = &mut out[PACKET_BYTES..];
        rest.fill(0);
        if let Some(length) = rest.len().checked_sub(EXTENSION_HEADER_BYTES) {
            let [high, low] = (length as u16).to_be_bytes();
            let header = [UNRECOGNIZED | MALFORMED, EXTRA_PADDING, high, low];
            rest[..EXTENSION_HEADER_BYTES].copy_from_slice(&header);
        }
    }

    /// The number of the packet that this is a reply to. `next`: the number of the next packet.
    pub(super) fn number(reply: &[u8], next: u64) -> Option<u64> {
        let copied = (reply.len() >= REFLECTED_BYTES_MIN).then(|| stamp::copied(reply))?;
        let behind = (next as u32).wrapping_sub(stamp::number(&copied));
        next.checked_sub(behind.into())
    }

    /// Compares what a reflector must copy. The rest is its own, and some reflectors reply in another
    /// length.
    pub(super) fn compare(&self, slot: usize, number: u64, reply: &[u8]) -> Bytes {
        let copied = stamp::copied(reply);
        let sent = self.sent(slot, number);
        let differs = copied.iter().zip(&sent).position(|(copied, sent)| copied != sent);
        match (differs, Reflection::read(reply)) {
            (Some(place), _) => Bytes::Wrong(COPIED_AT + place),
            (None, None) => Bytes::Wrong(ERROR_AT),
            (None, Some(_)) => Bytes::Right,
        }
    }

    /// What the reply to a packet must have from this byte on; nothing where it has what is the
    /// reflector's own.
    pub(super) fn expected(&self, slot: usize, number: u64, place: usize) -> Vec<u8> {
        let sent = self.sent(slot, number);
        let from = place.checked_sub(COPIED_AT);
        from.and_then(|from| sent.get(from..COPIED_BYTES)).unwrap_or_default().to_vec()
    }

    /// A packet as it was sent, without extra padding.
    fn sent(&self, slot: usize, number: u64) -> [u8; PACKET_BYTES] {
        let mut sent = [0; PACKET_BYTES];
        let at = self.packets[slot].sent;
        stamp::write_request(&mut sent, number as u32, at, self.error, self.identifier);
        sent
    }

    /// Takes a right reply of a socket. `slot`: the place of its packet, if that is remembered.
    /// `is_timed`: whether its times count, as they do for the first reply to a packet in its time.
    pub(super) fn reply(
        &mut self,
        index: usize,
        (number, slot): (u64, Option<usize>),
        reply: &[u8],
        (is_timed, returned): (bool, u64),
    ) {
        let Some(reflection) = Reflection::read(reply) else { return };
        let session = &mut self.sessions[index];
        let reflected = session.reflected(reflection.number);
        self.records.has_own_numbers |= reflected != number;
        let earlier = slot.and_then(|slot| self.packets[slot].reflected.replace(reflected));
        session.reply(number, reflected, earlier);
        if let (true, Some(slot)) = (is_timed, slot) {
            let times = times(&reflection, self.packets[slot].sent, returned);
            self.records.reply(session, &times, &reflection.error, self.error.error_ns);
        }
    }

    /// A socket has sent this many packets, and gets no more replies.
    pub(super) fn end(&mut self, index: usize, sent: u64) {
        self.records.end(&self.sessions[index], sent);
    }

    pub(super) fn into_records(self) -> Box<StampRecords> {
        self.records
    }
}
