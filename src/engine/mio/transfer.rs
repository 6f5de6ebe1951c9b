//! Single system calls that move bytes: receive into buffers, send slices of a chain. The engine
//! decides when to make them, and what the result means for the socket.

use std::io::{IoSlice, IoSliceMut};

use crate::buffer::{Chain, Lease, Pool};
use crate::engine::sys::Sys;
use crate::engine::{LEASES_PER_RECV_MAX, Outcome};
use crate::error::Errno;

/// Maximum number of slices per send. A longer chain takes several calls.
const SLICES_PER_SEND: usize = 16;

/// Why a Recv returned no bytes.
pub(super) enum NoBytes {
    /// It continues to wait.
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

/// Fills one buffer. Returns the received bytes, and the number of bytes there was room for.
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

/// Fills up to `most` buffers with one call, or fewer if the pool has fewer.
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

/// The number of bytes of a chain that one send can take.
#[inline]
pub(super) fn offered(chain: &Chain) -> usize {
    match chain.leases() {
        0..=SLICES_PER_SEND => chain.len(),
        _ => chain.slices().take(SLICES_PER_SEND).map(<[u8]>::len).sum(),
    }
}

/// Sends the beginning of a chain with one call. Returns the number of bytes that the kernel
/// accepted.
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
