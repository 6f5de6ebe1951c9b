//! The options of TLS in a URL.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::base::option::{About, Allowed, Options, Value, Word, declare, options, utf8};

options! {
    /// Options of TLS.
    pub struct TlsOptions {
        /// The certificate chains (PEM), each of another name. A client gets the one that is valid
        /// for the name that it asks for (SNI), otherwise the first. Default: none; a server must
        /// have one.
        pub cert: Option<Files> = None, "cert" = "FILE[,FILE...]", Described("PEM files"),
            "certificate chain; several are for several names (SNI)", "none";
        /// The private key (PEM) of each chain in `cert`. Default: none.
        pub key: Option<Files> = None, "key" = "FILE[,FILE...]", Described("PEM files"),
            "private key of each certificate chain", "none";
        /// Certificates (PEM) of the authorities that sign client certificates. Default: none;
        /// clients are not asked for a certificate.
        pub client_ca: Option<Files> = None, "client-ca" = "FILE[,FILE...]",
            Described("PEM files"), "authorities that sign client certificates", "none";
        /// Whether a client must have a certificate, if `client_ca` is set. Default: it must.
        pub client_auth: ClientAuth = ClientAuth::Require, "client-auth" = "WORD",
            Words(&["require", "optional"]),
            "whether a client must have a certificate of client-ca";
        /// The application protocols that the server offers, the preferred one first. Default:
        /// none.
        pub alpn: Option<Protocols> = None, "alpn" = "NAME[,NAME...]",
            Described("names of 1 to 255 bytes"), "application protocols, the preferred one first",
            "none";
        /// The oldest version of TLS. Default: 1.2.
        pub tls_min: TlsVersion = TlsVersion::V1_2, "tls-min" = "VERSION",
            Words(&["1.2", "1.3"]), "oldest version of TLS that is accepted";
        /// What only clients have.
        pub client: TlsClientOptions = TlsClientOptions::default();
    }
    impl {
        fn check_together(&self, given: &[&str]) -> Result<(), String> {
            if given.contains(&"client-auth") && self.client_ca.is_none() {
                return Err("client-auth needs client-ca, which signs the certificates".into());
            }
            Ok(())
        }
    }
}

options! {
    /// Options of TLS for connections that this side starts. A listener does not take them.
    pub struct TlsClientOptions {
        /// Certificates (PEM) of the authorities that sign server certificates. Default: those that
        /// the system trusts.
        pub ca: Option<Files> = None, "ca" = "FILE[,FILE...]", Described("PEM files"),
            "authorities that sign server certificates", "those that the system trusts";
        /// The name that is asked for (SNI), and that the server's certificate must have. Default:
        /// the host of the target.
        pub sni: Option<ServerNameText> = None, "sni" = "NAME", Described("a name or an address"),
            "name that is asked for, and that the certificate must have", "host of the target";
        /// Whether any certificate is trusted. Anyone on the path can then read and change the
        /// bytes. Default: off.
        pub insecure: bool = false, "insecure" = "WORD", Words(&["on", "off"]),
            "whether any certificate is trusted";
        /// Whether sessions are resumed. Default: on.
        pub resume: bool = true, "resume" = "WORD", Words(&["on", "off"]),
            "whether sessions are resumed";
        /// The newest version of TLS. Default: 1.3.
        pub tls_max: TlsVersion = TlsVersion::V1_3, "tls-max" = "VERSION",
            Words(&["1.2", "1.3"]), "newest version of TLS that is offered";
    }
    impl {
        fn has_flags(&self) -> bool {
            false
        }

        fn check_together(&self, _: &[&str]) -> Result<(), String> {
            match self.insecure && self.ca.is_some() {
                true => Err("insecure=on trusts any certificate, so ca has no effect".into()),
                false => Ok(()),
            }
        }
    }
}

/// The name of a server, as it is written. Whether a certificate can have it is checked later.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerNameText(String);

impl ServerNameText {
    /// This name.
    ///
    /// # Errors
    /// It is empty.
    pub fn new(name: &str) -> Result<ServerNameText, String> {
        match name {
            "" => Err("the name is missing".into()),
            name => Ok(ServerNameText(name.to_owned())),
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for ServerNameText {
    fn read(&self, _: &About, text: &[u8]) -> Result<ServerNameText, String> {
        ServerNameText::new(utf8(text)?)
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(self.0.clone().into())
    }
}

/// Whether a client must have a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// It must.
    Require,
    /// It may have one, which must then be valid.
    Optional,
}

impl Word for ClientAuth {
    const VALUES: &'static [ClientAuth] = &[ClientAuth::Require, ClientAuth::Optional];
}

/// A version of TLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TlsVersion {
    /// TLS 1.2.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl Word for TlsVersion {
    const VALUES: &'static [TlsVersion] = &[TlsVersion::V1_2, TlsVersion::V1_3];
}

/// Paths of files. In a URL they are separated by commas, so no path can contain one.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Files(Vec<PathBuf>);

impl Files {
    /// These files.
    ///
    /// # Errors
    /// There are none, or a path is empty or contains a comma.
    pub fn new<P: Into<PathBuf>>(paths: impl IntoIterator<Item = P>) -> Result<Files, String> {
        let paths: Vec<PathBuf> = paths.into_iter().map(Into::into).collect();
        let bad = |path: &&PathBuf| {
            path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&b',')
        };
        match paths.iter().find(bad) {
            _ if paths.is_empty() => Err("the path of a file is missing".into()),
            Some(path) => {
                Err(format!("'{}' must be a path without commas, and not empty", path.display()))
            }
            None => Ok(Files(paths)),
        }
    }

    /// The paths, at least one.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(PathBuf::as_path)
    }
}

impl Value for Files {
    fn read(&self, _: &About, text: &[u8]) -> Result<Files, String> {
        Files::new(text.split(|&byte| byte == b',').map(|path| OsString::from_vec(path.to_vec())))
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        let paths: Vec<&[u8]> = self.paths().map(|path| path.as_os_str().as_bytes()).collect();
        Some(paths.join(&b','))
    }
}

/// Names of application protocols (ALPN), the preferred one first.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Protocols(Vec<Vec<u8>>);

impl Protocols {
    /// These protocols.
    ///
    /// # Errors
    /// There are none, or a name has no bytes, more than 255 bytes, or a comma.
    pub fn new<N: Into<Vec<u8>>>(names: impl IntoIterator<Item = N>) -> Result<Protocols, String> {
        let names: Vec<Vec<u8>> = names.into_iter().map(Into::into).collect();
        let fits = |name: &Vec<u8>| (1..=255).contains(&name.len()) && !name.contains(&b',');
        match !names.is_empty() && names.iter().all(fits) {
            true => Ok(Protocols(names)),
            false => Err("the name of a protocol must have 1 to 255 bytes and no comma".into()),
        }
    }

    /// The names, at least one.
    pub fn names(&self) -> &[Vec<u8>] {
        &self.0
    }
}

impl Value for Protocols {
    fn read(&self, _: &About, text: &[u8]) -> Result<Protocols, String> {
        Protocols::new(text.split(|&byte| byte == b','))
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(self.0.join(&b','))
    }
}
