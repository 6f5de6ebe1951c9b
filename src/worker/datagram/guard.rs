//! Which datagrams get no reply. The source of a datagram can be forged, so a server that replies
//! to all of them can be used to attack others: two echo services that reply to each other forever,
//! or many machines that reply to one broadcast.
//!
//! The rules are those of inetd in BSD (`dg_badinput`: no reply to a port below IPPORT_RESERVED, to
//! that of NFS, or to a broadcast), which followed CERT advisory CA-1996-01; and two more:
//!
//! * The source's port is a system port, 0 to 1023 (RFC 6335): echo, chargen, daytime, DNS, NTP and
//!   all other services that would reply in turn. Clients have higher ports.
//! * It is 2049, the port of NFS.
//! * It is the port of the socket itself: probably a server of the same kind elsewhere.
//! * The datagram was sent to a broadcast or multicast address.
//! * The kernel reports no source.

use crate::net::mmsg::Arrived;
use crate::service::Arrival;

/// The last of the system ports (RFC 6335, section 6).
const SYSTEM_PORT_MAX: u16 = 1023;
const NFS_PORT: u16 = 2049;

/// The rules of one socket.
pub(super) struct Guard {
    pub(super) own_port: u16,
}

impl Guard {
    /// A datagram that may be answered.
    #[inline]
    pub(super) fn accepted<'a>(&self, arrived: &'a Arrived) -> Option<Arrival<'a>> {
        let arrival = Arrival::new(arrived)?;
        let port = arrival.source().port();
        let replies_in_turn = port <= SYSTEM_PORT_MAX || port == NFS_PORT || port == self.own_port;
        (!arrived.is_to_many && !replies_in_turn).then_some(arrival)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_that_would_reply_and_many_at_once_are_not_answered() {
        let guard = Guard { own_port: 7_777 };
        let from =
            |text: &str| Arrived { source: Some(text.parse().unwrap()), ..Arrived::default() };
        for text in ["192.0.2.1:0", "192.0.2.1:7", "[2001:db8::1]:1023", "192.0.2.1:2049"] {
            assert!(guard.accepted(&from(text)).is_none(), "{text}");
        }
        assert!(guard.accepted(&from("[::1]:7777")).is_none(), "its own port");
        for text in ["192.0.2.1:1024", "[::1]:2050", "127.0.0.1:65535"] {
            let arrived = from(text);
            let source = guard.accepted(&arrived).map(|arrival| arrival.source());
            assert_eq!(source, Some(text.parse().unwrap()));
            let to_many = Arrived { is_to_many: true, ..from(text) };
            assert!(guard.accepted(&to_many).is_none());
        }
        assert!(guard.accepted(&Arrived::default()).is_none());
    }
}
