//! TLS of the clients of a loop: whom each of them trusts, and the name of its server.

use std::sync::{Mutex, PoisonError};

use super::error::Error;
use crate::tls::client::{Connector, Name};
use crate::tls::options::TlsOptions;
use crate::tls::session::Session;

/// Options whose files were read and whose tickets are kept, at most. The oldest are forgotten.
const CONNECTORS_MAX: usize = 64;

/// The server of a client, and what begins a session with it.
#[derive(Clone)]
pub(crate) struct Server {
    connector: Connector,
    name: Name,
}

/// The servers of all clients of a loop, by their slots.
pub(crate) struct Servers(Mutex<Vec<Option<Server>>>);

/// What clients of the same server share: trusted authorities and tickets.
#[derive(Default)]
pub(crate) struct Connectors(Mutex<Vec<Known>>);

struct Known {
    options: TlsOptions,
    /// Where the server is.
    at: String,
    connector: Connector,
}

impl Servers {
    pub(crate) fn new(clients: u32) -> Servers {
        Servers(Mutex::new(vec![None; clients as usize]))
    }

    /// Sets the server of a new client, or that it does not use TLS.
    pub(crate) fn set(&self, slot: u32, server: Option<Server>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[slot as usize] = server;
    }

    /// Whether a client uses TLS.
    pub(crate) fn has(&self, slot: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[slot as usize].is_some()
    }

    /// Begins the session of a client. `None` if it cannot be made.
    pub(crate) fn session(&self, slot: u32) -> Option<Box<Session>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let server = all[slot as usize].as_ref()?;
        server.connector.session(&server.name)
    }
}

impl Connectors {
    /// The server with these options, with this host in its target, at this address. Reads the
    /// files that the options name, unless they were read for another client.
    ///
    /// # Errors
    /// A file cannot be used, or the options contradict each other.
    pub(crate) fn server(
        &self,
        options: &TlsOptions,
        host: &str,
        at: String,
    ) -> Result<Server, Error> {
        let wrong = |error: crate::tls::TlsError| Error::Target(error.to_string());
        let name = Name::new(options, host).map_err(wrong)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut with_options = all.iter().filter(|known| known.options == *options);
        let connector = match with_options.clone().find(|known| known.at == at) {
            Some(known) => return Ok(Server { connector: known.connector.clone(), name }),
            None => match with_options.next() {
                Some(known) => known.connector.apart(),
                None => Connector::new(options).map_err(wrong)?,
            },
        };
        if all.len() == CONNECTORS_MAX {
            all.remove(0);
        }
        all.push(Known { options: options.clone(), at, connector: connector.clone() });
        Ok(Server { connector, name })
    }
}
