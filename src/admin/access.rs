//! Who may do what. Whoever can reach the address may read. To change something, a request needs
//! the token, and it must not come from a page of another site.
//!
//! A browser sends requests of any page to any address that it can reach, also to one of the
//! loopback interface. Three checks stop such pages:
//!
//! * The name in `Host` must be one that belongs to this server: an address, `localhost`, or one
//!   that was allowed. A page whose own name suddenly resolves to this address (DNS rebinding) has
//!   another name.
//! * `Sec-Fetch-Site` and `Origin`, which a page cannot set, must be those of this address.
//! * The token is in a header that a page of another site cannot send without asking first.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{self, Request};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use subtle::ConstantTimeEq;

use super::AdminState;

/// The shortest and the longest token, in bytes.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// Why a text is not a token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum TokenError {
    /// It has fewer than 16 bytes or more than 512.
    Length(usize),
    /// It has a character other than the printable ones of ASCII, or a space.
    Character,
}

impl std::fmt::Display for TokenError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TokenError::Length(bytes) => {
                let (min, max) = (TOKEN_BYTES.start(), TOKEN_BYTES.end());
                write!(f, "a token has {min} to {max} bytes, not {bytes}")
            }
            TokenError::Character => {
                f.write_str("a token has printable ASCII characters only, and no space")
            }
        }
    }
}

impl std::error::Error for TokenError {}

/// What a request must have to change something: a text that only those know who may.
#[derive(Clone)]
pub struct Token(Box<str>);

impl Token {
    /// A token has 16 to 512 printable ASCII characters and no space.
    ///
    /// # Errors
    /// The text is not a token.
    pub fn new(text: &str) -> Result<Token, TokenError> {
        if !TOKEN_BYTES.contains(&text.len()) {
            return Err(TokenError::Length(text.len()));
        }
        match text.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Token(text.into())),
            false => Err(TokenError::Character),
        }
    }

    /// Takes as long for every text of the same length.
    fn is(&self, text: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(text).into()
    }
}

/// It must not get into a log.
impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

/// Refuses requests to a name that is not this server's.
pub(super) async fn check_host(
    state: extract::State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Response {
    // The name of an absolute URI takes precedence over the header (RFC 9112, section 3.2.2).
    let of_uri = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    let of_header = request.headers().get(header::HOST).map(|value| value.as_bytes());
    let is_one = request.headers().get_all(header::HOST).iter().count() <= 1;
    // A request of HTTP/1.0 may have none. No browser sends it.
    if is_one && of_uri.or(of_header).is_none_or(|host| is_own(host, &state.hosts)) {
        return next.run(request).await;
    }
    let text = "this name is not one of this server: use an address or localhost, or allow the \
                name (--admin-host)\n";
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// Whether a `Host` names this server.
fn is_own(host: &[u8], allowed: &[String]) -> bool {
    let Ok(host) = std::str::from_utf8(host) else { return false };
    if let Some(v6) = host.strip_prefix('[') {
        let Some((address, port)) = v6.split_once(']') else { return false };
        return address.parse::<Ipv6Addr>().is_ok() && is_port(port);
    }
    let (name, port) = host.find(':').map_or((host, ""), |colon| host.split_at(colon));
    // A name may end in a dot, which makes it absolute.
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    let is_loopback = name == "localhost" || name.ends_with(".localhost");
    let is_allowed = allowed.iter().any(|one| one.eq_ignore_ascii_case(&name));
    (is_loopback || name.parse::<Ipv4Addr>().is_ok() || is_allowed) && is_port(port)
}

/// Whether this is nothing, or a colon and a port.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Refuses a request that may not change something.
pub(super) async fn check_token(
    state: extract::State<Arc<AdminState>>,
    request: Request,
    next: Next,
) -> Response {
    match may_change(&state, request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status @ StatusCode::UNAUTHORIZED, text)) => {
            (status, [(header::WWW_AUTHENTICATE, "Bearer")], text).into_response()
        }
        Err(refused) => refused.into_response(),
    }
}

fn may_change(state: &AdminState, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
    if !is_same_origin(headers) {
        return Err((StatusCode::FORBIDDEN, "the request comes from a page of another site\n"));
    }
    let Some(token) = &state.token else {
        let text = "nothing can be changed: the server was started without a token \
                    (--admin-token-file)\n";
        return Err((StatusCode::FORBIDDEN, text));
    };
    let given = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    let given = given.and_then(|value| {
        let (scheme, token) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
    });
    match given {
        None => Err((StatusCode::UNAUTHORIZED, "this needs the token: Authorization: Bearer …\n")),
        Some(given) if token.is(given) => Ok(()),
        Some(_) => Err((StatusCode::FORBIDDEN, "wrong token\n")),
    }
}

/// Whether a request comes from the page at this address, or from a program that is no browser.
fn is_same_origin(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site")
        && site != "same-origin"
    {
        return false;
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.as_bytes();
    // Behind a proxy with TLS, the scheme is another.
    let origin = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    let host = headers.get(header::HOST).map(|host| host.as_bytes());
    origin.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn names_of_this_server_are_addresses_localhost_and_those_allowed() {
        let allowed = ["metrics.example".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9000",
            "10.1.2.3:80",
            "[::1]",
            "[::1]:9000",
            "[fe80::1]:9000",
            "localhost",
            "LocalHost:9000",
            "localhost.:9000",
            "a.localhost:9000",
            "metrics.example",
            "Metrics.Example:9000",
        ] {
            assert!(is_own(host.as_bytes(), &allowed), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9000",
            "metrics.example.evil.example",
            "xlocalhost",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "127.0.0.1:x",
            "127.0.0.1:99999",
            "[::1",
            "[::1]x",
            "[evil.example]",
            "::1",
            "0x7f.1",
        ] {
            assert!(!is_own(host.as_bytes(), &allowed), "{host}");
        }
        assert!(!is_own(b"\xff", &allowed));
        assert!(!is_own(b"metrics.example", &[]));
    }

    #[test]
    fn a_request_of_another_site_is_told_from_one_of_this_page_and_of_a_program() {
        let is_same = |fields: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            is_same_origin(&headers)
        };
        let (host, site) = (("host", "127.0.0.1:9000"), "sec-fetch-site");
        assert!(is_same(&[host]), "a program");
        assert!(is_same(&[host, (site, "same-origin"), ("origin", "http://127.0.0.1:9000")]));
        assert!(is_same(&[host, ("origin", "https://127.0.0.1:9000")]));
        for wrong in ["cross-site", "same-site", "none", ""] {
            assert!(!is_same(&[host, (site, wrong)]), "{wrong}");
        }
        for wrong in [
            "null",
            "",
            "http://127.0.0.1:9001",
            "http://localhost:9000",
            "http://127.0.0.1",
            "http://127.0.0.1:9000.evil.example",
            "ftp://127.0.0.1:9000",
        ] {
            assert!(!is_same(&[host, ("origin", wrong)]), "{wrong}");
        }
        assert!(!is_same(&[("origin", "http://127.0.0.1:9000")]), "without a host");
    }

    #[test]
    fn a_token_is_compared_as_a_whole_and_is_not_shown() {
        let token = Token::new("0123456789abcdef").unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcde", b"0123456789abcdefg", b"0123456789abcdeF"] {
            assert!(!token.is(wrong));
        }
        assert!(!format!("{token:?}").contains('0'));
        assert_eq!(Token::new("short").unwrap_err(), TokenError::Length(5));
        assert_eq!(Token::new("0123456789 abcdef").unwrap_err(), TokenError::Character);
        assert_eq!(Token::new("0123456789abcdéf").unwrap_err(), TokenError::Character);
    }
}
