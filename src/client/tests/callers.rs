//! Callers that submit redundant commands, from several threads or at the wrong time.

use super::*;

#[test]
fn sends_keep_their_order_however_often_something_is_cancelled() {
    let (target, received) = serve(1, |mut stream, _| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    // A callback blocks the loop, so that it reads no commands.
    let (held, is_held) = channel();
    let (go, when) = channel();
    on_the_loop(&client, move || {
        held.send(()).unwrap();
        when.recv_timeout(GUARD).unwrap();
    });
    is_held.recv_timeout(GUARD).unwrap();
    let receive = client.receive(Vec::new());
    let canceller = receive.canceller();
    for _ in 0..1000 {
        receive.cancel();
        canceller.cancel();
    }
    let sends: Vec<_> = (0..20).map(|n| client.send(vec![n])).collect();
    go.send(()).unwrap();
    for send in sends {
        done(send).unwrap();
    }
    assert_eq!(done(receive).unwrap_err().error, Error::Cancelled);
    done(client.disconnect()).unwrap();
    assert_eq!(received.recv_timeout(GUARD).unwrap(), Vec::from_iter(0..20));
}
