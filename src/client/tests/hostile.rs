//! Servers that never reply, reply in part, close, reset, and send invalid data.

use super::*;

#[test]
fn a_request_that_is_never_answered_times_out_and_its_late_reply_is_nobodys() {
    let (go, when) = channel();
    let (target, _) = serve(2, move |mut stream, nth| {
        if nth == 0 {
            let mut request = [0; 5];
            stream.read_exact(&mut request).unwrap();
            when.recv_timeout(GUARD).unwrap();
            let _ = stream.write_all(&request);
        } else {
            let mut request = [0; 5];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
            let _ = stream.read(&mut request);
        }
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let first = client.send_receive(b"first".to_vec(), EXPIRES);
    let second = client.send_receive(b"other".to_vec(), GUARD);
    let failed = done(first).unwrap_err();
    assert_eq!((failed.error, failed.bytes_sent), (Error::TimedOut, 5));
    assert_eq!(failed.buffer, b"first");
    go.send(()).unwrap();
    assert_eq!(done(second).unwrap_err().error, Error::TimedOut, "on the same connection");
    client.connect(GUARD).wait().unwrap();
    assert_eq!(done(client.send_receive(b"third".to_vec(), GUARD)).unwrap(), b"third");
}

#[test]
fn a_reply_that_ends_half_way_is_an_error_with_what_had_come() {
    for (with_reset, expected) in [(false, Error::ClosedByPeer), (true, Error::Reset)] {
        let (target, _) = serve(1, move |mut stream, _| {
            let mut request = [0; 10];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request[..4]).unwrap();
            // Gives the client time to read the bytes before the reset discards them.
            thread::sleep(Duration::from_millis(100));
            if with_reset {
                reset(stream);
            }
        });
        let clients = start();
        let client = connected(&clients, &target, Options::new());
        let failed = done(client.send_receive(b"0123456789".to_vec(), GUARD)).unwrap_err();
        assert_eq!((failed.error, failed.bytes_sent), (expected, 10));
    }
}

#[test]
fn a_frame_that_is_cut_short_is_given_out_as_far_as_it_came() {
    let (target, _) = serve(1, |mut stream, _| {
        stream.write_all(&framed(b"whole")).unwrap();
        stream.write_all(&framed(b"cut short")[..7]).unwrap();
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new().framing(LITTLE));
    assert_eq!(done(client.receive_message(vec![])).unwrap(), b"whole");
    let failed = done(client.receive_message(vec![])).unwrap_err();
    assert_eq!(failed.error, Error::ClosedByPeer);
    assert_eq!(failed.buffer, framed(b"cut short")[..7]);
}

#[test]
fn a_length_that_may_not_be_ends_the_connection() {
    for (length, error) in [
        (-1_i32, FrameError::Negative(-1)),
        (i32::MIN, FrameError::Negative(i32::MIN)),
        ((1 << 20) + 1, FrameError::TooLong { len: (1 << 20) + 1, max: 1 << 20 }),
    ] {
        let (target, ended) = serve(1, move |mut stream, _| {
            stream.write_all(&length.to_le_bytes()).unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
        });
        let clients = start();
        let client = connected(&clients, &target, Options::new().framing(LITTLE));
        let receive = client.receive_message(vec![]);
        let request = client.send_receive(b"x".to_vec(), GUARD);
        assert_eq!(done(receive).unwrap_err().error, Error::FrameTooLarge(error));
        assert_eq!(done(request).unwrap_err().error, Error::FrameTooLarge(error));
        ended.recv_timeout(GUARD).expect("the connection is closed");
    }
}

#[test]
fn a_message_without_an_end_is_refused_at_the_limit() {
    let (target, _) = serve(1, |mut stream, _| while stream.write_all(&[b'x'; 100]).is_ok() {});
    let eof = Framing::Delimiter { delimiter: Delimiter::new(b"<EOF>").unwrap(), max: 1000 };
    let clients = start();
    let client = connected(&clients, &target, Options::new().framing(eof));
    let failed = done(client.receive_message(vec![])).unwrap_err();
    let too_long = FrameError::TooLong { len: 1000, max: 1000 };
    assert_eq!(failed.error, Error::FrameTooLarge(too_long));
    assert!(failed.buffer.len() <= 1000);
}

#[test]
fn more_than_was_allowed_before_the_end_is_an_error() {
    let (target, _) = serve(1, |mut stream, _| while stream.write_all(&[b'x'; 100]).is_ok() {});
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let failed = done(client.receive_to_end(vec![], 10_000)).unwrap_err();
    assert_eq!(failed.error, Error::TooLong(10_000));
}

#[test]
fn a_reply_before_the_request_is_out_completes_nothing() {
    let (target, _) = serve(1, |mut stream, _| {
        // A complete reply, before a byte of the request was read.
        stream.write_all(&framed(b"too early")).unwrap();
        thread::sleep(Duration::from_millis(200));
    });
    let clients = start();
    let big = Framing::Length { order: ByteOrder::Little, max: 1 << 30 };
    let client = connected(&clients, &target, Options::new().framing(big));
    // Exceeds the socket buffers, so it cannot have been sent completely.
    let failed = done(client.send_receive(vec![1; 64 << 20], GUARD)).unwrap_err();
    assert!(matches!(failed.error, Error::Reset | Error::ClosedByPeer), "{failed:?}");
    assert!(failed.bytes_sent < 64 << 20);
}

#[test]
fn a_peer_that_does_not_read_is_given_up_after_the_send_timeout() {
    let (send, keep) = channel();
    let (target, _) = serve(1, move |stream, _| send.send(stream).unwrap());
    let limits =
        LoopLimits { send_timeout: Some(Duration::from_millis(200)), ..LoopLimits::for_clients(1) };
    let clients = ClientLoop::start(limits).unwrap();
    let client = connected(&clients, &target, Options::new());
    let failed = done(client.send(vec![1; 64 << 20])).unwrap_err();
    assert_eq!(failed.error, Error::SendTimedOut);
    assert!(failed.bytes_sent > 0 && failed.bytes_sent < 64 << 20);
    drop(keep);
}

#[test]
fn a_deadline_of_a_request_counts_while_it_waits_to_be_sent() {
    let (send, keep) = channel();
    let (target, _) = serve(1, move |stream, _| send.send(stream).unwrap());
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let stuck = client.send(vec![1; 64 << 20]);
    let failed = done(client.send_receive(b"never sent".to_vec(), SHORT)).unwrap_err();
    assert_eq!((failed.error, failed.bytes_sent), (Error::TimedOut, 0));
    assert!(!stuck.is_complete(), "it is not affected");
    drop((client, keep));
    assert_eq!(done(stuck).unwrap_err().error, Error::Cancelled);
}
