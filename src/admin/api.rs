//! The JSON pages below `/api/v1/`. The types here generate `docs/admin.schema.json`, so the
//! documentation of a field is its description there.
//!
//! As in the results of the load generator, times are whole nanoseconds and the unit is in the key.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::AdminState;
use crate::config::Term;
use crate::error::CloseReason;
use crate::shared::counters::{Counts, HistogramRow, ROWS, TIMES};
use crate::shared::histogram::{Recorded, bounds_nanos};

/// `/api/v1/config`: what the server runs with, including what it derived from the machine.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "config"))]
pub(super) struct ConfigPage {
    /// The version of echopool.
    version: &'static str,
    /// When the server started, in nanoseconds since 1970-01-01 UTC.
    started_unix_ns: u64,
    /// How often a configuration was applied, with the start.
    generation: u64,
    /// Whether the configuration that was read last was applied.
    last_reload_successful: bool,
    /// When a configuration was applied last, in nanoseconds since 1970-01-01 UTC.
    last_reload_success_unix_ns: u64,
    limits: LimitsObject,
    memory: MemoryObject,
}

/// The limits.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "limits"))]
struct LimitsObject {
    /// Worker threads.
    workers: usize,
    /// The most connections of all workers together.
    max_connections: u32,
    /// The most connections of one client address; null if there is no limit.
    max_connections_per_address: Option<u32>,
    /// Buffers of all workers together.
    buffers: u32,
    /// Bytes of a buffer.
    buffer_size_bytes: usize,
    /// The most buffers that a connection may fill with one receive.
    leases_per_connection: u8,
    /// Connections that may wait at each listening socket.
    backlog: u32,
    /// Null if it is off, as for the next two.
    idle_timeout_ns: Option<u64>,
    send_timeout_ns: Option<u64>,
    shed_after_ns: Option<u64>,
    /// How long a closed connection is still read.
    linger_ns: u64,
    /// Whether other processes may listen on the same ports.
    share_port: bool,
    /// Whether the workers never sleep.
    busy_poll: bool,
}

/// The memory sum.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "memory"))]
struct MemoryObject {
    /// The sum of the parts: what the server has reserved.
    total_bytes: u64,
    parts: Vec<MemoryPart>,
    /// An estimate of the kernel's memory for the sockets. It is not in the total.
    kernel: MemoryPart,
}

/// A part of the memory sum.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "memory_part"))]
struct MemoryPart {
    name: &'static str,
    bytes: u64,
    /// How the size was computed.
    reason: String,
}

/// `/api/v1/listeners`: where the server listens, in the order of `--listen` at its start. Listeners
/// that a reload has added follow.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "listeners"))]
pub(super) struct ListenersPage {
    pub(super) listeners: Vec<ListenerObject>,
}

/// A listener.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "listener"))]
pub(super) struct ListenerObject {
    /// Its number, from 0, which it has as long as it listens.
    listener: usize,
    /// The endpoint with its real port, such as `tcp://[::]:7777`.
    endpoint: String,
    /// The service, such as `echo`; null if it is none of those built in.
    service: Option<&'static str>,
    /// Service, address and options, as `echopool connect` and the load generator take them.
    target: Option<String>,
    /// Whether it accepts connections. Clients that connect to one that does not wait in its backlog,
    /// as long as that has room.
    accepting: bool,
    /// Clients that are connected to it now.
    connections: u64,
}

/// `/api/v1/workers`: the counts of each worker.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "workers"))]
pub(super) struct WorkersPage {
    workers: Vec<WorkerObject>,
    total: CountsObject,
}

/// A worker.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "worker"))]
struct WorkerObject {
    /// Its number, from 0.
    worker: usize,
    counts: CountsObject,
}

/// `/api/v1/closes`: why connections were closed, of all workers together.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "closes"))]
pub(super) struct ClosesPage {
    /// Connections closed.
    total: u64,
    /// Every reason, also those that have not occurred.
    reasons: Vec<ReasonObject>,
}

/// A reason for closing.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "reason"))]
struct ReasonObject {
    /// The reason, such as `peer-closed`.
    reason: &'static str,
    /// Connections closed for it.
    connections: u64,
}

/// A value for each row of the table of counters.
pub(super) struct CountsObject(pub(super) Counts);

impl Serialize for CountsObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(ROWS.len()))?;
        for row in ROWS {
            map.serialize_entry(row.name, &(row.value)(&self.0))?;
        }
        map.end()
    }
}

#[cfg(test)]
impl schemars::JsonSchema for CountsObject {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "counts".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let property = |row: &crate::shared::counters::CounterRow| {
            let schema = serde_json::json!({
                "type": "integer",
                "minimum": 0,
                "description": row.help(),
            });
            (row.name.to_owned(), schema)
        };
        let description = "A value for each row of the table of metrics in docs/operations.md.";
        object_of_rows(description, ROWS.iter().map(property))
    }
}

/// Histograms of times since the start, with the same bounds.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "times"))]
pub(super) struct TimesObject {
    /// The bounds of the buckets.
    bounds_ns: Vec<u64>,
    histograms: HistogramsObject,
}

/// A histogram for each row of the table that is one.
struct HistogramsObject(Vec<(&'static HistogramRow, Recorded)>);

/// A histogram.
#[derive(serde::Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(rename = "histogram"))]
struct HistogramObject {
    /// The sum of all times.
    sum_ns: u64,
    /// How many times there were up to each bound and above the one before; last, above all bounds.
    buckets: Vec<u64>,
}

impl Serialize for HistogramsObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(times, recorded)| {
            let Recorded { buckets, sum_nanos } = recorded;
            (times.name, HistogramObject { sum_ns: *sum_nanos, buckets: buckets.to_vec() })
        }))
    }
}

#[cfg(test)]
impl schemars::JsonSchema for HistogramsObject {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "histograms".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let one = generator.subschema_for::<HistogramObject>();
        let property = |times: &HistogramRow| {
            let mut schema = one.clone();
            schema.insert("description".to_owned(), times.help().into());
            (times.name.to_owned(), schema.to_value())
        };
        let description = "A histogram for each one in the table of metrics in docs/operations.md.";
        object_of_rows(description, TIMES.iter().map(property))
    }
}

/// The schema of an object that has each of these properties.
#[cfg(test)]
fn object_of_rows(
    description: &str,
    rows: impl Iterator<Item = (String, serde_json::Value)>,
) -> schemars::Schema {
    let rows: Vec<_> = rows.collect();
    let required: Vec<String> = rows.iter().map(|(name, _)| name.clone()).collect();
    let properties: serde_json::Map<_, _> = rows.into_iter().collect();
    schemars::json_schema!({
        "type": "object",
        "description": description,
        "properties": properties,
        "required": required,
    })
}

impl From<&Term> for MemoryPart {
    fn from(term: &Term) -> MemoryPart {
        MemoryPart { name: term.name, bytes: term.bytes, reason: term.reason.clone() }
    }
}

pub(super) fn config(state: &AdminState) -> ConfigPage {
    let (limits, memory) = (state.server.limits(), &state.server.memory);
    let loaded = *state.loaded();
    ConfigPage {
        version: env!("CARGO_PKG_VERSION"),
        started_unix_ns: unix_nanos(state.started),
        generation: loaded.generation,
        last_reload_successful: loaded.is_successful,
        last_reload_success_unix_ns: unix_nanos(loaded.at),
        limits: LimitsObject {
            workers: limits.workers,
            max_connections: limits.max_connections,
            max_connections_per_address: limits.max_connections_per_address,
            buffers: limits.buffers,
            buffer_size_bytes: limits.buffer_size,
            leases_per_connection: limits.leases_per_connection_max,
            backlog: limits.backlog,
            idle_timeout_ns: limits.idle_timeout.map(nanos),
            send_timeout_ns: limits.send_timeout.map(nanos),
            shed_after_ns: limits.shed_after.map(nanos),
            linger_ns: nanos(limits.linger),
            share_port: limits.share_port,
            busy_poll: limits.busy_poll,
        },
        memory: MemoryObject {
            total_bytes: memory.total(),
            parts: memory.terms.iter().map(MemoryPart::from).collect(),
            kernel: MemoryPart::from(&memory.kernel),
        },
    }
}

pub(super) fn listeners(state: &AdminState) -> ListenersPage {
    let listener = |(number, endpoint): (usize, crate::Endpoint)| ListenerObject {
        listener: number,
        endpoint: endpoint.to_string(),
        service: state.of_target(number, |target| target.service.name()),
        target: state.of_target(number, ToString::to_string),
        accepting: state.server.accepts(number),
        connections: state.server.clients_of(number),
    };
    ListenersPage { listeners: state.server.listeners().into_iter().map(listener).collect() }
}

pub(super) fn workers(state: &AdminState) -> WorkersPage {
    let stats = state.server.stats();
    let object =
        |(worker, counts): (usize, &Counts)| WorkerObject { worker, counts: CountsObject(*counts) };
    let workers = stats.workers().iter().enumerate().map(object).collect();
    WorkersPage { workers, total: CountsObject(stats.total()) }
}

pub(super) fn times(state: &AdminState) -> TimesObject {
    let sum = |times: &'static HistogramRow| (times, times.sum(state.server.counters()));
    let histograms = HistogramsObject(TIMES.iter().map(sum).collect());
    TimesObject { bounds_ns: bounds_nanos().collect(), histograms }
}

pub(super) fn closes(state: &AdminState) -> ClosesPage {
    let counts = state.server.stats().total();
    let object = |reason: CloseReason| ReasonObject {
        reason: reason.word(),
        connections: counts.closed(reason),
    };
    ClosesPage { total: counts.closed_total(), reasons: CloseReason::ALL.map(object).into() }
}

/// Whole nanoseconds since 1970.
pub(super) fn unix_nanos(time: SystemTime) -> u64 {
    nanos(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Whole nanoseconds. The type holds 584 years; a longer time becomes the largest value.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The schema of all pages.
#[cfg(test)]
pub(super) fn schema() -> serde_json::Value {
    use super::clients::ClientsPage;
    use super::control::UpgradedPage;
    use super::control::{AcceptingPage, DisconnectedPage, DrainingPage, ReloadedPage, SentPage};
    use super::status::StatusPage;
    use schemars::generate::SchemaSettings;
    use schemars::transform::RecursiveTransform;

    /// Removes what is only about Rust.
    fn tidy(schema: &mut schemars::Schema) {
        schema.remove("format");
        if let Some(serde_json::Value::String(text)) = schema.get_mut("description") {
            *text = text.replace('\n', " ");
        }
    }

    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut generator = settings.with_transform(RecursiveTransform(tidy)).into_generator();
    let pages = [
        generator.subschema_for::<ConfigPage>(),
        generator.subschema_for::<ListenersPage>(),
        generator.subschema_for::<WorkersPage>(),
        generator.subschema_for::<ClosesPage>(),
        generator.subschema_for::<StatusPage>(),
        generator.subschema_for::<ClientsPage>(),
        generator.subschema_for::<DisconnectedPage>(),
        generator.subschema_for::<AcceptingPage>(),
        generator.subschema_for::<DrainingPage>(),
        generator.subschema_for::<SentPage>(),
        generator.subschema_for::<ReloadedPage>(),
        generator.subschema_for::<UpgradedPage>(),
    ];
    serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The JSON of echopool's admin address",
        "description": "What the paths below /api/v1/ of --admin return. Times are whole \
            nanoseconds, and the unit is in each key. Readers should ignore keys that they do not \
            know.",
        "oneOf": pages,
        "$defs": generator.take_definitions(true),
    })
}
