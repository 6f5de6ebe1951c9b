//! Work that grows linearly with the number of operations.

use super::*;

#[test]
fn requests_that_are_due_at_once_keep_nobody_waiting() {
    // Quadratic work on this many would take more than a minute.
    const REQUESTS: u32 = 200_000;
    let (send, keep) = channel();
    let (silent, _) = serve(1, move |stream, _| send.send(stream).unwrap());
    let (_server, target) = echo_server();
    let limits = LoopLimits { operations: REQUESTS + 10, ..LoopLimits::for_clients(2) };
    let clients = ClientLoop::start(limits).unwrap();
    let unanswered = connected(&clients, &silent, Options::new());
    let other = connected(&clients, &target, Options::new());
    // A send that never completes is ahead of them, so none of them is sent.
    let stuck = unanswered.send(vec![1; 64 << 20]);
    let timeout = Duration::from_secs(1);
    let requests: Vec<_> =
        (0..REQUESTS).map(|_| unanswered.send_receive(vec![1], timeout)).collect();
    assert_eq!(done(other.send_receive(b"x".to_vec(), GUARD)).unwrap(), b"x");
    for request in requests {
        assert_eq!(done(request).unwrap_err().error, Error::TimedOut);
    }
    assert!(!stuck.is_complete());
    // Cancel them from last to first.
    let sends: Vec<_> = (0..REQUESTS).map(|_| unanswered.send(vec![1])).collect();
    sends.iter().rev().for_each(Pending::cancel);
    for send in sends {
        assert_eq!(done(send).unwrap_err().error, Error::Cancelled);
    }
    drop(keep);
}

#[test]
fn small_receives_out_of_much_cost_what_they_take() {
    const BYTES: usize = 64 << 20;
    let (target, written) = serve(1, |mut stream, _| {
        stream.write_all(&vec![7; BYTES]).unwrap();
        stream
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let all = client.receive_to_end(Vec::new(), usize::MAX);
    let _stream = written.recv_timeout(GUARD).unwrap();
    all.cancel();
    assert!(done(all).is_err());
    for _ in 0..50_000 {
        assert_eq!(done(client.receive(Vec::with_capacity(64))).unwrap().len(), 64);
    }
}
