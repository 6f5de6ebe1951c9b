//! A request to an admin address, over TCP or a Unix socket.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Method, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_encode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;
use tokio::time::timeout;

use crate::base::url::ENCODED;

/// How long a reply may take. A daemon replies earlier, also if a worker does not.
const PATIENCE: Duration = Duration::from_secs(30);

/// The longest reply, in bytes: ten thousand clients.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// Where a daemon is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum At {
    /// A host with its port.
    Tcp(String),
    Unix(PathBuf),
}

impl At {
    /// # Errors
    /// The text is none of the forms.
    pub(super) fn parse(text: &str) -> Result<At, String> {
        let path = text.strip_prefix("unix://").or_else(|| text.starts_with('/').then_some(text));
        if let Some(path) = path.filter(|path| path.starts_with('/')) {
            return Ok(At::Unix(path.into()));
        }
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("tcp://"));
        let host = host.unwrap_or(text).trim_end_matches('/');
        let (name, port) = host.rsplit_once(':').unwrap_or(("", host));
        let name = if name.is_empty() { "127.0.0.1" } else { name };
        let is_whole = !name.contains(':') || (name.starts_with('[') && name.ends_with(']'));
        match port.parse::<u16>() {
            Ok(port) if is_whole && !name.contains('/') => Ok(At::Tcp(format!("{name}:{port}"))),
            _ => Err(format!(
                "'{text}' is not an admin address; write 9000 (= 127.0.0.1:9000), HOST:PORT, \
                 http://HOST:PORT or unix:///PATH"
            )),
        }
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            At::Tcp(host) => write!(f, "http://{host}"),
            At::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// A request to the admin address.
pub(super) struct Request {
    pub(super) method: Method,
    path: String,
    body: Vec<u8>,
    patience: Duration,
}

impl Request {
    pub(super) fn new(method: Method, path: String) -> Request {
        Request { method, path, body: Vec::new(), patience: PATIENCE }
    }

    /// Adds a parameter.
    pub(super) fn with(mut self, name: &str, value: &str) -> Request {
        let mark = if self.path.contains('?') { '&' } else { '?' };
        let value = percent_encode(value.as_bytes(), ENCODED);
        self.path.push_str(&format!("{mark}{name}={value}"));
        self
    }

    /// Sets how long the reply may take.
    pub(super) fn patient(self, patience: Duration) -> Request {
        Request { patience, ..self }
    }

    pub(super) fn of(self, body: Vec<u8>) -> Request {
        Request { body, ..self }
    }
}

/// Sends a request. Returns the status and the body of the reply.
///
/// # Errors
/// There is no reply. The text says why.
pub(super) fn ask(
    at: &At,
    request: Request,
    token: Option<&str>,
) -> Result<(StatusCode, Bytes), String> {
    let patience = request.patience;
    let host = if let At::Tcp(host) = at { host } else { "localhost" };
    let mut message = axum::http::Request::builder()
        .method(request.method)
        .uri(request.path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "close");
    if let Some(token) = token {
        message = message.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let message = message.body(Body::from(request.body)).map_err(|error| error.to_string())?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let reply = runtime.block_on(async {
        timeout(patience, async {
            match at {
                At::Tcp(host) => converse(TcpStream::connect(host).await?, message).await,
                At::Unix(path) => converse(UnixStream::connect(path).await?, message).await,
            }
        })
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    });
    // A look-up of a name that has not ended is not waited for.
    runtime.shutdown_background();
    reply.map_err(|error| format!("cannot query {at}: {error}"))
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    message: axum::http::Request<Body>,
) -> io::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let reply = sender.send_request(message).await.map_err(io::Error::other)?;
    let status = reply.status();
    let body = to_bytes(Body::new(reply.into_body()), REPLY_BYTES_MAX).await;
    connection.abort();
    Ok((status, body.map_err(io::Error::other)?))
}
