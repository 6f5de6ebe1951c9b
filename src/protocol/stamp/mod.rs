//! The test packets of STAMP (RFC 8762) without authentication, their extensions (RFC 8972), and
//! those of TWAMP Light (RFC 5357, appendix I). For both ends.
//!
//! ```text
//! byte   a sender's packet                a reflector's packet
//! 0      sequence number                  sequence number
//! 4      timestamp                        timestamp: sent
//! 12     error estimate                   error estimate
//! 14     session (SSID)                   session (SSID), copied
//! 16     zero                             timestamp: received
//! 24                                      the sender's bytes 0 to 13
//! 38                                      zero
//! 40                                      hop limit (TTL) of the packet received
//! 41                                      zero
//! 44     extensions (TLVs) or padding     the same extensions, with flags
//! ```
//!
//! All numbers are big endian. A packet of TWAMP Light has padding from byte 14 on, and its
//! reflector's packet ends with byte 40.

#[cfg(test)]
mod tests;

/// The port of reflectors.
pub const PORT: u16 = 862;

/// A packet of either side, without extensions.
pub const PACKET_BYTES: usize = 44;

/// A reflector's packet in TWAMP Light. A sender's packet that is shorter would be answered with
/// more bytes than it has.
pub const REFLECTED_BYTES_MIN: usize = 41;

/// What a reflector copies from the beginning of a sender's packet, and where to.
pub const COPIED_BYTES: usize = 14;
/// The place of it in the reflector's packet.
pub const COPIED_AT: usize = 24;

/// The place of the error estimate in the packets of either side.
pub const ERROR_AT: usize = 12;
const SENT_AT: usize = 4;
const SESSION_AT: usize = 14;
const RECEIVED_AT: usize = 16;
const HOP_LIMIT_AT: usize = 40;

const SECOND_NS: u64 = 1_000_000_000;

/// Seconds from 1900, where NTP begins to count, to 1970.
const NTP_OFFSET: u32 = 2_208_988_800;

/// How a timestamp is written (the Z bit of the error estimate).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// Seconds since 1900 and a fraction of 2^32 (RFC 5905).
    #[default]
    Ntp,
    /// Seconds and nanoseconds of PTP (IEEE 1588, RFC 8186). The clock of PTP has no leap seconds,
    /// and is ahead of UTC by them.
    Ptp,
}

impl Format {
    /// Writes a time in nanoseconds since 1970.
    #[inline]
    pub fn encode(self, unix_ns: u64) -> [u8; 8] {
        let (seconds, nanos) = ((unix_ns / SECOND_NS) as u32, unix_ns % SECOND_NS);
        let (seconds, rest) = match self {
            // Rounded up, so that reading it back gives the same nanosecond.
            Format::Ntp => {
                (seconds.wrapping_add(NTP_OFFSET), (nanos << 32).div_ceil(SECOND_NS) as u32)
            }
            Format::Ptp => (seconds, nanos as u32),
        };
        (u64::from(seconds) << 32 | u64::from(rest)).to_be_bytes()
    }

    /// The time in nanoseconds since 1970, for times until 2106.
    #[inline]
    pub fn decode(self, bytes: [u8; 8]) -> u64 {
        let number = u64::from_be_bytes(bytes);
        let (seconds, rest) = ((number >> 32) as u32, number & u64::from(u32::MAX));
        match self {
            Format::Ntp => {
                u64::from(seconds.wrapping_sub(NTP_OFFSET)) * SECOND_NS + ((rest * SECOND_NS) >> 32)
            }
            Format::Ptp => u64::from(seconds) * SECOND_NS + rest,
        }
    }
}

/// How far a clock may be wrong (RFC 4656, section 4.1.2, and RFC 8186).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorEstimate {
    /// Whether the clock is synchronized to UTC by an external source.
    pub is_synchronized: bool,
    /// The format of the timestamps in the same packet.
    pub format: Format,
    /// The error in nanoseconds. On the wire it is a multiple, from 1 to 255, of a power of two.
    pub error_ns: u64,
}

impl ErrorEstimate {
    /// Rounds the error up to the next one that can be written.
    pub fn encode(self) -> [u8; 2] {
        // In units of 2^-32 seconds, of which every error has at least one.
        let mut multiplier = (u128::from(self.error_ns) << 32).div_ceil(SECOND_NS.into()).max(1);
        let mut scale = 0;
        while multiplier > 255 {
            multiplier = multiplier.div_ceil(2);
            scale += 1;
        }
        let synchronized = u8::from(self.is_synchronized) << 7;
        let format = u8::from(self.format == Format::Ptp) << 6;
        [synchronized | format | scale, multiplier as u8]
    }

    /// `None` if the multiplier is 0, which means that the packet is not to be used.
    pub fn decode([flags, multiplier]: [u8; 2]) -> Option<ErrorEstimate> {
        let units = u128::from(multiplier) << (flags & 0x3f);
        let error_ns = u64::try_from((units * u128::from(SECOND_NS)) >> 32).unwrap_or(u64::MAX);
        (multiplier > 0).then_some(ErrorEstimate {
            is_synchronized: flags & 0x80 != 0,
            format: if flags & 0x40 != 0 { Format::Ptp } else { Format::Ntp },
            error_ns,
        })
    }
}

fn bytes<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    packet[at..at + N].try_into().expect("as many bytes")
}

fn put(packet: &mut [u8], at: usize, value: &[u8]) {
    packet[at..at + value.len()].copy_from_slice(value);
}

/// The sender's identifier of the session, if the packet is one that a reflector may answer. `None`
/// for a packet that is too short for its reply, or without an error estimate. A packet with
/// authentication is among the latter, because it has zeros there.
#[inline]
pub fn session(packet: &[u8]) -> Option<u16> {
    if packet.len() < REFLECTED_BYTES_MIN {
        return None;
    }
    ErrorEstimate::decode(bytes(packet, ERROR_AT))?;
    Some(u16::from_be_bytes(bytes(packet, SESSION_AT)))
}

/// The sequence number of a packet of either side, which has at least 4 bytes.
#[inline]
pub fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(bytes(packet, 0))
}

/// What a reflector says about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reflection {
    /// The sequence number of the reply.
    pub number: u32,
    /// The hop limit (TTL) with which the packet arrived, or 0.
    pub hop_limit: u8,
    /// When it arrived, in nanoseconds since 1970.
    pub received_unix_ns: u64,
    /// When the reply is sent.
    pub sent_unix_ns: u64,
    /// The error of both times, and their format.
    pub error: ErrorEstimate,
}

impl Reflection {
    /// Makes the reply in the place of a packet for which [`session`] returns a value. It has the
    /// length of the packet, and its extensions with their flags set.
    #[inline]
    pub fn write(&self, packet: &mut [u8]) {
        packet.copy_within(0..COPIED_BYTES, COPIED_AT);
        put(packet, 0, &self.number.to_be_bytes());
        put(packet, SENT_AT, &self.error.format.encode(self.sent_unix_ns));
        put(packet, ERROR_AT, &self.error.encode());
        put(packet, RECEIVED_AT, &self.error.format.encode(self.received_unix_ns));
        put(packet, COPIED_AT + COPIED_BYTES, &[0; 2]);
        packet[HOP_LIMIT_AT] = self.hop_limit;
        let end = packet.len().min(PACKET_BYTES);
        packet[HOP_LIMIT_AT + 1..end].fill(0);
        mark_extensions(&mut packet[end..]);
    }

    /// Reads a reply of at least [`REFLECTED_BYTES_MIN`] bytes. `None` if it has no error estimate.
    #[inline]
    pub fn read(packet: &[u8]) -> Option<Reflection> {
        let error = ErrorEstimate::decode(bytes(packet, ERROR_AT))?;
        Some(Reflection {
            number: number(packet),
            hop_limit: packet[HOP_LIMIT_AT],
            received_unix_ns: error.format.decode(bytes(packet, RECEIVED_AT)),
            sent_unix_ns: error.format.decode(bytes(packet, SENT_AT)),
            error,
        })
    }
}

/// The first bytes of a sender's packet, as they are in the reflector's reply.
#[inline]
pub fn copied(reply: &[u8]) -> [u8; COPIED_BYTES] {
    bytes(reply, COPIED_AT)
}

/// Writes a sender's packet without extensions into a buffer of [`PACKET_BYTES`].
#[inline]
pub fn write_request(
    packet: &mut [u8],
    number: u32,
    sent_unix_ns: u64,
    error: ErrorEstimate,
    session: u16,
) {
    packet[..PACKET_BYTES].fill(0);
    put(packet, 0, &number.to_be_bytes());
    put(packet, SENT_AT, &error.format.encode(sent_unix_ns));
    put(packet, ERROR_AT, &error.encode());
    put(packet, SESSION_AT, &session.to_be_bytes());
}

/// A flag of an extension (RFC 8972, section 4): its type is not recognized. A sender sets it, and a
/// reflector leaves it set if it is true.
pub const UNRECOGNIZED: u8 = 0x80;

/// The same for an extension that is longer than what is left of the packet.
pub const MALFORMED: u8 = 0x40;

/// Extra Padding, the one extension that asks nothing of a reflector but to send it back.
pub const EXTRA_PADDING: u8 = 1;

/// Flags, type, and length of an extension's value.
pub const EXTENSION_HEADER_BYTES: usize = 4;

/// Sets the flags of the extensions. Every one is sent back as it is, and extra padding is the only
/// one that is recognized.
///
/// Padding of TWAMP can be in the place of the extensions. What does not have the flag that all
/// senders set is taken for padding, and is not changed.
fn mark_extensions(mut rest: &mut [u8]) {
    while let [flags, kind, high, low, ..] = rest {
        if *flags & UNRECOGNIZED == 0 {
            return;
        }
        let length = EXTENSION_HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
        *flags = if *kind == EXTRA_PADDING { 0 } else { UNRECOGNIZED };
        if length > rest.len() {
            rest[0] |= MALFORMED;
            return;
        }
        rest = &mut rest[length..];
    }
}
