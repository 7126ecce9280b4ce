//! Who may ask: programs of this pod, and no web page that somebody opened on this machine.

use super::refusal::Refusal;
use axum::{
    extract::Request,
    http::{
        HeaderMap, HeaderValue, Method, Uri,
        header::{CONNECTION, HOST, ORIGIN, TRANSFER_ENCODING},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};

/// A header that a web page can only send after a preflight, which is never granted.
pub(crate) const REQUEST_HEADER: &str = "conch-request";

/// Refuses requests that cannot come from a program of this pod.
pub(super) async fn guard(request: Request, next: Next) -> Response {
    let chunked = request.headers().contains_key(TRANSFER_ENCODING);
    let mut response = match check(request.method(), request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    if chunked {
        // There may have been a length as well, which hyper drops: what follows on this connection may be part of this
        // request's body to somebody else, and must be no request to us (RFC 9112, 6.1).
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn check(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, more) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next());
    let named_in_uri = uri.authority().is_none_or(|authority| is_loopback(authority.as_str()));
    if !host.is_some_and(is_loopback) || more.is_some() || !named_in_uri {
        return Err(Refusal::ForeignHost);
    }
    if headers.contains_key(ORIGIN) {
        return Err(Refusal::OriginRefused);
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    if !reads && headers.get(REQUEST_HEADER).is_none_or(|value| value != "1") {
        return Err(Refusal::RequestHeaderMissing);
    }
    Ok(())
}

/// `localhost`, `127.0.0.1` or `[::1]`, with any port or none: a port forwarded elsewhere is no danger.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    };
    let is_port = port.len() <= 5 && port.bytes().all(|digit| digit.is_ascii_digit());
    is_port && (name.eq_ignore_ascii_case("localhost") || name == "127.0.0.1" || name == "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_hosts() {
        for host in ["localhost", "LocalHost:4040", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:4040"] {
            assert!(is_loopback(host), "{host}");
        }
        let foreign = [
            "",
            ":4040",
            "::1",
            "[::1",
            "example.org",
            "localhost.example.org",
            "localhost.",
            "127.0.0.1.nip.io",
            "127.0.0.2",
            "10.0.0.1:4040",
            "localhost:port",
            "localhost:4040:4040",
            "localhost@example.org",
            "user@localhost",
            "0.0.0.0",
            "[::]",
        ];
        for host in foreign {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
