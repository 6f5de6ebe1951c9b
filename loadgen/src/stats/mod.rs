//! What is counted and timed during a run.

pub mod cpu;
pub mod hub;
pub mod interval;
pub mod records;
pub mod slo;
pub mod timeseries;
