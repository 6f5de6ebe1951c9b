//! Creates the engines in the world: the real readiness engine and the simulated completions, from
//! the parts of a worker. The engines themselves are in `src/engine` and in `engine.rs`.

use std::sync::Arc;

use super::engine::SimEngine;
use super::sys::{SimSys, Woken};
use super::world::{Handle, SharedWorld};
use crate::base::time::Time;
use crate::buffer::Pool;
use crate::engine::sys::Listening;
use crate::engine::{Engine, MioEngine};
use crate::service::Service;
use crate::shared::permits::Permits;
use crate::worker::Worker;
use crate::worker::layer::Layer;

/// An engine that can be created in the world.
pub(crate) trait Seat: Engine<Socket = Handle> {
    fn seat(parts: SeatParts) -> Self;

    /// Whether a poll would do something.
    fn is_ready(&self) -> bool;

    /// Number of accepted connections that the worker could not adopt yet.
    fn held(&self) -> usize {
        0
    }
}

/// The parts of an engine in the world.
pub(crate) struct SeatParts {
    pub(crate) world: SharedWorld,
    pub(crate) worker: usize,
    pub(crate) woken: Arc<Woken>,
    pub(crate) slots: usize,
    pub(crate) pool: Pool,
    pub(crate) permits: Option<Arc<Permits>>,
    pub(crate) listeners: Vec<Listening<Handle>>,
}

impl Seat for MioEngine<SimSys> {
    fn seat(parts: SeatParts) -> Self {
        let sys = SimSys::new(parts.world, parts.worker, parts.woken);
        MioEngine::new(sys, parts.slots, parts.pool, parts.permits, parts.listeners)
            .expect("listeners can be registered")
    }

    fn is_ready(&self) -> bool {
        self.has_cancelled() || self.sys().is_ready()
    }

    fn held(&self) -> usize {
        MioEngine::held(self)
    }
}

impl Seat for SimEngine {
    fn seat(parts: SeatParts) -> Self {
        let SeatParts { world, worker, woken, pool, permits, listeners, .. } = parts;
        SimEngine::new(world, worker, woken, pool, permits, listeners)
    }

    fn is_ready(&self) -> bool {
        SimEngine::is_ready(self)
    }
}

/// Whether a worker has something to do now.
pub(super) fn wants_turn<E: Seat, S: Service, L: Layer>(
    worker: &Worker<E, S, L>,
    woken: &Woken,
    now: Time,
) -> bool {
    woken.is_set()
        || worker.engine().is_ready()
        || worker.deadline().is_some_and(|deadline| deadline <= now)
}
