//! Tests of reading and writing the protocol: the example in the document, every truncation, every
//! type.

use proptest::prelude::*;

use super::*;

const ORDERS: [ByteOrder; 2] = [ByteOrder::Little, ByteOrder::Big];
const MAX: usize = 300;

/// The lines of the document that are frames: the client and the direction, the bytes, the name
/// after the bytes.
fn example() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let text = include_str!("../../../docs/hub-protocol.md");
    let frame = |line: &'static str| {
        let (way, rest) = line.split_at_checked(8)?;
        if !way.ends_with(['<', '>']) {
            return None;
        }
        let hex = |word: &str| word.len() == 2 && word.bytes().all(|b| b.is_ascii_hexdigit());
        let mut words = rest.split_whitespace();
        let bytes = words.clone().take_while(|word| hex(word));
        let bytes = bytes.map(|word| u8::from_str_radix(word, 16).unwrap()).collect();
        let name = words.find(|word| !hex(word))?;
        Some((way, bytes, name))
    };
    text.lines().filter_map(frame).collect()
}

fn sent(request: Request, payload: &[u8], order: ByteOrder) -> Vec<u8> {
    [request_head(request, payload.len(), order).bytes(), payload].concat()
}

fn message(to_all: bool, from: u64, payload: &[u8], order: ByteOrder) -> Vec<u8> {
    [&message_head(to_all, from, payload.len(), order)[..], payload].concat()
}

fn clients(more: bool, ids: &[u64], order: ByteOrder) -> Vec<u8> {
    let mut frame = clients_head(more, ids.len(), order).to_vec();
    ids.iter().for_each(|&id| frame.extend(number_bytes(id, order)));
    frame
}

#[test]
fn the_example_of_the_document_is_what_the_code_writes() {
    use ByteOrder::{Big, Little};
    let (one, two) = (0x4000_0000, 0x4000_0001);
    let written = [
        number_frame(WELCOME, one, Little).to_vec(),
        number_frame(WELCOME, two, Little).to_vec(),
        number_frame(JOINED, two, Little).to_vec(),
        sent(Request::List, b"", Little),
        clients(false, &[one, two], Little),
        sent(Request::Broadcast, b"hi", Little),
        message(true, two, b"hi", Little),
        message(true, two, b"hi", Little),
        sent(Request::Send { to: two }, b"y", Little),
        message(false, one, b"y", Little),
        number_frame(LEFT, two, Little).to_vec(),
        sent(Request::Send { to: two }, b"", Little),
        not_sent(GONE, two, Little).to_vec(),
        number_frame(DROPPED, 3, Big).to_vec(),
        message(true, two, b"hi", Big),
    ];
    let example = example();
    assert_eq!(example.len(), written.len(), "{example:?}");
    for ((way, bytes, name), written) in example.iter().zip(&written) {
        assert_eq!(bytes, written, "{way} {name}");
        let order = if bytes[0] == 0 { Big } else { Little };
        let read = match way.ends_with('<') {
            true => format!("{:?}", event(&bytes[4..], order).unwrap()),
            false => format!("{:?}", request(bytes, order, MAX).unwrap().unwrap().request),
        };
        let (read, name) = (read.to_uppercase(), name.trim_end_matches(',').replace('_', ""));
        assert!(read.starts_with(&name), "{read} is called {name}");
    }
}

#[test]
fn a_request_is_read_back_from_as_many_bytes_as_its_head_has_and_not_from_fewer() {
    let all = [
        (Request::List, 0),
        (Request::Broadcast, 0),
        (Request::Broadcast, MAX),
        (Request::Send { to: u64::MAX }, 0),
        (Request::Send { to: 1 }, MAX),
    ];
    for order in ORDERS {
        for (asked, payload) in all {
            let head = request_head(asked, payload, order);
            let bytes = head.bytes();
            for count in 0..bytes.len() {
                assert_eq!(request(&bytes[..count], order, MAX), Ok(None), "{asked:?} {count}");
            }
            let expected = Head { request: asked, bytes: bytes.len(), payload };
            assert_eq!(request(bytes, order, MAX), Ok(Some(expected)));
            let more = [bytes, &[7; 20]].concat();
            assert_eq!(request(&more, order, MAX), Ok(Some(expected)), "what follows is not read");
        }
    }
}

#[test]
fn every_type_but_three_is_refused_at_its_first_byte() {
    for order in ORDERS {
        for kind in 0..=255 {
            for len in [1, 9, 10, MAX as u32] {
                let first = [&encode(len, order)[..], &[kind]].concat();
                let read = request(&first, order, MAX);
                let known = match kind {
                    LIST => len == 1,
                    SEND => len >= 9,
                    BROADCAST => true,
                    _ => false,
                };
                assert_eq!(read.is_ok(), known, "type {kind}, length {len}: {read:?}");
            }
        }
    }
}

#[test]
fn a_length_that_cannot_be_is_refused_before_the_type_has_come() {
    for order in ORDERS {
        let read = |len: i32| request(&encode(len as u32, order), order, MAX);
        assert_eq!(read(0), Err(Refusal::Malformed));
        for negative in [-1, i32::MIN] {
            assert_eq!(read(negative), Err(Refusal::Malformed));
        }
        for long in [MAX as i32 + 10, i32::MAX] {
            assert_eq!(read(long), Err(Refusal::TooLong));
        }
        assert_eq!(read(MAX as i32 + 9), Ok(None));
    }
}

#[test]
fn a_payload_may_be_as_long_as_the_limit_and_no_longer() {
    for order in ORDERS {
        for asked in [Request::Broadcast, Request::Send { to: 3 }] {
            let read = |payload| request(request_head(asked, payload, order).bytes(), order, MAX);
            assert_eq!(read(MAX).unwrap().unwrap().payload, MAX);
            assert_eq!(read(MAX + 1), Err(Refusal::TooLong));
        }
    }
}

#[test]
fn an_event_that_is_cut_or_has_a_byte_too_many_is_none() {
    for order in ORDERS {
        let fixed = [
            number_frame(WELCOME, 1, order).to_vec(),
            number_frame(JOINED, 1, order).to_vec(),
            number_frame(LEFT, 1, order).to_vec(),
            number_frame(DROPPED, 1, order).to_vec(),
            not_sent(QUEUE_FULL, 1, order).to_vec(),
        ];
        for frame in &fixed {
            let frame = &frame[4..];
            assert!(event(frame, order).is_some());
            assert!((0..frame.len()).all(|count| event(&frame[..count], order).is_none()));
            assert!(event(&[frame, &[0]].concat(), order).is_none());
        }
        let head = &message(true, 1, b"", order)[4..];
        assert!((0..head.len()).all(|count| event(&head[..count], order).is_none()));
        let list = &clients(true, &[1, 2, 3], order)[4..];
        for count in 0..list.len() {
            let whole = count >= 2 && (count - 2) % 8 == 0;
            assert_eq!(event(&list[..count], order).is_some(), whole, "{count}");
        }
        for wrong in [MESSAGE, CLIENTS] {
            assert!(event(&[&[wrong, 2][..], &[0; 8]].concat(), order).is_none(), "no flag");
        }
    }
}

#[test]
fn a_client_is_told_of_types_that_it_does_not_know() {
    for kind in 0..=255u8 {
        let frame = [kind];
        let read = event(&frame, ByteOrder::Little);
        match kind {
            ..128 => assert_eq!(read, None),
            WELCOME..=DROPPED => assert_eq!(read, None, "cut"),
            _ => assert_eq!(read, Some(Event::Unknown(kind))),
        }
    }
}

#[test]
fn no_frame_of_a_list_is_longer_than_the_longest_message() {
    for max_message in [1, 7, 8, 100, 16 << 10] {
        let ids = clients_ids_max(max_message);
        let frame = CLIENTS_HEAD_BYTES - LENGTH_BYTES + 8 * ids;
        assert!(ids >= 1 && frame <= server_frame_max(max_message), "{max_message}");
        assert!(frame + 8 > server_frame_max(max_message), "{max_message}: room for one more");
    }
}

proptest! {
    #![proptest_config(crate::base::property::config())]

    #[test]
    fn what_is_written_is_read(
        id: u64, count: u64, to_all: bool, more: bool,
        payload in proptest::collection::vec(any::<u8>(), 0..50),
        ids in proptest::collection::vec(any::<u64>(), 0..20),
    ) {
        for order in ORDERS {
            let frame = message(to_all, id, &payload, order);
            let prefix = frame[..4].try_into().unwrap();
            prop_assert_eq!(length(prefix, order, 999), Ok(frame.len() - 4));
            prop_assert_eq!(sender(frame.first_chunk().unwrap(), order), id);
            let read = event(&frame[4..], order);
            prop_assert_eq!(read, Some(Event::Message { to_all, from: id, payload: &payload }));
            let frame = clients(more, &ids, order);
            let Some(Event::Clients { more: read, ids: listed }) = event(&frame[4..], order) else {
                panic!("no list")
            };
            prop_assert_eq!((read, listed.iter().collect::<Vec<_>>()), (more, ids.clone()));
            let frame = not_sent(GONE, id, order);
            prop_assert_eq!(event(&frame[4..], order), Some(Event::NotSent { reason: GONE, id }));
            let frame = number_frame(DROPPED, count, order);
            prop_assert_eq!(event(&frame[4..], order), Some(Event::Dropped(count)));
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        for order in ORDERS {
            let _ = event(&bytes, order);
            if let Ok(Some(head)) = request(&bytes, order, MAX) {
                prop_assert!(head.payload <= MAX && head.bytes <= bytes.len());
            }
        }
    }
}
