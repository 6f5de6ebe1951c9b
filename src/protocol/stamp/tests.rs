//! Tests of the packets of STAMP, with values from the RFCs.

use super::*;

const ERROR: ErrorEstimate =
    ErrorEstimate { is_synchronized: true, format: Format::Ntp, error_ns: 1_000_000 };

#[test]
fn times_are_those_of_ntp_and_ptp() {
    // The first day of Unix (RFC 5905, figure 4), and half a second later.
    assert_eq!(Format::Ntp.encode(0), 0x83aa_7e80_0000_0000_u64.to_be_bytes());
    assert_eq!(Format::Ntp.encode(500_000_000), 0x83aa_7e80_8000_0000_u64.to_be_bytes());
    // Era 1 of NTP begins on 2036-02-07 at 06:28:16 UTC.
    assert_eq!(Format::Ntp.encode(2_085_978_496 * SECOND_NS), [0; 8]);
    assert_eq!(Format::Ptp.encode(3 * SECOND_NS + 7), 0x0000_0003_0000_0007_u64.to_be_bytes());
    for seconds in [0, 1, 1_795_980_000, 2_085_978_496, 4_000_000_000] {
        for nanos in [0, 1, 2, 499_999_999, 999_999_999] {
            let time = seconds * SECOND_NS + nanos;
            for format in [Format::Ntp, Format::Ptp] {
                assert_eq!(format.decode(format.encode(time)), time, "{format:?}");
            }
        }
    }
}

#[test]
fn errors_are_rounded_up_to_what_can_be_written() {
    let of = |error_ns| ErrorEstimate { error_ns, ..ERROR };
    // 1 ms is 4294968 units, which is 131.07 times 2^15.
    assert_eq!(ERROR.encode(), [0x80 | 15, 132]);
    assert_eq!(of(0).encode(), [0x80, 1], "at least one unit");
    // 16 s, which the kernel gives for a clock that nobody sets.
    let unset = ErrorEstimate { is_synchronized: false, ..of(16 * SECOND_NS) };
    assert_eq!(unset.encode(), [29, 128]);
    assert_eq!(ErrorEstimate::decode([29, 128]), Some(unset));
    let ptp = ErrorEstimate { format: Format::Ptp, ..unset };
    assert_eq!(ErrorEstimate::decode([0x40 | 29, 128]), Some(ptp));
    assert_eq!(ErrorEstimate::decode([0xff, 0]), None, "the multiplier must not be 0");
    for error_ns in [1, 255, 256, 1_000, 123_456_789, u64::MAX / 1_000] {
        let read = ErrorEstimate::decode(of(error_ns).encode()).unwrap().error_ns;
        assert!(read + 1 >= error_ns && read <= error_ns + error_ns / 64 + 1, "{error_ns}: {read}");
    }
    assert_eq!(ErrorEstimate::decode([0x3f, 255]).unwrap().error_ns, u64::MAX);
}

fn request(length: usize) -> Vec<u8> {
    let mut packet = vec![0; length.max(PACKET_BYTES)];
    write_request(&mut packet, 7, 1_000 * SECOND_NS, ERROR, 0xabcd);
    packet.truncate(length);
    packet
}

const REFLECTION: Reflection = Reflection {
    number: 9,
    hop_limit: 61,
    received_unix_ns: 1_000 * SECOND_NS + 250_000_000,
    sent_unix_ns: 1_000 * SECOND_NS + 500_000_000,
    error: ERROR,
};

#[test]
fn a_reply_has_every_field_in_its_place() {
    let mut packet = request(PACKET_BYTES);
    let sent =
        [&[0, 0, 0, 7, 0x83, 0xaa, 0x82, 0x68, 0, 0, 0, 0, 0x8f, 132, 0xab, 0xcd][..], &[0; 28]];
    assert_eq!(packet, sent.concat());
    assert_eq!(session(&packet), Some(0xabcd));
    REFLECTION.write(&mut packet);
    let reply = [
        &[0, 0, 0, 9, 0x83, 0xaa, 0x82, 0x68, 0x80, 0, 0, 0, 0x8f, 132, 0xab, 0xcd][..],
        &[0x83, 0xaa, 0x82, 0x68, 0x40, 0, 0, 0],
        &[0, 0, 0, 7, 0x83, 0xaa, 0x82, 0x68, 0, 0, 0, 0, 0x8f, 132, 0, 0],
        &[61, 0, 0, 0],
    ];
    assert_eq!(packet, reply.concat());
    let read = Reflection::read(&packet).unwrap();
    assert_eq!(read.error.encode(), ERROR.encode());
    assert_eq!(Reflection { error: ERROR, ..read }, REFLECTION);
    assert_eq!(copied(&packet), request(44)[..14]);
    let ptp = ErrorEstimate { format: Format::Ptp, ..ERROR };
    let reflection = Reflection { error: ptp, ..REFLECTION };
    reflection.write(&mut packet);
    assert_eq!(Reflection { error: ptp, ..Reflection::read(&packet).unwrap() }, reflection);
}

#[test]
fn packets_of_twamp_light_are_answered_in_their_length() {
    for length in [41, 42, 43] {
        let mut packet = vec![0xee; length];
        packet[..14].copy_from_slice(&request(44)[..14]);
        assert!(session(&packet).is_some());
        REFLECTION.write(&mut packet);
        assert_eq!((packet.len(), packet[40]), (length, 61));
        assert!(packet[41..].iter().all(|byte| *byte == 0));
        assert!(Reflection::read(&packet).is_some());
    }
    for length in [0, 1, 14, 40] {
        assert_eq!(session(&request(44)[..length]), None, "{length}: the reply would be longer");
    }
}

/// Its bytes 4 to 15 are zero (RFC 8762, section 4.2.2).
#[test]
fn a_packet_with_authentication_is_not_answered() {
    let mut packet = vec![0x55; 112];
    packet[4..16].fill(0);
    assert_eq!(session(&packet), None);
}

#[test]
fn extensions_come_back_with_their_flags() {
    const SENT: u8 = UNRECOGNIZED | MALFORMED;
    let reflected = |extensions: &[u8]| {
        let mut packet = [&request(44), extensions].concat();
        REFLECTION.write(&mut packet);
        packet[44..].to_vec()
    };
    let both = [SENT, 1, 0, 3, 7, 8, 9, SENT, 2, 0, 1, 5, SENT, 1, 0, 0];
    let expected = [0, 1, 0, 3, 7, 8, 9, UNRECOGNIZED, 2, 0, 1, 5, 0, 1, 0, 0];
    assert_eq!(reflected(&both), expected);
    // An HMAC is not verified, and says so.
    let hmac = [&[SENT, 8, 0, 16][..], &[1; 16]].concat();
    assert_eq!(reflected(&hmac)[0], UNRECOGNIZED);
    // One that is longer than what is left, and nothing after it is looked at.
    let cut = [SENT, 1, 0, 5, 1, 2, 3, 4];
    assert_eq!(reflected(&cut), [MALFORMED, 1, 0, 5, 1, 2, 3, 4]);
    assert_eq!(reflected(&[SENT, 9, 0xff, 0xff])[0], UNRECOGNIZED | MALFORMED);
    // Padding of TWAMP.
    for padding in [&[0; 100][..], &[0x7f; 9], &[1], &[SENT, 1, 0]] {
        assert_eq!(reflected(padding), padding);
    }
}
