//! The connections of the admin address. Their number, the size of a request and each time are
//! limited, so that clients of this address cannot use much of the process.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};

/// The most connections. A further one closes the oldest, so that clients that keep connections do
/// not shut out a probe.
pub(super) const CONNECTIONS_MAX: usize = 64;

/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The most header fields of a request.
const HEADERS_MAX: usize = 64;

/// How long a client may take to send the head of a request, counted from its connect or from the
/// end of the reply before.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// After this time a connection is closed at the end of a reply, so that none keeps its place for
/// ever.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// How long after [`CONNECTION_TIME`] a connection is closed in the middle of a reply. Longer than a
/// stream of events, which ends by itself.
const LAST_REPLY_TIME: Duration = Duration::from_secs(55);

/// After an error of accept, such as too many open files, the next try is made after this time.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The open connections, the oldest first.
#[derive(Default)]
struct Connections(Mutex<VecDeque<AbortHandle>>);

impl Connections {
    fn add(&self, connection: AbortHandle) {
        // The lock only guards a list, which is valid even after a panic.
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|connection| !connection.is_finished());
        if open.len() == CONNECTIONS_MAX
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(connection);
    }
}

/// A socket that the address listens on.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Serves until the other end of `ended` is dropped.
pub(super) async fn serve(listeners: Vec<Listener>, pages: Router, ended: oneshot::Receiver<()>) {
    let connections = Arc::<Connections>::default();
    for listener in listeners {
        tokio::spawn(accept(listener, connections.clone(), pages.clone()));
    }
    // Nothing is ever sent: this waits until the sender is gone.
    let _ = ended.await;
}

async fn accept(listener: Listener, connections: Arc<Connections>, pages: Router) {
    loop {
        let accepted = match &listener {
            Listener::Tcp(tcp) => {
                tcp.accept().await.map(|(socket, _)| tokio::spawn(converse(socket, pages.clone())))
            }
            Listener::Unix(unix) => {
                unix.accept().await.map(|(socket, _)| tokio::spawn(converse(socket, pages.clone())))
            }
        };
        match accepted {
            Ok(conversation) => {
                connections.add(conversation.abort_handle());
                // Lets the oldest connection end, if it was told to.
                yield_now().await;
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Replies to the requests of one connection.
async fn converse(socket: impl AsyncRead + AsyncWrite + Unpin + 'static, pages: Router) {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(pages))
    );
    // The errors of a connection concern its client alone.
    if timeout(CONNECTION_TIME, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_REPLY_TIME, connection).await;
    }
}
