//! The times in front of a timed frame, and what names the clock that they were read from. For both
//! ends.

use crate::base::time::Time;
use crate::protocol::framing::ByteOrder;

/// Size of the header behind the length of a frame, in bytes.
pub const TIMES_BYTES: usize = 32;

/// The header of a timed frame: four unsigned numbers of 8 bytes, in the order of the fields here.
/// In a request their values do not matter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Times {
    /// Names the clock of the server; see [`clock_id`].
    pub clock: u64,
    /// When the server's loop was told that the last bytes of the request are there.
    pub received: Time,
    /// When the service took up the request.
    pub taken_up: Time,
    /// When the service put the reply on the output, just before the system call that sends it.
    pub sent: Time,
}

impl Times {
    /// The header on the wire.
    #[inline]
    pub fn encode(&self, order: ByteOrder) -> [u8; TIMES_BYTES] {
        let Times { clock, received, taken_up, sent } = self;
        let numbers = [*clock, received.as_nanos(), taken_up.as_nanos(), sent.as_nanos()];
        let mut bytes = [0; TIMES_BYTES];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&encode(number, order));
        }
        bytes
    }

    /// The header of a reply.
    #[inline]
    pub fn decode(bytes: &[u8; TIMES_BYTES], order: ByteOrder) -> Times {
        let (numbers, _) = bytes.as_chunks();
        let number = |nth: usize| match order {
            ByteOrder::Little => u64::from_le_bytes(numbers[nth]),
            ByteOrder::Big => u64::from_be_bytes(numbers[nth]),
        };
        let [received, taken_up, sent] = [1, 2, 3].map(|nth| Time::from_nanos(number(nth)));
        Times { clock: number(0), received, taken_up, sent }
    }

    /// Whether the times are in order, as those of a reply are.
    #[inline]
    pub fn are_in_order(&self) -> bool {
        self.received <= self.taken_up && self.taken_up <= self.sent
    }
}

/// A number on the wire.
#[inline]
pub(super) fn encode(number: u64, order: ByteOrder) -> [u8; 8] {
    match order {
        ByteOrder::Little => number.to_le_bytes(),
        ByteOrder::Big => number.to_be_bytes(),
    }
}

/// Names the clock of this machine, CLOCK_MONOTONIC: a number that is the same for all programs that
/// read the same clock, and another one on other machines, after a restart of the machine, and in
/// other time namespaces. 0 if it cannot be told, as on systems without `/proc`.
pub fn clock_id() -> u64 {
    let boot = std::fs::read("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::read_link("/proc/self/ns/time");
    let (Ok(boot), Ok(namespace)) = (boot, namespace) else { return 0 };
    let bytes = boot.iter().chain(namespace.as_os_str().as_encoded_bytes());
    // FNV-1a, 64 bits: programs of other versions and languages can compute it.
    let fnv = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.fold(0xcbf2_9ce4_8422_2325, fnv).max(1)
}
