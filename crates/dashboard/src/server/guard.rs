//! Who is let in, and what browsers are told about every answer.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{Html, IntoResponse, Response};
use percent_encoding::percent_decode_str;

use super::token::Token;
use crate::page;

/// Name of the cookie.
const COOKIE: &str = "peerless-dashboard";

/// What every answer says: nothing from elsewhere is loaded, nothing is kept, no other page gets it.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Who is let in.
#[derive(Debug, Clone)]
pub struct Guard {
    pub(super) address: SocketAddr,
    pub(super) token: Option<Token>,
}

impl Guard {
    /// Whether the page was asked for by a name of this machine. Where anyone's page may make a browser of this machine
    /// connect (DNS rebinding), the name is what gives it away.
    fn knows_host(&self, headers: &HeaderMap) -> bool {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let ip = self.address.ip();
        !ip.is_loopback() || is_loopback_name(host, ip)
    }

    /// Whether the request shows the token; the one in its query, which is to be kept out of sight.
    fn admits(&self, headers: &HeaderMap, uri: &Uri) -> Admission {
        let Some(token) = &self.token else { return Admission::Granted };
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        if bearer.is_some_and(|given| token.is(given)) || cookies(headers).any(|given| token.is_cookie(given)) {
            return Admission::Granted;
        }
        let query = query(uri, "token").map(|value| percent_decode_str(value).collect::<Vec<u8>>());
        if query.is_some_and(|given| token.is(&given)) {
            Admission::ByQuery(token.cookie())
        } else {
            Admission::Refused
        }
    }
}

/// What became of a request.
enum Admission {
    Granted,
    /// With the cookie that stands for the token from now on.
    ByQuery(String),
    Refused,
}

fn is_loopback_name(host: &str, ip: IpAddr) -> bool {
    // A port may be anything: it may be forwarded.
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|named| named == ip || named.is_loopback())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|&byte| byte == b';'));
    values.filter_map(|pair| pair.trim_ascii().strip_prefix(COOKIE.as_bytes())?.strip_prefix(b"="))
}

/// The value of a field of the query, as it was sent.
pub fn query<'a>(uri: &'a Uri, field: &str) -> Option<&'a str> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(name, _)| *name == field).map(|(_, value)| value)
}

/// Lets a request through or not.
pub async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = if guard.knows_host(request.headers()) {
        match guard.admits(request.headers(), request.uri()) {
            Admission::Granted => next.run(request).await,
            Admission::ByQuery(cookie) => admitted(&cookie),
            Admission::Refused => refused(),
        }
    } else {
        let what = "this dashboard is for this machine only: ask for it as localhost or 127.0.0.1\n";
        (StatusCode::MISDIRECTED_REQUEST, what).into_response()
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refused() -> Response {
    let how = [(header::WWW_AUTHENTICATE, "Bearer")];
    let what = "the token is missing or wrong: send `Authorization: Bearer TOKEN`, or open /?token=TOKEN once\n";
    (StatusCode::UNAUTHORIZED, how, what).into_response()
}

/// Not a redirect: browsers send no strict cookie when they were led here by another site.
fn admitted(cookie: &str) -> Response {
    let cookie = format!("{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Strict");
    ([(header::SET_COOKIE, cookie)], Html(page::ADMITTED)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_known_and_no_others() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        for host in ["localhost", "LOCALHOST:80", "127.0.0.1:4000", "127.0.0.1", "[::1]:4000", "127.8.0.1"] {
            assert!(is_loopback_name(host, ip), "{host}");
        }
        let others = ["", "example.com", "localhost.example.com:80", "127.0.0.1.example.com", "10.0.0.1:80", "[::2]"];
        for host in others {
            assert!(!is_loopback_name(host, ip), "{host}");
        }
    }

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("a=b; peerless-dashboard=1234; c=d"));
        assert_eq!(cookies(&headers).collect::<Vec<_>>(), [b"1234"]);
    }
}
