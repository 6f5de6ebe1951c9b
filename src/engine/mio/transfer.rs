//! One system call that moves bytes: buffers to receive into, slices of a chain to send. When it is
//! made, and what its result means for the socket, is the engine's business.

use std::io::{IoSlice, IoSliceMut};

use crate::buffer::{Chain, Lease, Pool};
use crate::engine::sys::Sys;
use crate::engine::{LEASES_PER_RECV_MAX, Outcome};
use crate::error::Errno;

/// Slices given to one send. A longer chain takes several calls.
const SLICES_PER_SEND: usize = 16;

/// Why a Recv has brought no bytes.
pub(super) enum NoBytes {
    /// It goes on waiting.
    Yet,
    Ended,
    NoBuffer,
    Failed(Errno),
}

impl From<Errno> for NoBytes {
    fn from(error: Errno) -> NoBytes {
        match error {
            Errno::AGAIN => NoBytes::Yet,
            error => NoBytes::Failed(error),
        }
    }
}

impl NoBytes {
    pub(super) fn outcome<Socket>(self) -> Option<Outcome<Socket>> {
        match self {
            NoBytes::Yet => None,
            NoBytes::Ended => Some(Outcome::Ended),
            NoBytes::NoBuffer => Some(Outcome::NoBuffer),
            NoBytes::Failed(error) => Some(Outcome::Failed(error)),
        }
    }
}

/// Fills one buffer. Returns what was received, and how many bytes there was room for.
#[inline(always)]
pub(super) fn recv_one<S: Sys>(
    sys: &mut S,
    socket: &S::Socket,
    mut lease: Lease,
) -> Result<(Chain, usize), NoBytes> {
    let room = lease.spare_mut();
    let room_len = room.len();
    let count = sys.recv(socket, &mut [IoSliceMut::new(room)])?;
    if count == 0 {
        return Err(NoBytes::Ended);
    }
    lease.commit(count);
    Ok((Chain::from(lease), room_len))
}

/// Fills up to `most` buffers with one call. If the pool has fewer, it is fewer.
#[inline(never)]
pub(super) fn recv_several<S: Sys>(
    sys: &mut S,
    socket: &S::Socket,
    pool: &Pool,
    first: Lease,
    most: u8,
) -> Result<(Chain, usize), NoBytes> {
    let mut leases: [Option<Lease>; LEASES_PER_RECV_MAX] = Default::default();
    leases[0] = Some(first);
    let mut held = 1;
    while held < (most as usize).min(LEASES_PER_RECV_MAX) {
        leases[held] = pool.lease();
        if leases[held].is_none() {
            break;
        }
        held += 1;
    }
    let mut slices: [IoSliceMut<'_>; LEASES_PER_RECV_MAX] =
        std::array::from_fn(|_| IoSliceMut::new(&mut []));
    for (slice, lease) in slices.iter_mut().zip(leases[..held].iter_mut().flatten()) {
        *slice = IoSliceMut::new(lease.spare_mut());
    }
    let mut left = sys.recv(socket, &mut slices[..held])?;
    let mut chain = Chain::new(pool);
    for mut lease in leases.into_iter().flatten() {
        let here = left.min(pool.buffer_size());
        lease.commit(here);
        left -= here;
        chain.push_back(lease);
    }
    if chain.is_empty() {
        return Err(NoBytes::Ended);
    }
    Ok((chain, held * pool.buffer_size()))
}

/// How much of a chain one send can take, in bytes.
#[inline]
pub(super) fn offered(chain: &Chain) -> usize {
    match chain.leases() {
        0..=SLICES_PER_SEND => chain.len(),
        _ => chain.slices().take(SLICES_PER_SEND).map(<[u8]>::len).sum(),
    }
}

/// Sends the beginning of a chain with one call. Returns how many bytes the kernel took.
#[inline(always)]
pub(super) fn send_some<S: Sys>(
    sys: &mut S,
    socket: &S::Socket,
    chain: &Chain,
) -> Result<usize, Errno> {
    match chain.leases() {
        1 => sys.send(socket, &[IoSlice::new(chain.first_slice())]),
        _ => send_several(sys, socket, chain),
    }
}

#[inline(never)]
fn send_several<S: Sys>(sys: &mut S, socket: &S::Socket, chain: &Chain) -> Result<usize, Errno> {
    let mut slices = [IoSlice::new(&[]); SLICES_PER_SEND];
    let mut used = 0;
    for (slot, slice) in slices.iter_mut().zip(chain.slices()) {
        *slot = IoSlice::new(slice);
        used += 1;
    }
    sys.send(socket, &slices[..used])
}
