//! One connection: its state machine, the data that the worker keeps for it, and the table of a
//! worker's connections.
//!
//! * `machine`: which operation comes next. Pure: no descriptor, no clock, no I/O.
//! * `context`: what the worker keeps for a connection, preallocated.
//! * `table`: the contexts of a worker, by slot and generation.

mod context;
pub(crate) mod machine;
mod table;

pub(crate) use context::{Context, Origin};
pub use table::Table;
