//! Callbacks that start further operations: none runs on the stack of another, and a chain of
//! operations that fail at once does not occupy the loop.

use std::cell::Cell;

use super::*;

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Receives, and receives again in the callback. Counts the callbacks and the depth of nesting.
fn receive_for_ever(client: &Arc<Client>, counts: &Arc<[AtomicU64; 2]>) {
    let (next, to) = (client.clone(), counts.clone());
    client.receive(Vec::with_capacity(64)).on_complete(move |_| {
        DEPTH.set(DEPTH.get() + 1);
        to[0].fetch_add(1, SeqCst);
        to[1].fetch_max(DEPTH.get().into(), SeqCst);
        receive_for_ever(&next, &to);
        DEPTH.set(DEPTH.get() - 1);
    });
}

#[test]
fn a_callback_that_tries_again_for_ever_neither_spins_nor_overflows() {
    let clients = start();
    let client = Arc::new(clients.client("127.0.0.1:1", Options::new()).unwrap());
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let begun = Instant::now();
    receive_for_ever(&client, &counts);
    while counts[0].load(SeqCst) == 0 {
        assert!(begun.elapsed() < GUARD, "no callback");
        thread::yield_now();
    }
    thread::sleep(SHORT * 4);
    let (count, ticks) = (counts[0].load(SeqCst), begun.elapsed().as_millis() as u64);
    assert!(count <= ticks + 2, "{count} callbacks in {ticks} ms");
    // This returns, although each callback sets another one.
    drop(clients);
    assert!(counts[0].load(SeqCst) > count);
    receive_for_ever(&client, &counts);
    assert_eq!(counts[1].load(SeqCst), 1, "a callback ran on the stack of another");
}

#[test]
fn a_callback_of_what_is_complete_runs_after_the_one_that_gives_it() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = Arc::new(connected(&clients, &target, Options::new()));
    let (send, order) = channel();
    let inner = client.clone();
    on_the_loop(&client, move || {
        let again = send.clone();
        // Fails at once, because there is no framing.
        inner.receive_message(Vec::new()).on_complete(move |_| again.send("inner").unwrap());
        send.send("outer").unwrap();
    });
    let order: Vec<_> = (0..2).map(|_| order.recv_timeout(GUARD).unwrap()).collect();
    assert_eq!(order, ["outer", "inner"]);
    assert_eq!(done(client.send_receive(b"y".to_vec(), GUARD)).unwrap(), b"y");
}

#[test]
fn an_error_tells_whether_trying_again_can_help() {
    let (target, _) = serve(2, |mut stream, _| {
        // Wait until bytes arrive.
        let _ = stream.read(&mut [0]);
    });
    let clients = start();
    let client = clients.client(&target, Options::new()).unwrap();
    assert!(done(client.receive(Vec::new())).unwrap_err().is_final(), "never connected");
    client.connect(GUARD).wait().unwrap();
    let receive = client.receive(Vec::new());
    done(client.send(vec![1])).unwrap();
    let failed = done(receive).unwrap_err();
    assert_eq!(failed.error, Error::ClosedByPeer);
    let failed = done(client.receive(Vec::new())).unwrap_err();
    assert!(failed.is_final() && !failed.error.is_final(), "it does not connect again");
    let slowly = Reconnect::between(GUARD, GUARD);
    let client = connected(&clients, &target, Options::new().reconnect(slowly));
    let receive = client.receive(Vec::new());
    done(client.send(vec![1])).unwrap();
    let failed = done(receive).unwrap_err();
    assert_eq!((&failed.error, failed.is_final()), (&Error::ClosedByPeer, false));
    for (error, is_final) in [(Error::LoopEnded, true), (Error::QueueFull, false)] {
        assert_eq!(error.is_final(), is_final);
        assert_eq!(Failed::from(error).is_final(), is_final);
    }
}

/// The loop stands still past a deadline. Afterwards the connection has more to send than fits into
/// its share of several turns, so that the reply is read later than the deadline is noticed.
#[test]
fn a_reply_that_came_while_the_loop_stood_still_counts_although_there_is_more_to_send() {
    // Less than a connection moves while its deadline is postponed.
    const LEN: usize = 7 << 20;
    let framing = Framing::Length { order: ByteOrder::Little, max: LEN as u32 };
    let (stands_still, is_told) = channel();
    let is_told = Mutex::new(is_told);
    let (target, answers) = serve(1, move |mut stream, _| {
        stream.read_exact(&mut [0; 4]).unwrap();
        is_told.lock().unwrap().recv_timeout(GUARD).unwrap();
        stream.write_all(&framed(b"early")).unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let (_server, echo) = echo_server();
    let clients = start();
    let sleeper = connected(&clients, &echo, Options::new());
    let client = connected(&clients, &target, Options::new().framing(framing));
    let pending = client.send_receive(vec![7; LEN], EXPIRES);
    // It has not read, and the kernel takes less than the message: the request is still being sent.
    thread::sleep(SHORT);
    on_the_loop(&sleeper, move || {
        stands_still.send(()).unwrap();
        thread::sleep(EXPIRES + SHORT * 4);
    });
    assert_eq!(done(pending).unwrap(), b"early");
    drop(client);
    drop(clients);
    assert_eq!(answers.recv_timeout(GUARD).unwrap(), LEN as u64);
}
