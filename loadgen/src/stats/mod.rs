//! What is counted and timed during a run.

pub mod counts;
pub mod cpu;
pub mod datagram;
pub mod difference;
pub mod fail_if;
pub mod hub;
pub mod interval;
pub mod loss;
pub mod parts;
pub mod records;
pub mod slo;
pub mod stamp;
pub mod tally;
pub mod tcp;
pub mod timeseries;
pub mod tls;
