//! The connections of the admin address. Their number, the size of a request and each time are
//! limited, so that clients of this address cannot use much of the process.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{oneshot, watch};
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

/// How long the replies may take that are being sent when the address is left to another process.
const LEAVING_TIME: Duration = Duration::from_secs(1);

/// What the address does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AdminPhase {
    /// It accepts nothing yet.
    Waits,
    Serves,
    /// It has stopped accepting, because another process does. Connections end with the reply that
    /// is being sent.
    Leaves,
}

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

    fn all_have_ended(&self) -> bool {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().all(AbortHandle::is_finished)
    }
}

/// A socket that the address listens on.
pub(super) enum AdminSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Serves until the other end of `ended` is dropped.
pub(super) async fn serve(
    listeners: Vec<AdminSocket>,
    pages: Router,
    phase: watch::Receiver<AdminPhase>,
    ended: oneshot::Receiver<()>,
) {
    let connections = Arc::<Connections>::default();
    for listener in listeners {
        let (connections, pages, mut phase) = (connections.clone(), pages.clone(), phase.clone());
        tokio::spawn(async move {
            let _ = phase.wait_for(|phase| *phase != AdminPhase::Waits).await;
            let mut until = phase.clone();
            let leaves = pin!(until.wait_for(|phase| *phase == AdminPhase::Leaves));
            let accepting = pin!(accept(&listener, &connections, &pages, &phase));
            let _ = select(accepting, leaves).await;
        });
    }
    // Nothing is ever sent: this waits until the sender is gone.
    let _ = ended.await;
    if *phase.borrow() == AdminPhase::Leaves {
        const LOOK: Duration = Duration::from_millis(5);
        let all_have_ended = async {
            while !connections.all_have_ended() {
                sleep(LOOK).await;
            }
        };
        let _ = timeout(LEAVING_TIME, all_have_ended).await;
    }
}

async fn accept(
    listener: &AdminSocket,
    connections: &Connections,
    pages: &Router,
    phase: &watch::Receiver<AdminPhase>,
) {
    loop {
        let (pages, phase) = (pages.clone(), phase.clone());
        let accepted = match listener {
            AdminSocket::Tcp(tcp) => {
                tcp.accept().await.map(|(socket, _)| tokio::spawn(converse(socket, pages, phase)))
            }
            AdminSocket::Unix(unix) => {
                unix.accept().await.map(|(socket, _)| tokio::spawn(converse(socket, pages, phase)))
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
async fn converse(
    socket: impl AsyncRead + AsyncWrite + Unpin + 'static,
    pages: Router,
    mut phase: watch::Receiver<AdminPhase>,
) {
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(pages))
    );
    // The errors of a connection concern its client alone.
    let has_ended = {
        let conversation = pin!(timeout(CONNECTION_TIME, connection.as_mut()));
        let leaves = pin!(phase.wait_for(|phase| *phase == AdminPhase::Leaves));
        matches!(select(conversation, leaves).await, Either::Left((Ok(_), _)))
    };
    if !has_ended {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_REPLY_TIME, connection).await;
    }
}
