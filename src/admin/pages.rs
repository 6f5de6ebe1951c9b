//! Which path has which page. What changes something is POST and needs the token; everything else is
//! read only, and a method other than GET and HEAD is refused.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{self, DefaultBodyLimit, Query, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::control::{self, FailedReply, beside};
use super::{AdminState, access, api, clients, health, metrics, page, status};

type Server = extract::State<Arc<AdminState>>;

pub(super) fn router(state: Arc<AdminState>) -> Router {
    let html = page::html();
    let reads = Router::new()
        .route("/", get(async move || page::reply(&html)))
        .route("/metrics", get(show_metrics))
        .route("/api/v1/config", get(async |state: Server| Json(api::config(&state))))
        .route("/api/v1/status", get(async |state: Server| Json(status::status(&state))))
        .route("/api/v1/events", get(async |state: Server| status::events(state.0)))
        .route("/api/v1/listeners", get(async |state: Server| Json(api::listeners(&state))))
        .route("/api/v1/workers", get(async |state: Server| Json(api::workers(&state))))
        .route("/api/v1/closes", get(async |state: Server| Json(api::closes(&state))))
        .route("/api/v1/clients", get(show_clients))
        .route("/healthz", get(show_health))
        .route("/readyz", get(show_readiness));
    let message_max = state.server.limits().buffer_size;
    let changes = Router::new()
        .route("/api/v1/clients/{id}/disconnect", post(control::disconnect))
        .route("/api/v1/listeners/{listener}/stop", post(control::stop))
        .route("/api/v1/listeners/{listener}/start", post(control::start))
        .route("/api/v1/message", post(control::message))
        .route("/api/v1/drain", post(control::drain))
        .route("/api/v1/reload", post(control::reload))
        .route("/api/v1/upgrade", post(control::upgrade))
        .layer(DefaultBodyLimit::max(message_max))
        .route_layer(from_fn_with_state(state.clone(), access::check_token));
    reads
        .merge(changes)
        .fallback(no_page)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), access::check_host))
        .layer(map_response(with_headers))
        .with_state(state)
}

async fn show_clients(
    state: Server,
    query: Result<Query<clients::Query>, QueryRejection>,
) -> Result<Response, FailedReply> {
    let Query(query) = query?;
    let of_page = state.clone();
    let page = beside(&state.lists, move || {
        let page = clients::page(&of_page, &query)?;
        Ok::<_, String>(Json(page).into_response())
    });
    page.await?.map_err(|error| FailedReply((StatusCode::BAD_REQUEST, error + "\n")))
}

async fn show_metrics(state: Server) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text(&state))
}

async fn show_health(state: Server) -> (StatusCode, String) {
    let stalled = health::stalled_workers(&state).await;
    if stalled.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let line = |worker| format!("worker {worker} has not turned for {:?}\n", health::TURN_TIME);
    (StatusCode::SERVICE_UNAVAILABLE, stalled.into_iter().map(line).collect())
}

async fn show_readiness(state: Server) -> (StatusCode, String) {
    match health::not_ready(&state) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

/// The reply to a path without a page.
async fn no_page(request: Request) -> Response {
    match *request.method() {
        Method::GET | Method::HEAD => (StatusCode::NOT_FOUND, "no such page\n").into_response(),
        _ => {
            let allow = [(header::ALLOW, "GET,HEAD")];
            (StatusCode::METHOD_NOT_ALLOWED, allow, "only GET and HEAD\n").into_response()
        }
    }
}

/// The reply to a method that the page does not have. The header `Allow` says which it has.
async fn wrong_method() -> (StatusCode, &'static str) {
    (StatusCode::METHOD_NOT_ALLOWED, "not with this method\n")
}

/// Adds what every reply has.
async fn with_headers(mut response: Response) -> Response {
    let each: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in each {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
