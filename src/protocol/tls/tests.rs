//! The files of a listener.

use super::client::{Connector, Name};
use super::options::{ClientAuth, Files, ServerNameText, TlsClientOptions, TlsOptions, TlsVersion};
use super::server::Acceptor;
use super::testing::{Client, Clients, Directory};
use crate::buffer::{Chain, Pool, Reserve};

/// Does a handshake. Returns the client, or what either side says of the failure.
fn shake(acceptor: &Acceptor, mut client: Client) -> Result<Client, String> {
    let pool = Pool::new(Reserve::new(4096, 16).unwrap(), 0);
    let mut session = acceptor.session().unwrap();
    for _ in 0..10 {
        let bytes = client.says();
        let mut wire = Chain::new(&pool);
        for part in bytes.chunks(4096) {
            let mut lease = pool.lease().unwrap();
            lease.extend_from_slice(part);
            wire.push_back(lease);
        }
        while !wire.is_empty() {
            session.receive(&mut wire).map_err(|error| error.to_string())?;
        }
        let mut wire = Chain::new(&pool);
        assert!(session.records(&mut wire, &pool));
        let bytes: Vec<u8> = wire.slices().flatten().copied().collect();
        client.hears(&bytes).map_err(|error| error.to_string())?;
        if !client.is_handshaking() && !session.is_handshaking() {
            return Ok(client);
        }
    }
    panic!("no end of the handshake");
}

fn refused(options: &TlsOptions) -> String {
    Acceptor::new(options).map(drop).unwrap_err().to_string()
}

#[test]
fn files_that_are_wrong_are_named_with_the_remedy() {
    let directory = Directory::new();
    directory.certify("other.pem", "other.key", "other.test");
    std::fs::write(directory.0.join("empty"), "").unwrap();
    std::fs::write(directory.0.join("cut"), "-----BEGIN CERTIFICATE-----\nMIIB\n").unwrap();
    for (cert, key, parts) in [
        ("none.pem", "key.pem", ["none.pem: no such file", "echopool cert"]),
        ("cert.pem", "none.key", ["none.key: no such file", "echopool cert"]),
        ("empty", "key.pem", ["empty: it has no certificate", "-----BEGIN CERTIFICATE-----"]),
        ("key.pem", "key.pem", ["key.pem: it has no certificate", "-----BEGIN CERTIFICATE-----"]),
        (
            "cert.pem",
            "cert.pem",
            ["cert.pem: it has no private key", "-----BEGIN PRIVATE KEY-----"],
        ),
        ("cut", "key.pem", ["cut: not PEM", "missing section end"]),
        (
            "cert.pem",
            "other.key",
            ["other.key: it is not the key of the certificate in", "cert.pem"],
        ),
    ] {
        let error = refused(&directory.options(&[cert], &[key]));
        for part in parts {
            assert!(error.contains(part), "{cert}, {key}: {error}");
        }
    }
    for (certs, keys, part) in [
        (&[][..], &[][..], "give cert=FILE and key=FILE"),
        (&["cert.pem"], &[], "needs key=FILE"),
        (&[], &["key.pem"], "needs cert=FILE"),
        (&["cert.pem", "other.pem"], &["key.pem"], "cert has 2 files and key has 1"),
    ] {
        let error = Acceptor::new(&directory.options(certs, keys)).map(drop).unwrap_err();
        assert!(error.is_of_options() && error.to_string().contains(part), "{error}");
    }
    let ca = Files::new([directory.0.join("empty")]).unwrap();
    let options = directory.options(&["cert.pem"], &["key.pem"]);
    let error = refused(&TlsOptions { client_ca: Some(ca), ..options });
    assert!(error.contains("empty: it has no certificate"), "{error}");
}

#[test]
fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let directory = Directory::new();
    directory.certify("a.pem", "a.key", "a.test");
    directory.certify("b.pem", "b.key", "*.b.test");
    let options = directory.options(&["a.pem", "b.pem"], &["a.key", "b.key"]);
    let acceptor = Acceptor::new(&options).unwrap();
    let clients = Clients::new(TlsVersion::V1_3);
    let got = |name: &str| shake(&acceptor, clients.client(name)).unwrap().certificate();
    let (a, b) = (got("a.test"), got("x.b.test"));
    assert_ne!(a, b);
    assert_eq!((got("else.test"), got("127.0.0.1")), (a.clone(), a));
}

#[test]
fn files_are_read_again_and_bad_ones_change_nothing() {
    let directory = Directory::new();
    let acceptor = Acceptor::new(&directory.options(&["cert.pem"], &["key.pem"])).unwrap();
    let clients = Clients::new(TlsVersion::V1_3);
    let got = || shake(&acceptor, clients.client("localhost")).unwrap();
    let first = got().certificate();
    directory.certify("cert.pem", "new.key", "localhost");
    assert!(acceptor.reload().unwrap_err().to_string().contains("not the key"));
    std::fs::remove_file(directory.0.join("key.pem")).unwrap();
    assert!(acceptor.reload().unwrap_err().to_string().contains("no such file"));
    assert_eq!(got().certificate(), first);
    std::fs::rename(directory.0.join("new.key"), directory.0.join("key.pem")).unwrap();
    acceptor.reload().unwrap();
    let again = got();
    assert!(again.is_resumed(), "the keys of tickets stay");
    let fresh = shake(&acceptor, Clients::new(TlsVersion::V1_3).client("localhost")).unwrap();
    assert_ne!(fresh.certificate(), first);
}

#[test]
fn clients_show_a_certificate_if_they_must() {
    let directory = Directory::new();
    directory.certify("known.pem", "known.key", "client");
    directory.certify("stranger.pem", "stranger.key", "client");
    let ca = Files::new([directory.0.join("known.pem")]).unwrap();
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let none = || Clients::new(version).client("localhost");
        let with = |name: &str| {
            let (cert, key) = (format!("{name}.pem"), format!("{name}.key"));
            Clients::with(version, &directory, &cert, &key).client("localhost")
        };
        for client_auth in [ClientAuth::Require, ClientAuth::Optional] {
            let options = directory.options(&["cert.pem"], &["key.pem"]);
            let options = TlsOptions { client_ca: Some(ca.clone()), client_auth, ..options };
            let acceptor = Acceptor::new(&options).unwrap();
            assert!(shake(&acceptor, with("known")).is_ok());
            let error = shake(&acceptor, with("stranger")).map(drop).unwrap_err();
            assert!(error.contains("certificate"), "{error}");
            let without = shake(&acceptor, none()).map(drop);
            assert_eq!(without.is_ok(), client_auth == ClientAuth::Optional, "{without:?}");
        }
    }
}

#[test]
fn old_versions_are_refused_if_the_options_say_so() {
    let directory = Directory::new();
    let options = directory.options(&["cert.pem"], &["key.pem"]);
    let only = TlsOptions { tls_min: TlsVersion::V1_3, ..options.clone() };
    let old = || Clients::new(TlsVersion::V1_2).client("localhost");
    assert!(shake(&Acceptor::new(&options).unwrap(), old()).is_ok());
    let error = shake(&Acceptor::new(&only).unwrap(), old()).map(drop).unwrap_err();
    assert!(error.contains("Tls12NotOfferedOrEnabled"), "{error}");
}

#[test]
fn a_listener_refuses_the_options_of_clients_and_a_client_those_of_listeners() {
    let directory = Directory::new();
    let options = directory.options(&["cert.pem"], &["key.pem"]);
    let client = TlsClientOptions { insecure: true, ..TlsClientOptions::default() };
    let error = Acceptor::new(&TlsOptions { client: client.clone(), ..options.clone() });
    let error = error.map(drop).unwrap_err();
    assert!(error.is_of_options() && error.to_string().contains("client-ca=FILE"), "{error}");
    let options = TlsOptions { client, ..options };
    assert!(Connector::new(&options).is_ok());
    let two = directory.options(&["cert.pem"; 2], &["key.pem"; 2]);
    let error = Connector::new(&TlsOptions { client: options.client.clone(), ..two }).unwrap_err();
    assert!(error.is_of_options() && error.to_string().contains("one certificate"), "{error}");
    let client_ca = Files::new([directory.0.join("cert.pem")]).ok();
    let error = Connector::new(&TlsOptions { client_ca, ..options }).unwrap_err();
    assert!(error.is_of_options() && error.to_string().contains("ca=FILE"), "{error}");
}

#[test]
fn the_name_of_a_server_is_the_host_unless_another_is_given() {
    let of = |sni: Option<&str>, host: &str| {
        let sni = sni.map(|name| ServerNameText::new(name).unwrap());
        let client = TlsClientOptions { sni, ..TlsClientOptions::default() };
        let options = TlsOptions { client, ..TlsOptions::default() };
        Name::new(&options, host).map_err(|error| error.to_string())
    };
    for (sni, host, expected) in [
        (None, "example.test", "example.test"),
        (None, "", "localhost"),
        (None, "fe80::1%eth0", "fe80::1"),
        (None, "127.0.0.1", "127.0.0.1"),
        (Some("other.test"), "127.0.0.1", "other.test"),
    ] {
        assert_eq!(of(sni, host), of(Some(expected), "else"), "{host}");
    }
    assert!(of(None, "a_b..c").unwrap_err().contains("give one with sni=NAME"));
}
