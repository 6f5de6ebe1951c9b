//! TLS of a run: its options, whom it trusts, and the name of each target's server.

use std::sync::Arc;

use echopool::internals::{Connector, ServerName};
use echopool::tls::TlsError;
use echopool::tls::options::TlsOptions;

use crate::cli::RunSpec;
use crate::error::Failure;

/// TLS of all targets.
#[derive(Clone, Debug)]
pub struct TlsPlan {
    pub options: TlsOptions,
    connector: Connector,
    /// The servers of the targets, in their order.
    servers: Arc<[ServerName]>,
}

impl TlsPlan {
    /// `None` if the targets do not use TLS, which all do or none.
    ///
    /// # Errors
    /// A file cannot be used, or the options contradict each other.
    pub(super) fn new(spec: &RunSpec) -> Result<Option<TlsPlan>, Failure> {
        let Some(options) = spec.targets.first().and_then(|target| target.tls.clone()) else {
            return Ok(None);
        };
        let addresses = spec.targets.iter().filter_map(|target| target.address.as_ref());
        let hosts = addresses.flat_map(|address| vec![address.host(); address.count()]);
        let servers = hosts.map(|host| ServerName::new(&options, host)).collect::<Result<_, _>>();
        let servers = servers.map_err(failure)?;
        let connector = Connector::new(&options).map_err(failure)?;
        Ok(Some(TlsPlan { options, connector, servers }))
    }

    /// What begins the sessions of a thread with each target. Each has its own tickets.
    pub fn connectors(&self) -> Vec<Connector> {
        self.servers.iter().map(|_| self.connector.apart()).collect()
    }

    /// The server of the target with this index.
    pub fn server(&self, target: usize) -> ServerName {
        self.servers[target].clone()
    }
}

fn failure(error: TlsError) -> Failure {
    match error.is_of_options() {
        true => Failure::Usage(error.to_string()),
        false => Failure::Setup(error.to_string()),
    }
}
