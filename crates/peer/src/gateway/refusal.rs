//! Requests that are refused, and how.

use hyper::header::{
    ALLOW, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

use super::pieces::Pieces;

/// Why a request is not answered with what it asked for. Says nothing that the client sent.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    message: &'static str,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub fn new(status: StatusCode, message: &'static str) -> Self {
        Self { status, message, header: None }
    }

    pub fn bad_request(message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn unauthorised() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "a valid bearer token is needed")
            .with(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
    }

    pub fn method(allowed: &'static str) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "this resource does not know the method")
            .with(ALLOW, HeaderValue::from_static(allowed))
    }

    pub fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many transfers at a time")
            .with(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    pub fn unsatisfiable(message: &'static str, length: u64) -> Self {
        let refusal = Self::new(StatusCode::RANGE_NOT_SATISFIABLE, message);
        match HeaderValue::try_from(format!("bytes */{length}")) {
            Ok(value) => refusal.with(CONTENT_RANGE, value),
            Err(_) => refusal,
        }
    }

    pub fn internal(message: &'static str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.header = Some((name, value));
        self
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn message(&self) -> &'static str {
        self.message
    }

    /// The connection ends with it: a body may be under way that nobody reads, and whoever only has
    /// requests that are refused should not keep a connection.
    pub fn into_response(self) -> Response<Pieces> {
        let mut response = Response::new(Pieces::text(self.message));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some((name, value)) = self.header {
            headers.insert(name, value);
        }
        response
    }
}
