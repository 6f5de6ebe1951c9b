//! Messages that another thread sends to clients of the simulated server. All their bytes have the
//! highest bit set, which no other bytes have.

/// The first byte of a message from outside.
pub(super) const BEGIN: u8 = 0xFF;
/// The last one.
pub(super) const END: u8 = 0xFE;
/// A message from outside is never shorter: its ends and its number.
pub(super) const OUTSIDE_MIN: usize = 5;

/// A message from outside with this number, of this length in bytes, [`OUTSIDE_MIN`] or more.
pub(super) fn outside(number: u64, len: usize) -> Vec<u8> {
    let digit = |at: u32| 0x80 + (number / 100u64.pow(at) % 100) as u8;
    let mut bytes = vec![BEGIN, digit(0), digit(1), digit(2)];
    bytes.extend((OUTSIDE_MIN..len).map(|at| 0x80 + ((number as usize * 31 + at * 7) % 100) as u8));
    bytes.push(END);
    bytes
}

/// The number of a message from outside, if it is one, whole.
pub(super) fn read_outside(bytes: &[u8]) -> Option<u64> {
    let digit = |at: usize| Some(u64::from(bytes.get(at)?.checked_sub(0x80)?));
    let number = digit(1)? + 100 * digit(2)? + 10_000 * digit(3)?;
    (outside(number, bytes.len().max(OUTSIDE_MIN)) == bytes).then_some(number)
}
