//! Which path has which page. All of them are read only: a method other than GET and HEAD is
//! refused.

use std::sync::Arc;

use axum::extract::{self, Request};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};

use super::{State, api, health, metrics};

type Server = extract::State<Arc<State>>;

pub(super) fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/api/v1/config", get(async |state: Server| Json(api::config(&state))))
        .route("/api/v1/listeners", get(async |state: Server| Json(api::listeners(&state))))
        .route("/api/v1/workers", get(async |state: Server| Json(api::workers(&state))))
        .route("/api/v1/closes", get(async |state: Server| Json(api::closes(&state))))
        .route("/healthz", get(show_health))
        .route("/readyz", get(show_readiness))
        .fallback(no_page)
        .layer(map_response(with_headers))
        .with_state(state)
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

/// Adds what every reply has.
async fn with_headers(mut response: Response) -> Response {
    let each: [(HeaderName, &str); 2] =
        [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    for (name, value) in each {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
