//! What the services must reply, written from the RFCs and not with the server's own code: lines of
//! the character generator (RFC 864), and packets of STAMP (RFC 8762, RFC 8972).

use crate::engine::sys::ClockError;

/// As many characters of the generator's lines as fit, from line number `line` on.
pub(super) fn characters(line: u64, length: usize) -> Vec<u8> {
    let lines = (line..).flat_map(|line| {
        let column = move |column| b' ' + ((line + column) % 95) as u8;
        (0..72).map(column).chain(*b"\r\n")
    });
    lines.take(length.min(512)).collect()
}

/// A packet of a sender of STAMP or TWAMP Light, and sometimes one that is none.
pub(super) fn request(rng: &mut fastrand::Rng, longest: usize, session: u16) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..44).map(|_| rng.u8(..)).collect();
    packet[12] &= 0xbf;
    packet[13] = if rng.u8(0..16) == 0 { 0 } else { rng.u8(1..) };
    packet[14..16].copy_from_slice(&session.to_be_bytes());
    match rng.u8(0..8) {
        0 => packet.truncate(rng.usize(0..=44)),
        1 => packet.resize(rng.usize(44..=100), 0),
        2..4 => {
            for _ in 0..rng.usize(1..4) {
                add_extension(rng, &mut packet);
            }
        }
        _ => {}
    }
    // One that is too long is sometimes sent all the same.
    if rng.u8(0..8) > 0 {
        packet.truncate(longest);
    }
    packet
}

fn add_extension(rng: &mut fastrand::Rng, packet: &mut Vec<u8>) {
    let length = rng.usize(0..20);
    let said = if rng.u8(0..6) == 0 { length + rng.usize(1..9) } else { length };
    let flags = if rng.u8(0..6) == 0 { 0 } else { 0x80 };
    packet.extend([flags, rng.u8(0..4), (said >> 8) as u8, said as u8]);
    packet.extend((0..length).map(|_| rng.u8(..)));
}

/// The session of a packet that a reflector answers.
pub(super) fn session(packet: &[u8]) -> Option<u16> {
    // A reply has 41 bytes at least, and never more than its packet. The error estimate of a packet
    // without authentication is not zero.
    (packet.len() >= 41 && packet[13] != 0).then(|| u16::from_be_bytes([packet[14], packet[15]]))
}

pub(super) fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]])
}

/// What a reflector says.
pub(super) struct Said {
    pub(super) number: u32,
    pub(super) hop_limit: u8,
    pub(super) received_ns: u64,
    pub(super) sent_ns: u64,
}

/// The reply to a packet, with zeros in the place of the error estimate.
pub(super) fn reflected(packet: &[u8], said: &Said) -> Vec<u8> {
    let mut reply = packet.to_vec();
    reply[0..4].copy_from_slice(&said.number.to_be_bytes());
    reply[4..12].copy_from_slice(&timestamp(said.sent_ns));
    reply[12..14].fill(0);
    reply[16..24].copy_from_slice(&timestamp(said.received_ns));
    reply[24..38].copy_from_slice(&packet[..14]);
    reply[38..40].fill(0);
    reply[40] = said.hop_limit;
    reply.iter_mut().take(44).skip(41).for_each(|byte| *byte = 0);
    let mut at = 44;
    // What a sender has not flagged is padding.
    while at + 4 <= packet.len() && packet[at] & 0x80 != 0 {
        let length = usize::from(u16::from_be_bytes([packet[at + 2], packet[at + 3]]));
        let is_too_long = at + 4 + length > packet.len();
        let unknown = if packet[at + 1] == 1 { 0 } else { 0x80 };
        reply[at] = unknown | if is_too_long { 0x40 } else { 0 };
        if is_too_long {
            break;
        }
        at += 4 + length;
    }
    reply
}

/// A time of NTP: seconds since 1900 and a fraction, which gives the same nanosecond again.
fn timestamp(unix_ns: u64) -> [u8; 8] {
    let (seconds, nanos) = (unix_ns / 1_000_000_000 + 2_208_988_800, unix_ns % 1_000_000_000);
    let fraction = (nanos << 32).div_ceil(1_000_000_000);
    (seconds << 32 | fraction).to_be_bytes()
}

/// Whether an error estimate says what the clock says: not less, and hardly more.
pub(super) fn says(estimate: [u8; 2], error: ClockError) -> bool {
    let [flags, multiplier] = estimate;
    let ns = ((u128::from(multiplier) << (flags & 0x3f)) * 1_000_000_000) >> 32;
    let least = u128::from(error.error_ns);
    // At most by the last bit of eight at each halving, and by a unit.
    let most = least + least / 32 + 2;
    (flags & 0x80 != 0) == error.is_synchronized
        && flags & 0x40 == 0
        && multiplier > 0
        && (ns + 1 >= least && ns <= most)
}
