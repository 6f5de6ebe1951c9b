//! The page `/api/v1/clients`: the connections, sorted, filtered and cut into pages.
//!
//! Who is connected is in the directory, which this thread reads without waiting. The workers are
//! asked only for what is not in it (bytes, output, state), and only for the clients that are
//! shown, unless they are sorted by it.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use super::AdminState;
use crate::base::key::ConnectionId;
use crate::engine::sys::monotonic_now;
use crate::shared::directory::ClientInfo;
use crate::shared::examination::Detail;

/// The most clients of one page, and how many there are if the request does not say.
const LIMIT_MAX: usize = 10_000;
const LIMIT_DEFAULT: usize = 100;

/// The longest text to filter by, in bytes.
const FILTER_BYTES_MAX: usize = 256;

/// How long the workers have to say what they know of their clients.
const PATIENCE: Duration = Duration::from_secs(2);

/// Which clients are shown.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Query {
    offset: usize,
    limit: usize,
    sort: Sort,
    order: Order,
    filter: String,
}

impl Default for Query {
    fn default() -> Query {
        let (sort, order) = (Sort::Id, Order::Asc);
        Query { offset: 0, limit: LIMIT_DEFAULT, sort, order, filter: String::new() }
    }
}

/// What the clients are sorted by. Clients that are equal are in the order of their ids.
#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Sort {
    Id,
    Peer,
    Listener,
    Service,
    Transport,
    AgeNs,
    BytesReceived,
    BytesSent,
    OutputBytes,
    State,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
enum Order {
    Asc,
    Desc,
}

/// `/api/v1/clients`: clients that are connected.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "clients"))]
pub(super) struct ClientsPage {
    /// Clients that are connected.
    total: usize,
    /// Those of them that the filter selects.
    matched: usize,
    /// How many of these are before the first one here.
    offset: usize,
    clients: Vec<ClientObject>,
}

/// A client.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "client"))]
struct ClientObject {
    /// Its id, as in the log. A text, because numbers of JavaScript are not exact above 2^53.
    id: String,
    /// Its address, or its process.
    peer: String,
    /// The number of its listener, from 0.
    listener: usize,
    /// The endpoint of its listener.
    endpoint: String,
    /// The service, such as `echo`; null if it is none of those built in.
    service: Option<&'static str>,
    /// The transport: `tcp`, `tls`, `unix` or `unix+tls`.
    transport: &'static str,
    /// How long it has been connected.
    age_ns: u64,
    /// Bytes delivered to the service. Null if its worker did not say in time, or the client has just
    /// left, as for the next three.
    bytes_received: Option<u64>,
    /// Bytes from the service that the kernel accepted to send.
    bytes_sent: Option<u64>,
    /// Bytes on the output that the kernel has not accepted yet.
    output_bytes: Option<u64>,
    /// `open`; `sending`: it does not read its output as fast as it is sent; `waiting-for-buffer`;
    /// `paused`: the service does not read it; `closing`: it is sent the rest of its output;
    /// `lingering`: it has been sent everything, and has not closed its side.
    state: Option<&'static str>,
}

/// The page. Waits for the workers.
///
/// # Errors
/// The query is wrong.
pub(super) fn page(state: &AdminState, query: &Query) -> Result<ClientsPage, String> {
    if query.limit > LIMIT_MAX {
        return Err(format!("limit must be from 0 to {LIMIT_MAX}"));
    }
    if query.filter.len() > FILTER_BYTES_MAX {
        return Err(format!("filter must have at most {FILTER_BYTES_MAX} bytes"));
    }
    let mut clients = state.server.clients();
    let total = clients.len();
    filter(state, &mut clients, &query.filter);
    let matched = clients.len();
    let by_detail = query.sort.needs_details();
    let mut details = HashMap::new();
    if by_detail {
        details = examine(state, &clients);
    }
    let compare = |a: &ClientInfo, b: &ClientInfo| {
        let ordering = compare(state, query.sort, &details, a, b);
        let ordering = if query.order == Order::Desc { ordering.reverse() } else { ordering };
        ordering.then(a.id.cmp(&b.id))
    };
    clients.sort_unstable_by(compare);
    let shown: Vec<ClientInfo> = clients.into_iter().skip(query.offset).take(query.limit).collect();
    if !by_detail {
        details = examine(state, &shown);
    }
    let clients = shown.iter().map(|client| object(state, client, details.get(&client.id)));
    Ok(ClientsPage { total, matched, offset: query.offset, clients: clients.collect() })
}

fn examine(state: &AdminState, clients: &[ClientInfo]) -> HashMap<ConnectionId, Detail> {
    state.server.examine(clients.iter().map(|client| client.id), PATIENCE)
}

impl Sort {
    /// Whether the workers have to be asked for it.
    fn needs_details(self) -> bool {
        use Sort::{BytesReceived, BytesSent, OutputBytes, State};
        matches!(self, BytesReceived | BytesSent | OutputBytes | State)
    }
}

fn compare(
    state: &AdminState,
    sort: Sort,
    details: &HashMap<ConnectionId, Detail>,
    a: &ClientInfo,
    b: &ClientInfo,
) -> Ordering {
    /// Those that are not known come first.
    fn by<T: Ord>(a: Option<&Detail>, b: Option<&Detail>, of: fn(&Detail) -> T) -> Ordering {
        a.map(of).cmp(&b.map(of))
    }
    let (one, other) = (details.get(&a.id), details.get(&b.id));
    match sort {
        Sort::Id => Ordering::Equal,
        Sort::Peer => a.peer.cmp(&b.peer),
        Sort::Listener => a.listener.cmp(&b.listener),
        Sort::Service => service(state, a).cmp(&service(state, b)),
        Sort::Transport => transport(state, a).cmp(transport(state, b)),
        Sort::AgeNs => b.since.cmp(&a.since),
        Sort::BytesReceived => by(one, other, |detail| detail.bytes_received),
        Sort::BytesSent => by(one, other, |detail| detail.bytes_sent),
        Sort::OutputBytes => by(one, other, |detail| detail.output),
        Sort::State => by(one, other, |detail| detail.phase.word()),
    }
}

/// Keeps the clients whose id, peer, listener, service or transport contains the text, in capital or
/// small letters.
fn filter(state: &AdminState, clients: &mut Vec<ClientInfo>, text: &str) {
    if text.is_empty() {
        return;
    }
    let text = text.to_lowercase();
    let mut line = String::new();
    clients.retain(|client| {
        line.clear();
        let (endpoint, transport) = (endpoint(state, client), transport(state, client));
        let service = service(state, client).unwrap_or_default();
        let (id, peer) = (client.id, client.peer);
        write!(line, "{id}\n{peer}\n{endpoint}\n{service}\n{transport}").expect("a string");
        line.make_ascii_lowercase();
        line.contains(&text)
    });
}

fn service(state: &AdminState, client: &ClientInfo) -> Option<&'static str> {
    state.of_target(client.listener, |target| target.service.name())
}

fn transport(state: &AdminState, client: &ClientInfo) -> &'static str {
    match (state.of_target(client.listener, |target| target.transport.name()), client.peer) {
        (Some(name), _) => name,
        (None, crate::base::endpoint::Peer::Tcp(_)) => "tcp",
        (None, crate::base::endpoint::Peer::Unix { .. }) => "unix",
    }
}

fn endpoint(state: &AdminState, client: &ClientInfo) -> String {
    state.server.place(client.listener).map_or_else(String::new, |place| place.to_string())
}

fn object(state: &AdminState, client: &ClientInfo, detail: Option<&Detail>) -> ClientObject {
    ClientObject {
        id: client.id.to_string(),
        peer: client.peer.to_string(),
        listener: client.listener,
        endpoint: endpoint(state, client),
        service: service(state, client),
        transport: transport(state, client),
        age_ns: super::api::nanos(monotonic_now().since(client.since)),
        bytes_received: detail.map(|detail| detail.bytes_received),
        bytes_sent: detail.map(|detail| detail.bytes_sent),
        output_bytes: detail.map(|detail| detail.output),
        state: detail.map(|detail| detail.phase.word()),
    }
}
