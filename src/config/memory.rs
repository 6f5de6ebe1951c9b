//! The sum of the memory that a server allocates at start, with a reason for each term.

use std::fmt;

use super::{Limits, WORKER_STACK_BYTES};
use crate::base::units::show_size;
use crate::base::words::counted;
use crate::buffer::pool::RESERVE_BYTES_EACH as RESERVE_BYTES;

/// Bytes of a buffer's link in a chain.
const LINK_BYTES: u64 = 16;

/// Bytes that a worker keeps for each buffer: its link in a chain, and its place in the worker's
/// free list (4).
const LIST_BYTES_PER_WORKER: u64 = LINK_BYTES + 4;

/// Approximate kernel memory of an idle TCP connection, in bytes: the socket and its inode, file
/// and directory entry, and its two entries in epoll. Measured on Linux 6.18 as the growth of Slab
/// in /proc/meminfo over 8000 connections: 4.0 KiB for each end.
const KERNEL_BYTES_PER_CONNECTION: u64 = 4 << 10;

/// What the parts of a server need, as each reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Sizes {
    /// What a worker keeps for each connection slot, in bytes: context and generation, timer,
    /// places in queues.
    pub context_bytes: usize,
    /// What its engine keeps for each slot, in bytes.
    pub slot_bytes: usize,
    /// What a worker needs for any number of connections, in bytes, without its stack.
    pub worker_bytes: usize,
    /// What the services of all workers allocate together, in bytes: see
    /// [`ServicePlan::memory_bytes`](crate::service::ServicePlan::memory_bytes).
    pub service_bytes: u64,
    /// What the directory of clients keeps for each slot, in bytes.
    pub directory_bytes: usize,
    /// What counts the connections of each address, in bytes. 0 if they are not limited.
    pub address_bytes: u64,
    /// What is allocated for an open connection, in bytes at most. 0 without TLS.
    pub session_bytes: usize,
    /// What the threads for datagrams need together, in bytes, with their stacks. 0 without UDP.
    pub datagram_bytes: u64,
    /// How many of these threads there are.
    pub datagram_threads: usize,
}

/// One part of a [`MemorySum`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Term {
    /// The name of the part.
    pub name: &'static str,
    /// Its size in bytes.
    pub bytes: u64,
    /// How the size was computed.
    pub reason: String,
}

/// The memory of a server: all that the process allocates at start, and never exceeds. TLS sessions
/// are the exception: they are allocated when clients connect, and freed when these leave. `Display`
/// shows it as a table.
///
/// It is address space. A page becomes resident when it is first used, so an idle server uses only
/// a small part of it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct MemorySum {
    /// The parts of the process's memory.
    pub terms: Vec<Term>,
    /// An estimate of the kernel's memory for the sockets. Not part of [`MemorySum::total`].
    pub kernel: Term,
}

impl MemorySum {
    /// The sum of the terms, in bytes.
    pub fn total(&self) -> u64 {
        self.terms.iter().map(|term| term.bytes).sum()
    }

    /// The parts in one line, the largest first.
    pub(crate) fn in_a_line(&self) -> String {
        let mut terms: Vec<_> = self.terms.iter().filter(|term| term.bytes > 0).collect();
        terms.sort_by_key(|term| std::cmp::Reverse(term.bytes));
        let show = |term: &&Term| format!("{} {}", term.name, show_size(term.bytes));
        terms.iter().map(show).collect::<Vec<_>>().join(", ")
    }
}

impl Limits {
    /// The sum of memory with these limits and these sizes of the parts.
    pub fn memory(&self, sizes: &Sizes) -> MemorySum {
        let workers = self.workers as u64;
        let slots = u64::from(self.max_connections) * workers;
        let mut terms = vec![
            self.arena(),
            self.buffer_lists(),
            self.contexts(slots, sizes.context_bytes as u64),
            Term {
                name: "engines",
                bytes: slots * sizes.slot_bytes as u64,
                reason: format!("{workers} × {} × {} B", self.max_connections, sizes.slot_bytes),
            },
            Term {
                name: "workers",
                bytes: workers * sizes.worker_bytes as u64,
                reason: format!("{workers} × {}: events, counters, commands", {
                    show_size(sizes.worker_bytes as u64)
                }),
            },
            Term {
                name: "service",
                bytes: sizes.service_bytes,
                reason: "its own tables, on all workers".to_owned(),
            },
            Term {
                name: "directory",
                bytes: slots * sizes.directory_bytes as u64,
                reason: format!(
                    "{workers} × {} × {} B: who is connected",
                    { self.max_connections },
                    sizes.directory_bytes
                ),
            },
            Term {
                name: "stacks",
                bytes: workers * WORKER_STACK_BYTES as u64,
                reason: format!("{workers} × {}", show_size(WORKER_STACK_BYTES as u64)),
            },
        ];
        if sizes.address_bytes > 0 {
            terms.push(Term {
                name: "addresses",
                bytes: sizes.address_bytes,
                reason: format!("connections of each address, {} at most", self.max_connections),
            });
        }
        if sizes.datagram_threads > 0 {
            terms.push(Term {
                name: "datagrams",
                bytes: sizes.datagram_bytes,
                reason: format!(
                    "{}: stacks, buffers, rates of sources",
                    counted(sizes.datagram_threads as u64, "thread")
                ),
            });
        }
        if sizes.session_bytes > 0 {
            let each = sizes.session_bytes as u64;
            terms.push(Term {
                name: "TLS sessions",
                bytes: u64::from(self.max_connections) * each,
                reason: format!(
                    "{} × {}: not reserved, allocated while connections are open",
                    self.max_connections,
                    show_size(each)
                ),
            });
        }
        MemorySum { terms, kernel: self.kernel() }
    }

    /// What the workers share, in bytes, without the buffers: the directory, the counts of addresses
    /// and the inboxes.
    pub(crate) fn shared_tables_bytes(&self, sizes: &Sizes) -> u64 {
        let workers = self.workers as u64;
        let slots = workers * u64::from(self.max_connections);
        let inboxes = workers * sizes.worker_bytes as u64;
        slots * sizes.directory_bytes as u64 + sizes.address_bytes + inboxes
    }

    /// Memory for the places of shared buffers' parts on one worker, in bytes: a link for each
    /// part, and a count for each buffer.
    pub(crate) fn reference_bytes(&self, references: usize) -> u64 {
        match references {
            0 => 0,
            _ => references as u64 * LINK_BYTES + u64::from(self.buffers) * 4,
        }
    }

    fn arena(&self) -> Term {
        Term {
            name: "buffers",
            bytes: u64::from(self.buffers) * self.buffer_size as u64,
            reason: format!("{} × {}", self.buffers, show_size(self.buffer_size as u64)),
        }
    }

    fn buffer_lists(&self) -> Term {
        let per_buffer = LIST_BYTES_PER_WORKER * self.workers as u64 + RESERVE_BYTES;
        Term {
            name: "buffer lists",
            bytes: u64::from(self.buffers) * per_buffer,
            reason: format!(
                "{} × ({} × {LIST_BYTES_PER_WORKER} B + {RESERVE_BYTES} B): of each and of all",
                self.buffers, self.workers
            ),
        }
    }

    /// The kernel decides how connections spread over the listeners of the workers, so each worker
    /// must be able to hold all of them.
    fn contexts(&self, slots: u64, context_bytes: u64) -> Term {
        Term {
            name: "contexts",
            bytes: slots * context_bytes,
            reason: format!(
                "{} × {} × {context_bytes} B: with timers; any worker may get all connections",
                self.workers, self.max_connections
            ),
        }
    }

    fn kernel(&self) -> Term {
        Term {
            name: "kernel, estimated",
            bytes: u64::from(self.max_connections) * KERNEL_BYTES_PER_CONNECTION,
            reason: format!(
                "{} idle sockets × {}; with bytes in flight up to net.ipv4.tcp_mem",
                self.max_connections,
                show_size(KERNEL_BYTES_PER_CONNECTION)
            ),
        }
    }
}

impl fmt::Display for MemorySum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "memory, all of it reserved now and resident as far as it is used:")?;
        for term in &self.terms {
            row(f, term.name, term.bytes, &term.reason)?;
            writeln!(f)?;
        }
        row(f, "total", self.total(), "at most, beside the program itself")?;
        writeln!(f)?;
        row(f, self.kernel.name, self.kernel.bytes, &self.kernel.reason)
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, bytes: u64, reason: &str) -> fmt::Result {
    write!(f, "  {name:<17} {:>11}  {reason}", show_size(bytes))
}
