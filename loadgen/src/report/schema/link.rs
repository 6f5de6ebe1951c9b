//! What an emulated link did.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Distribution, LinkType, PROGRAM_VERSION, SCHEMA_VERSION};

/// What `loadgen link -o FILE` writes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "link_object")]
pub struct LinkSummary {
    #[serde(rename = "type")]
    pub kind: LinkType,
    /// Increases when a key changes its meaning or is removed.
    pub schema_version: u32,
    /// The version of the program.
    pub loadgen_version: String,
    /// Repeats the fates of the packets.
    pub seed: u64,
    /// From the near end to the far end.
    pub there: LinkDirection,
    /// From the far end to the near end.
    pub back: LinkDirection,
}

/// What one direction of a link was told, and what it did. Each packet that came in, and each
/// copy, is in one of `packets_delivered`, `packets_lost`, `packets_dropped`, `packets_refused` and
/// `packets_under_way`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "link_direction")]
pub struct LinkDirection {
    /// How long a packet travels.
    pub delay_ns: u64,
    /// The delay is evenly distributed from `delay_ns - jitter_ns` to `delay_ns + jitter_ns`.
    pub jitter_ns: u64,
    /// Probability that a packet is lost.
    pub loss_ratio: f64,
    /// Probability that a packet arrives twice.
    pub duplicate_ratio: f64,
    /// Probability that a packet is sent without its delay.
    pub reorder_ratio: f64,
    /// Bits of IP packets per second; null if unlimited.
    pub rate_bits_per_second: Option<u64>,
    /// Packets that wait in the queue for the rate, at most.
    pub limit_packets: u64,
    /// Whether packets stayed in order in spite of the jitter.
    pub in_order: bool,
    /// Packets that came in.
    pub packets_in: u64,
    /// Their bytes, with IP headers.
    pub bytes_in: u64,
    /// Packets and copies that the kernel at the other end took.
    pub packets_delivered: u64,
    /// Their bytes.
    pub bytes_delivered: u64,
    /// Packets lost by chance.
    pub packets_lost: u64,
    /// Packets dropped because the queue was full.
    pub packets_dropped: u64,
    /// Copies made.
    pub packets_duplicated: u64,
    /// Packets sent without their delay.
    pub packets_sent_ahead: u64,
    /// Packets delivered after one that came in later (RFC 4737), without copies.
    pub packets_reordered: u64,
    /// Packets that the kernel at the other end did not take.
    pub packets_refused: u64,
    /// Packets that had not left when the link ended.
    pub packets_under_way: u64,
    /// Packets that the kernel dropped before the link took them. They are not in `packets_in`.
    pub packets_missed: u64,
    /// How long after its time each packet left.
    pub late: Distribution,
}

impl LinkSummary {
    pub fn new(seed: u64, there: LinkDirection, back: LinkDirection) -> LinkSummary {
        LinkSummary {
            kind: LinkType::Link,
            schema_version: SCHEMA_VERSION,
            loadgen_version: PROGRAM_VERSION.into(),
            seed,
            there,
            back,
        }
    }
}
