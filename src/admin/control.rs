//! What changes something: POST below `/api/v1/`. `access` has decided that the request may.
//!
//! Each of these waits for a worker or for the program, so it runs on a thread beside the admin
//! thread, and a request that waits holds up no other.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{self, FromRequest, Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::AdminState;
use crate::base::key::ConnectionId;
use crate::server::messaging::Broadcast;
use crate::server::view::NotDone;
use crate::shared::receipt::SendError;

/// How long the workers have to carry out what was asked.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may take to send a message.
const BODY_TIME: Duration = Duration::from_secs(5);

type Server = extract::State<Arc<AdminState>>;

/// What the program can be asked for. The calls may block, and are made on any thread.
pub trait Operations: Send + Sync + 'static {
    /// Begins a drain, and returns at once. If a drain has begun, nothing happens.
    fn drain(&self);

    /// Reads the configuration again. Returns what has come of it in one line.
    ///
    /// # Errors
    /// Why nothing was changed.
    fn reload(&self) -> Result<String, String>;

    /// Carries out a change, unless another process is about to replace this one, and would not know of
    /// it. [`reload`](Operations::reload) is called within this.
    ///
    /// # Errors
    /// Why nothing is changed.
    fn change(&self, change: &mut dyn FnMut()) -> Result<(), String> {
        change();
        Ok(())
    }

    /// Replaces the running process by a new one. Returns what has come of it in one line.
    ///
    /// # Errors
    /// Why the running process goes on.
    fn upgrade(&self) -> Result<String, String> {
        Err("this program cannot be upgraded while it runs".to_owned())
    }
}

/// The result of `POST /api/v1/clients/ID/disconnect`.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "disconnected"))]
pub(super) struct DisconnectedPage {
    /// The client's id. The connection closes when the output queued for it is sent.
    disconnected: String,
}

/// The result of `POST /api/v1/listeners/N/stop` and `start`.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "accepting"))]
pub(super) struct AcceptingPage {
    /// The number of the listener.
    listener: usize,
    /// Whether it accepts connections.
    accepting: bool,
}

/// The result of `POST /api/v1/drain`.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "draining"))]
pub(super) struct DrainingPage {
    /// Always true: the drain has begun.
    draining: bool,
}

/// The result of `POST /api/v1/message`.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "sent"))]
pub(super) struct SentPage {
    /// Clients for which the message was queued.
    queued: u64,
    /// Clients that do not get it: too much is queued for them or for their worker, or nothing more
    /// is sent to them.
    refused: u64,
}

/// The result of `POST /api/v1/reload`.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "reloaded"))]
pub(super) struct ReloadedPage {
    /// Whether the configuration was applied. If not, nothing is changed.
    applied: bool,
    /// What has changed and what needs a restart, or what is wrong.
    text: String,
}

/// The result of `POST /api/v1/upgrade`.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "upgraded"))]
pub(super) struct UpgradedPage {
    /// Whether the new process has taken over. If not, the one that ran goes on.
    upgraded: bool,
    /// The new process, or why there is none.
    text: String,
}

/// A refusal, in words.
pub(super) type Refused = (StatusCode, String);

fn refused(status: StatusCode, text: impl std::fmt::Display) -> Refused {
    (status, format!("{text}\n"))
}

impl From<NotDone> for FailedReply {
    fn from(error: NotDone) -> FailedReply {
        let status = match error {
            NotDone::Refused(SendError::Gone) => StatusCode::NOT_FOUND,
            NotDone::Refused(SendError::TooLong) => StatusCode::PAYLOAD_TOO_LARGE,
            NotDone::Refused(SendError::QueueFull | SendError::OnWorkerThread) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            NotDone::NoReply => StatusCode::GATEWAY_TIMEOUT,
        };
        FailedReply(refused(status, error))
    }
}

/// An error that becomes a reply.
pub(super) struct FailedReply(pub(super) Refused);

impl IntoResponse for FailedReply {
    fn into_response(self) -> Response {
        self.0.into_response()
    }
}

impl From<PathRejection> for FailedReply {
    fn from(error: PathRejection) -> FailedReply {
        FailedReply(refused(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

impl From<QueryRejection> for FailedReply {
    fn from(error: QueryRejection) -> FailedReply {
        FailedReply(refused(StatusCode::BAD_REQUEST, error.body_text()))
    }
}

/// Requests that wait for workers or for the program, of one kind. The others of the kind wait for
/// their turn where they can be given up, and not in the queue of the threads.
#[derive(Clone)]
pub(super) struct Turns(Arc<Semaphore>);

impl Turns {
    pub(super) fn new(at_once: usize) -> Turns {
        Turns(Arc::new(Semaphore::new(at_once)))
    }
}

/// Runs what blocks on another thread, when it is its turn.
pub(super) async fn beside<T: Send + 'static>(
    turns: &Turns,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, FailedReply> {
    let busy = "too many requests are being carried out: try again";
    let busy = || FailedReply(refused(StatusCode::SERVICE_UNAVAILABLE, busy));
    let turn = timeout(PATIENCE, turns.0.clone().acquire_owned()).await.map_err(|_| busy())?;
    let turn = turn.map_err(|_| busy())?;
    let work = move || {
        let done = work();
        drop(turn);
        done
    };
    let failed =
        |_| FailedReply(refused(StatusCode::INTERNAL_SERVER_ERROR, "this request has failed"));
    spawn_blocking(work).await.map_err(failed)
}

/// Carries out a change of the server, and logs it: also if nobody waits for the reply any more.
async fn change<T: Send + 'static>(
    state: &Arc<AdminState>,
    what: String,
    work: impl FnOnce(&AdminState) -> Result<T, NotDone> + Send + 'static,
) -> Result<T, FailedReply> {
    let of_work = state.clone();
    let done = beside(&state.changes, move || note(&what, work(&of_work)));
    Ok(done.await??)
}

/// Logs a change that was carried out, or may have been.
fn note<T>(what: &str, done: Result<T, NotDone>) -> Result<T, NotDone> {
    match &done {
        Ok(_) => log::info!(target: super::LOG, "{what}"),
        Err(NotDone::NoReply) => {
            log::warn!(target: super::LOG, "{what}: a worker has not replied, and may still do it");
        }
        Err(NotDone::Refused(_)) => {}
    }
    done
}

pub(super) async fn disconnect(
    state: Server,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Json<DisconnectedPage>, FailedReply> {
    let Path(id) = id?;
    let number = ConnectionId::from_bits(id);
    let what = format!("disconnecting id={id}");
    change(&state, what, move |state| state.server.disconnect(number, PATIENCE)).await?;
    Ok(Json(DisconnectedPage { disconnected: id.to_string() }))
}

pub(super) async fn stop(
    state: Server,
    listener: Result<Path<usize>, PathRejection>,
) -> Result<Json<AcceptingPage>, FailedReply> {
    set_accepting(state, listener, false).await
}

pub(super) async fn start(
    state: Server,
    listener: Result<Path<usize>, PathRejection>,
) -> Result<Json<AcceptingPage>, FailedReply> {
    set_accepting(state, listener, true).await
}

async fn set_accepting(
    state: Server,
    listener: Result<Path<usize>, PathRejection>,
    accepting: bool,
) -> Result<Json<AcceptingPage>, FailedReply> {
    let Path(listener) = listener?;
    let Some(endpoint) = state.server.listener(listener) else {
        return Err(FailedReply(refused(StatusCode::NOT_FOUND, "there is no such listener")));
    };
    if endpoint.is_datagram() {
        let text = "a listener for datagrams accepts no connections, and cannot be stopped";
        return Err(FailedReply(refused(StatusCode::CONFLICT, text)));
    }
    let what = if accepting { "accepting again" } else { "accepting stopped" };
    let what = format!("{what} at listener={listener} {endpoint}");
    let of_work = state.clone();
    let done = beside(&state.changes, move || {
        let operations = of_work.operations().clone();
        let set = || of_work.server.set_accepting(listener, accepting, PATIENCE);
        unless_replaced(operations.as_deref(), || note(&what, set()))
    });
    done.await???;
    Ok(Json(AcceptingPage { listener, accepting }))
}

pub(super) async fn drain(state: Server) -> Result<(StatusCode, Json<DrainingPage>), FailedReply> {
    let operations = operations(&state)?;
    beside(&state.endings, move || operations.drain()).await?;
    Ok((StatusCode::ACCEPTED, Json(DrainingPage { draining: true })))
}

pub(super) async fn reload(state: Server) -> Result<(StatusCode, Json<ReloadedPage>), FailedReply> {
    let operations = operations(&state)?;
    let reload = move || unless_replaced(Some(&*operations), || operations.reload());
    let result = beside(&state.changes, reload).await??;
    let page = |applied, text| ReloadedPage { applied, text };
    Ok(outcome(result, StatusCode::UNPROCESSABLE_ENTITY, page))
}

pub(super) async fn upgrade(
    state: Server,
) -> Result<(StatusCode, Json<UpgradedPage>), FailedReply> {
    let operations = operations(&state)?;
    let result = beside(&state.changes, move || operations.upgrade()).await?;
    let page = |upgraded, text| UpgradedPage { upgraded, text };
    Ok(outcome(result, StatusCode::CONFLICT, page))
}

/// The page with what has come of a request to the program, and its status, which is `failed` for an
/// error.
fn outcome<Page>(
    result: Result<String, String>,
    failed: StatusCode,
    page: impl FnOnce(bool, String) -> Page,
) -> (StatusCode, Json<Page>) {
    let is_done = result.is_ok();
    let (Ok(text) | Err(text)) = result;
    (if is_done { StatusCode::OK } else { failed }, Json(page(is_done, text)))
}

/// Carries out a change, unless another process is about to replace this one.
fn unless_replaced<T>(
    operations: Option<&dyn Operations>,
    change: impl FnOnce() -> T,
) -> Result<T, FailedReply> {
    let Some(operations) = operations else { return Ok(change()) };
    let (mut change, mut result) = (Some(change), None);
    let done = operations.change(&mut || result = change.take().map(|change| change()));
    let why = done.err().unwrap_or_else(|| "it was not carried out".to_owned());
    result.ok_or_else(|| FailedReply(refused(StatusCode::CONFLICT, &why)))
}

fn operations(state: &AdminState) -> Result<Arc<dyn Operations>, FailedReply> {
    let none =
        || FailedReply(refused(StatusCode::NOT_IMPLEMENTED, "this program cannot be asked for it"));
    state.operations().clone().ok_or_else(none)
}

/// The recipients of a message. Exactly one is given.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipients {
    /// The id of a client.
    to: Option<u64>,
    /// The number of a listener, for all of its clients.
    listener: Option<usize>,
}

pub(super) async fn message(
    state: Server,
    to: Result<extract::Query<Recipients>, QueryRejection>,
    request: Request,
) -> Result<Json<SentPage>, FailedReply> {
    let extract::Query(to) = to?;
    let body = timeout(BODY_TIME, Bytes::from_request(request, &()));
    let too_slow =
        |_| FailedReply(refused(StatusCode::REQUEST_TIMEOUT, "the message takes too long"));
    let bytes = body.await.map_err(too_slow)?.map_err(unread)?;
    let (queued, refused_by) = match to {
        Recipients { to: Some(id), listener: None } => {
            let id = ConnectionId::from_bits(id);
            let what = format!("message id={} bytes={}", id.to_bits(), bytes.len());
            change(&state, what, move |state| state.server.send_to(id, &bytes, PATIENCE)).await?;
            (1, 0)
        }
        Recipients { to: None, listener: Some(listener) } => {
            if state.server.listener(listener).is_none() {
                return Err(FailedReply(refused(
                    StatusCode::NOT_FOUND,
                    "there is no such listener",
                )));
            }
            let what = format!("message listener={listener} bytes={}", bytes.len());
            let sent = change(&state, what, move |state| {
                state.server.broadcast(listener, &bytes, PATIENCE)
            });
            let Broadcast { queued, refused } = sent.await?;
            (queued, refused)
        }
        _ => {
            let text = "name either a client (to=ID) or a listener (listener=N)";
            return Err(FailedReply(refused(StatusCode::BAD_REQUEST, text)));
        }
    };
    Ok(Json(SentPage { queued, refused: refused_by }))
}

fn unread(error: BytesRejection) -> FailedReply {
    FailedReply(refused(error.status(), error.body_text()))
}
