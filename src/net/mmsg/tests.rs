//! Tests of batches over loopback sockets, and of their control messages.

use std::cell::RefCell;
use std::net::UdpSocket;

use super::*;

fn sockets() -> (UdpSocket, UdpSocket) {
    let (one, other) = (UdpSocket::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (one, other) = (one.unwrap(), other.unwrap());
    one.connect(other.local_addr().unwrap()).unwrap();
    (one, other)
}

#[test]
fn a_batch_receives_what_is_there_and_sends_it_back() {
    let (client, server) = sockets();
    let mut batch = Batch::new(4, 100);
    assert_eq!(batch.receive(&server, Wait::No), Err(Errno::AGAIN));
    let texts = [&b"one"[..], b"", &[7; 100], &[8; 101], b"five"];
    texts.iter().for_each(|text| assert_eq!(client.send(text).unwrap(), text.len()));
    assert_eq!(batch.receive(&server, Wait::ForOne), Ok(4));
    let arrived: Vec<Arrived> = (0..4).map(|at| batch.arrived(at)).collect();
    let source = Some(client.local_addr().unwrap());
    assert!(arrived.iter().all(|one| one.source == source && one.dropped_before.is_none()));
    assert_eq!(arrived.iter().map(|one| one.length).collect::<Vec<_>>(), [3, 0, 100, 100]);
    let truncated: Vec<bool> = arrived.iter().map(|one| one.is_truncated).collect();
    assert_eq!(truncated, [false, false, false, true]);
    for at in [2, 0] {
        let length = batch.datagram(at).len();
        batch.reply(at, length, None);
    }
    let sent = batch.send(&server);
    assert_eq!(sent, Sent { datagrams: 2, bytes: 103, calls: 1, ..Sent::default() });
    let mut buffer = [0; 200];
    for text in [texts[2], texts[0]] {
        let count = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], text, "in the order of the replies");
    }
    assert_eq!(batch.receive(&server, Wait::ForOne), Ok(1));
    assert_eq!(batch.datagram(0), b"five");
    assert_eq!(batch.send(&server), Sent::default(), "nothing is queued any more");
}

#[test]
fn a_datagram_that_is_refused_does_not_hold_up_the_others() {
    let (client, server) = sockets();
    let mut batch = Batch::new(3, 66_000);
    (0..3).for_each(|at| batch.buffer_mut(at).fill(at as u8));
    for (at, length) in [(0, 10), (1, 66_000), (2, 20)] {
        batch.push(at, length);
    }
    let sent = batch.send(&client);
    assert_eq!((sent.datagrams, sent.bytes, sent.refused), (2, 30, 1));
    let mut buffer = [9; 100];
    assert_eq!(server.recv(&mut buffer).unwrap(), 10);
    assert_eq!((server.recv(&mut buffer).unwrap(), buffer[0]), (20, 2));
}

/// A batch that holds datagrams of these lengths, which `client` has sent to `server`, as replies.
fn replies_of(client: &UdpSocket, server: &UdpSocket, lengths: &[usize]) -> Batch {
    let mut batch = Batch::new(lengths.len(), 66_000);
    for (at, length) in lengths.iter().enumerate() {
        client.send(&vec![at as u8; *length]).unwrap();
    }
    assert_eq!(batch.receive(server, Wait::ForOne), Ok(lengths.len()));
    let local = Some(server.local_addr().unwrap().ip());
    lengths.iter().enumerate().for_each(|(at, length)| batch.reply(at, *length, local));
    batch
}

/// A connected pair at these addresses, with room for many datagrams.
fn sockets_with_room(ip: &str) -> (UdpSocket, UdpSocket) {
    let [client, server] = [(); 2].map(|_| UdpSocket::bind((ip, 0)).unwrap());
    client.connect(server.local_addr().unwrap()).unwrap();
    for socket in [&client, &server] {
        rustix::net::sockopt::set_socket_recv_buffer_size(socket, 1 << 20).unwrap();
    }
    (client, server)
}

fn joined(batch: &Batch) -> Vec<usize> {
    batch.outgoing[..batch.queued]
        .iter()
        .map(|one| replies(std::slice::from_ref(one)) as usize)
        .collect()
}

#[test]
fn replies_to_one_peer_leave_as_one_message_and_arrive_as_they_were() {
    for ip in ["127.0.0.1", "::1"] {
        let Ok(_) = UdpSocket::bind((ip, 0)) else { continue };
        let (client, server) = sockets_with_room(ip);
        for (lengths, messages) in [
            (&[100; 64][..], &[64][..]),
            (&[100; 65], &[64, 1]),
            (&[100; 130], &[64, 64, 1, 1]),
            (&[100, 100, 100], &[1, 1, 1]),
            (&[100, 100, 100, 99], &[4]),
            (&[100, 100, 100, 100, 1, 1, 1, 1, 1], &[5, 4]),
            (&[100, 100, 100, 100, 0, 100], &[4, 1, 1]),
            (&[0, 0, 0, 0, 0], &[1, 1, 1, 1, 1]),
            (&[1, 2, 2, 2, 2], &[1, 4]),
            (&[16_376; 4], &[4]),
            (&[16_377; 4], &[1, 1, 1, 1]),
            (&[16_376, 16_376, 16_376, 16_376, 3, 3], &[5, 1]),
            (&[16_376, 16_376, 16_376, 16_376, 4, 3], &[4, 1, 1]),
        ] {
            let mut batch = replies_of(&client, &server, lengths);
            let control = batch.outgoing[0].msg_hdr.msg_controllen;
            batch.join();
            assert_eq!(joined(&batch), messages, "{lengths:?}");
            for (message, replies) in batch.outgoing.iter().zip(messages) {
                let has_more = message.msg_hdr.msg_controllen > control;
                assert_eq!(has_more, *replies > 1, "{lengths:?}: of segments only");
            }
            let sent = batch.send(&server);
            let bytes = lengths.iter().sum::<usize>() as u64;
            assert_eq!((sent.datagrams, sent.bytes), (lengths.len() as u64, bytes));
            let of_several = messages.iter().filter(|count| **count > 1).count() as u64;
            assert_eq!((sent.calls, sent.joined), (1, of_several), "{lengths:?}");
            assert_eq!((sent.split, sent.refused), (0, 0));
            let mut buffer = vec![0; 66_000];
            for (at, length) in lengths.iter().enumerate() {
                assert_eq!(client.recv(&mut buffer).unwrap(), *length, "{lengths:?}");
                assert!(buffer[..*length].iter().all(|byte| *byte == at as u8));
            }
        }
    }
}

#[test]
fn replies_to_several_peers_or_from_several_addresses_stay_apart() {
    let server = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let [one, other] = [(); 2].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    let mut batch = Batch::new(16, 100);
    let clients = || [&one, &one, &one, &one, &other, &other, &one, &other, &one, &other];
    clients().iter().for_each(|client| {
        client.send_to(b"text", ("127.0.0.1", port)).unwrap();
    });
    assert_eq!(batch.receive(&server, Wait::ForOne), Ok(10));
    let at = |host| Some(IpAddr::from([127, 0, 0, host]));
    (0..10).for_each(|nth| batch.reply(nth, 4, at(1)));
    batch.join();
    assert_eq!(joined(&batch), [4, 1, 1, 1, 1, 1, 1]);
    assert_eq!(batch.send(&server).datagrams, 10);
    for from in [[at(1), at(2)], [at(1), None], [None, at(1)]] {
        let to = clients()[0];
        (0..8).for_each(|_| {
            to.send_to(b"text", ("127.0.0.1", port)).unwrap();
        });
        assert_eq!(batch.receive(&server, Wait::ForOne), Ok(8));
        (0..8).for_each(|nth| batch.reply(nth, 4, from[nth / 4]));
        batch.join();
        assert_eq!(joined(&batch), [4, 4]);
        let sent = batch.send(&server);
        assert_eq!((sent.datagrams, sent.joined), (8, 2));
    }
    // The same port of another host, over IPv4 and in addresses of IPv6.
    let away = UdpSocket::bind(("127.0.0.9", one.local_addr().unwrap().port())).unwrap();
    for server in ["0.0.0.0:0", "[::]:0"] {
        let Ok(server) = UdpSocket::bind(server) else { continue };
        let port = server.local_addr().unwrap().port();
        for client in [&one, &one, &away, &away] {
            client.send_to(b"text", ("127.0.0.1", port)).unwrap();
        }
        assert_eq!(batch.receive(&server, Wait::ForOne), Ok(4));
        (0..4).for_each(|nth| batch.reply(nth, 4, None));
        batch.join();
        assert_eq!(joined(&batch), [1; 4]);
        assert_eq!(batch.send(&server).datagrams, 4);
    }
}

/// A socket that refuses some messages of several replies, and sends all others.
struct Refuses<'a> {
    socket: &'a UdpSocket,
    /// Segments of these lengths, with this error.
    segments: [usize; 2],
    error: Errno,
    /// Bytes of the control messages of each single reply that was sent.
    controls: RefCell<Vec<usize>>,
}

impl MessageCalls for Refuses<'_> {
    unsafe fn receive(
        &self,
        headers: &mut [libc::mmsghdr],
        flags: libc::c_int,
    ) -> Result<usize, Errno> {
        // SAFETY: the caller's promise is the same.
        unsafe { MessageCalls::receive(self.socket, headers, flags) }
    }

    unsafe fn send(&self, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
        let is_refused = |header: &libc::mmsghdr| {
            // SAFETY: the caller promises that it points to vectors.
            let length = unsafe { (*header.msg_hdr.msg_iov).iov_len };
            header.msg_hdr.msg_iovlen > 1 && self.segments.contains(&length)
        };
        let taken = headers.iter().position(is_refused).unwrap_or(headers.len());
        let single = headers[..taken].iter().filter(|header| header.msg_hdr.msg_iovlen == 1);
        let controls = single.map(|header| segments::control_length(&header.msg_hdr));
        self.controls.borrow_mut().extend(controls);
        match taken {
            0 => Err(self.error),
            // SAFETY: the caller's promise is the same.
            _ => unsafe { MessageCalls::send(self.socket, &mut headers[..taken]) },
        }
    }
}

/// One by one and once each, in their order; or they are all refused, if the error concerns each.
#[test]
fn a_message_that_is_refused_as_one_leaves_as_its_replies() {
    let (client, server) = sockets_with_room("127.0.0.1");
    client.set_nonblocking(true).unwrap();
    // Each is longer than the one before: a shorter reply would end its message.
    let lengths = [[20; 4], [30; 4], [40; 4], [50; 4]].concat();
    for error in [libc::EMSGSIZE, libc::EIO, libc::EINVAL, libc::ENOBUFS, libc::ENETUNREACH] {
        let error = Errno::from_raw_os_error(error);
        let socket =
            Refuses { socket: &server, segments: [30, 50], error, controls: RefCell::default() };
        let mut batch = replies_of(&client, &server, &lengths);
        let control = segments::control_length(&batch.outgoing[0].msg_hdr);
        batch.join();
        assert_eq!(joined(&batch), [4; 4]);
        let sent = batch.send(&socket);
        let are_lost = error == Errno::NETUNREACH;
        let (left, refused, split) = if are_lost { (8, 8, 0) } else { (16, 0, 2) };
        assert_eq!((sent.datagrams, sent.refused, sent.split), (left, refused, split), "{error}");
        assert_eq!(sent.joined, 2);
        let singles = if are_lost { 0 } else { 8 };
        assert_eq!(
            socket.controls.take(),
            vec![control; singles],
            "the address that they leave from"
        );
        let mut buffer = [0; 100];
        for (at, length) in lengths.iter().enumerate() {
            if !are_lost || ![30, 50].contains(length) {
                assert_eq!(client.recv(&mut buffer).unwrap(), *length, "number {at}, {error}");
                assert!(buffer[..*length].iter().all(|byte| *byte == at as u8));
            }
        }
        assert!(client.recv(&mut buffer).is_err(), "nothing comes twice");
        // The headers are those of single replies again.
        client.send(b"more").unwrap();
        assert_eq!(batch.receive(&socket, Wait::ForOne), Ok(1));
        batch.reply(0, 4, None);
        assert_eq!(batch.send(&socket).bytes, 4);
        assert_eq!(client.recv(&mut buffer).unwrap(), 4);
    }
}

#[test]
fn a_source_that_was_written_is_read_as_it_was() {
    for text in ["127.0.0.2", "2001:db8::7"] {
        let ip: IpAddr = text.parse().unwrap();
        let mut control = [1; CONTROL_BYTES];
        let length = write_source(&mut control, ip);
        let all: Vec<_> = messages(&control[..length]).collect();
        let [(level, kind, data)] = all[..] else { panic!("{all:?}") };
        let mut arrived = Arrived::default();
        arrived.take(level, kind, data);
        // The kernel fills in the destination of the header, and ignores it here.
        let expected = match ip {
            IpAddr::V4(_) => Arrived { local: Some(ip), is_to_many: true, ..arrived },
            IpAddr::V6(_) => Arrived { local: Some(ip), ..Arrived::default() },
        };
        assert_eq!(arrived, expected);
    }
}

#[test]
fn control_messages_that_are_cut_are_left_out() {
    let mut control = [0; CONTROL_BYTES];
    let length = write_source(&mut control, IpAddr::from([127, 0, 0, 1]));
    for cut in 0..length {
        let whole = messages(&control[..cut]).count();
        assert_eq!(whole, usize::from(cut >= HEADER_BYTES + 12), "{cut} bytes");
    }
    control[0] = 3;
    assert_eq!(messages(&control).count(), 0, "shorter than its header");
}

#[test]
fn buffers_do_not_begin_at_the_same_place_of_a_page() {
    for longest in [1, 63, 64, 4_032, 4_096, 65_527] {
        let stride = stride(longest);
        assert!(stride >= longest && stride.is_multiple_of(CACHE_LINE));
        assert!(!stride.is_multiple_of(PAGE), "{longest}");
        assert!(stride < longest + 2 * CACHE_LINE);
    }
}

#[test]
fn a_batch_has_as_many_bytes_as_it_says() {
    for (count, longest) in [(1, 1), (7, 100), (32, 65_527)] {
        let batch = Batch::new(count, longest);
        let parts = [
            size_of_val(&*batch.incoming),
            size_of_val(&*batch.outgoing),
            size_of_val(&*batch.replies),
            size_of_val(&*batch.names),
            size_of_val(&*batch.controls),
            size_of_val(&*batch.vectors),
            size_of_val(&*batch.bytes),
        ];
        assert_eq!(Batch::bytes(count, longest), parts.iter().sum::<usize>() as u64);
    }
}
