//! Services of datagrams.

/// What a server does with datagrams. Each thread that receives datagrams has a service of its own.
///
/// [`ServiceFactory::datagrams`](super::ServiceFactory::datagrams) makes it. Like a
/// [`Service`](super::Service), it does no I/O, does not block, and should not allocate.
///
/// ```
/// use echopool::service::DatagramService;
///
/// /// Replies with the sum of the bytes.
/// struct Sum;
///
/// impl DatagramService for Sum {
///     fn reply(&mut self, datagram: &mut [u8]) -> Option<usize> {
///         let sum = datagram.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
///         *datagram.first_mut()? = sum;
///         Some(1)
///     }
/// }
///
/// let mut datagram = *b"\x01\x02\x03";
/// assert_eq!(Sum.reply(&mut datagram), Some(1));
/// assert_eq!(datagram[0], 6);
/// ```
pub trait DatagramService {
    /// Handles a datagram. Writes the reply in its place, and returns the length of the reply. `None`:
    /// there is no reply.
    ///
    /// The source of a datagram can be forged, so a reply is never longer than the datagram: a
    /// greater length means the whole.
    fn reply(&mut self, datagram: &mut [u8]) -> Option<usize>;
}
