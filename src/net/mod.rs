//! Creates and queries sockets: transports, bind, accept queue, socket options.

pub mod accept_queue;
pub mod bind;
#[cfg(target_os = "linux")]
pub mod message_calls;
#[cfg(target_os = "linux")]
pub mod mmsg;
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod sockopt;
pub mod transport;

/// Runs this on a thread that does not have this capability, whoever runs the tests.
#[cfg(all(test, target_os = "linux"))]
pub fn without_capability(
    capability: rustix::thread::CapabilitySet,
    run: impl FnOnce() + Send + 'static,
) {
    let run = move || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective.remove(capability);
        rustix::thread::set_capabilities(None, sets).unwrap();
        run();
    };
    std::thread::spawn(run).join().unwrap();
}
