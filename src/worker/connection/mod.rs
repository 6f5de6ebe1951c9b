//! One connection: its state machine, what is remembered of it, and the table of all of a worker's.
//!
//! * `machine`: which operation comes next. Pure: no descriptor, no clock, no I/O.
//! * `context`: what is remembered of a connection, preallocated.
//! * `table`: the contexts of a worker, by slot and generation.

mod context;
pub(crate) mod machine;
mod table;

pub(crate) use context::{Context, Origin};
pub use table::Table;
