//! The page `/api/v1/status`: what a person wants to know first. `/api/v1/events` sends it once per
//! second, for the page in the browser.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::response::sse::{Event, Sse};
use futures_util::stream::{self, Stream};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::api::{CountsObject, ListenerObject, TimesObject, unix_nanos};
use super::{AdminState, api, health};

/// How often the status is sent.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// How many are sent before the stream ends, so that it ends in order before the connection does.
/// The browser opens it again after [`RETRY`].
const EVENTS: u32 = 50;
const RETRY: Duration = Duration::from_millis(200);

/// `/api/v1/status`: what the server does now.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "status"))]
pub(super) struct StatusPage {
    /// The version of echopool.
    version: &'static str,
    /// When the server started, in nanoseconds since 1970-01-01 UTC.
    started_unix_ns: u64,
    /// When this was read, in nanoseconds since 1970-01-01 UTC.
    now_unix_ns: u64,
    /// Why new clients are not welcome; null if they are.
    not_ready: Option<&'static str>,
    /// Whether the server drains or stops.
    ending: bool,
    /// Whether the server was started with a token, without which nothing can be changed.
    controllable: bool,
    /// The most connections of all workers together.
    max_connections: u32,
    /// Buffers of all workers together.
    buffers: u32,
    /// Bytes of a buffer.
    buffer_size_bytes: usize,
    /// The memory sum: what the server has reserved.
    memory_total_bytes: u64,
    /// Resident memory of the process, without that of files; null if the system does not say.
    memory_resident_bytes: Option<u64>,
    /// The counts of all workers together.
    total: CountsObject,
    /// The histograms of all workers together.
    times: TimesObject,
    listeners: Vec<ListenerObject>,
}

pub(super) fn status(state: &AdminState) -> StatusPage {
    let limits = state.server.limits();
    StatusPage {
        version: env!("CARGO_PKG_VERSION"),
        started_unix_ns: unix_nanos(state.started),
        now_unix_ns: unix_nanos(SystemTime::now()),
        not_ready: health::not_ready(state),
        ending: state.server.is_ending(),
        controllable: state.token.is_some(),
        max_connections: limits.max_connections,
        buffers: limits.buffers,
        buffer_size_bytes: limits.buffer_size,
        memory_total_bytes: state.server.memory.total(),
        memory_resident_bytes: resident_bytes(),
        total: CountsObject(state.server.stats().total()),
        times: api::times(state),
        listeners: api::listeners(state).listeners,
    }
}

/// Resident memory without pages of files, such as those of the program itself.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some((kib("VmRSS:")?.saturating_sub(kib("RssFile:")?)) << 10)
}

/// The status, now and once per second.
pub(super) fn events(state: Arc<AdminState>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut ticks = interval_at(Instant::now(), EVENT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let next = async |(state, mut ticks, sent): (Arc<AdminState>, Interval, u32)| {
        if sent == EVENTS {
            return None;
        }
        ticks.tick().await;
        let event = Event::default().json_data(status(&state)).expect("numbers and texts");
        let event = if sent == 0 { event.retry(RETRY) } else { event };
        Some((Ok(event), (state, ticks, sent + 1)))
    };
    Sse::new(stream::unfold((state, ticks, 0), next))
}
