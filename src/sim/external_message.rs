//! Messages that another thread sends to clients of the simulated server. All their bytes have the
//! highest bit set, which no other bytes have.

/// First byte of an external message.
pub(super) const BEGIN: u8 = 0xFF;
/// Last byte of an external message.
pub(super) const END: u8 = 0xFE;
/// Shortest external message in bytes: first byte, number, last byte.
pub(super) const EXTERNAL_MIN: usize = 5;

/// The external message with this number and length in bytes, which is at least [`EXTERNAL_MIN`].
pub(super) fn external_message(number: u64, len: usize) -> Vec<u8> {
    let digit = |at: u32| 0x80 + (number / 100u64.pow(at) % 100) as u8;
    let mut bytes = vec![BEGIN, digit(0), digit(1), digit(2)];
    bytes
        .extend((EXTERNAL_MIN..len).map(|at| 0x80 + ((number as usize * 31 + at * 7) % 100) as u8));
    bytes.push(END);
    bytes
}

/// The number of an external message, if `bytes` is a complete one.
pub(super) fn read_external(bytes: &[u8]) -> Option<u64> {
    let digit = |at: usize| Some(u64::from(bytes.get(at)?.checked_sub(0x80)?));
    let number = digit(1)? + 100 * digit(2)? + 10_000 * digit(3)?;
    (external_message(number, bytes.len().max(EXTERNAL_MIN)) == bytes).then_some(number)
}
