//! One TLS connection: records that arrive in chains become plaintext in chains, and the reverse.
//!
//! A session never holds more than one message of the handshake (64 KiB), or one record and its
//! plaintext. It takes no records while there is plaintext that has found no buffer, and no
//! plaintext while there are records that have found none.
//!
//! rustls allocates in a session: the plaintext of each record that it receives, and each record
//! that it sends, each freed in the same turn unless no buffer is free. In addition, the space for
//! a record that does not arrive at once grows from 4 KiB to the record's length, and shrinks when
//! the next record begins.

use std::io::{self, BufRead, IoSlice, Read, Write};

use rustls::{
    CertificateError, Connection, HandshakeKind, HandshakeType, InvalidMessage, ProtocolVersion,
};

use crate::base::handshake::{Handshake, HandshakeError};
use crate::buffer::{Chain, Pool};

pub(crate) use rustls::Error;

/// A TLS connection, without its socket.
pub(crate) struct Session(Connection);

impl Session {
    /// Memory of a session after its handshake, in bytes at most: keys and state (8 KiB), and space
    /// for the longest record when it has arrived in part (32 KiB). tests/tls_allocations.rs
    /// measures it. Not counted is what exists for a moment: a message of the handshake, and a
    /// record in each direction while no buffer is free.
    pub(crate) const BYTES: usize = 40 << 10;

    pub(super) fn new(connection: impl Into<Connection>) -> Session {
        Session(connection.into())
    }

    /// Whether bytes of the service cannot be sent or received yet.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// The handshake, once it is done. Its time is not known here.
    pub(crate) fn handshake(&self) -> Handshake {
        let version = match self.0.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "1.2",
            _ => "1.3",
        };
        let suite = self.0.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
        let mut handshake = Handshake::new(version, suite.unwrap_or("unknown"));
        handshake.is_resumed = self.0.handshake_kind() == Some(HandshakeKind::Resumed);
        handshake
    }

    /// Takes records from the front of `wire`, at least one byte. Call it only if
    /// [`plaintext`](Session::plaintext) has returned true. Returns whether the peer has ended the
    /// stream with close_notify.
    ///
    /// # Errors
    /// The handshake has failed, a record is not authentic, or the peer has sent an alert. What the
    /// peer is to know of this, [`records`](Session::records) returns.
    pub(crate) fn receive(&mut self, wire: &mut Chain) -> Result<bool, Error> {
        self.0.read_tls(&mut FromChain(wire)).map_err(|error| Error::General(error.to_string()))?;
        Ok(self.0.process_new_packets()?.peer_has_closed())
    }

    /// Appends plaintext to `input`, as far as there are free buffers. Returns whether that was
    /// all.
    pub(crate) fn plaintext(&mut self, input: &mut Chain, pool: &Pool) -> bool {
        let mut reader = self.0.reader();
        // An error means that there is none.
        while let Ok(bytes @ [_, ..]) = reader.fill_buf() {
            let (all, put) = (bytes.len(), put(input, bytes, pool));
            reader.consume(put);
            if put < all {
                return false;
            }
        }
        true
    }

    /// Encrypts from the front of `plaintext`, and keeps the records for
    /// [`records`](Session::records). Returns how many bytes these contain.
    pub(crate) fn send(&mut self, plaintext: &[u8]) -> usize {
        self.0.writer().write(plaintext).expect("it is written to memory")
    }

    /// Whether there are records to send.
    #[inline]
    pub(crate) fn has_records(&self) -> bool {
        self.0.wants_write()
    }

    /// Appends records to `wire`, as far as there are free buffers. Returns whether that was all.
    pub(crate) fn records(&mut self, wire: &mut Chain, pool: &Pool) -> bool {
        let mut into = IntoChain { chain: wire, pool };
        while self.0.wants_write() {
            if self.0.write_tls(&mut into).expect("it is written to memory") == 0 {
                return false;
            }
        }
        true
    }

    /// Ends the stream to the peer, with close_notify behind the last record.
    pub(crate) fn close(&mut self) {
        self.0.send_close_notify();
    }
}

/// What an error in the handshake means to a client.
pub(crate) fn reason(error: &Error) -> HandshakeError {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => {
            HandshakeError::Alert(alert.as_str().unwrap_or("an unknown alert"))
        }
        Error::PeerIncompatible(what) => HandshakeError::Incompatible(match what {
            rustls::PeerIncompatible::ServerDoesNotSupportTls12Or13
            | rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => "version",
            _ => "way",
        }),
        Error::NoApplicationProtocol => HandshakeError::Incompatible("application protocol"),
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => HandshakeError::NotTls,
        // It echoes what it got.
        Error::InappropriateHandshakeMessage { got_type: HandshakeType::ClientHello, .. } => {
            HandshakeError::NotTls
        }
        _ => HandshakeError::Failed,
    }
}

fn of_certificate(error: &CertificateError) -> HandshakeError {
    match error {
        // The second: by one with the name of a known one.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            HandshakeError::UnknownAuthority
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            HandshakeError::WrongName
        }
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => HandshakeError::NotValidNow,
        CertificateError::BadEncoding => HandshakeError::Certificate("its encoding is wrong"),
        CertificateError::Revoked => HandshakeError::Certificate("it is revoked"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            HandshakeError::Certificate("it is for another purpose")
        }
        _ => HandshakeError::Certificate("it is not valid"),
    }
}

/// Appends as many of these bytes as there are free buffers for. Returns how many.
fn put(chain: &mut Chain, bytes: &[u8], pool: &Pool) -> usize {
    let behind = chain.room_behind().min(bytes.len());
    if behind > 0 {
        chain.extend_last(&bytes[..behind]);
    }
    let mut done = behind;
    while done < bytes.len() {
        let Some(mut lease) = pool.lease_in_turn() else { break };
        done += lease.extend_from_slice(&bytes[done..]);
        chain.push_back(lease);
    }
    done
}

/// Reads from the front of a chain.
struct FromChain<'a>(&'a mut Chain);

impl Read for FromChain<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.peek(into);
        self.0.consume(count);
        Ok(count)
    }
}

/// Appends to a chain as far as there are free buffers.
struct IntoChain<'a> {
    chain: &'a mut Chain,
    pool: &'a Pool,
}

impl Write for IntoChain<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(put(self.chain, bytes, self.pool))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut done = 0;
        for slice in slices {
            let put = put(self.chain, slice, self.pool);
            done += put;
            if put < slice.len() {
                break;
            }
        }
        Ok(done)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
