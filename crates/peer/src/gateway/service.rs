//! From a request to its answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::{Method, Request, Response};
use tokio::sync::Semaphore;

use super::config::Limits;
use super::counters::Counters;
use super::download::download;
use super::grants::{Grants, Window};
use super::pieces::Pieces;
use super::refusal::Refusal;
use super::target::{self, Resource};
use super::upload::upload;

/// What all connections share.
pub(super) struct Shared {
    pub grants: Arc<Grants>,
    pub dataset: BTreeMap<String, Window>,
    pub transfers: Arc<Semaphore>,
    pub limits: Limits,
    pub counters: Arc<Counters>,
}

impl Shared {
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Pieces> {
        self.counters.request();
        self.respond(request).await.unwrap_or_else(|refusal| self.refuse(refusal))
    }

    /// The answer to everything while there are too many connections.
    pub fn turn_away(&self) -> Response<Pieces> {
        self.counters.request();
        self.refuse(Refusal::busy())
    }

    fn refuse(&self, refusal: Refusal) -> Response<Pieces> {
        // Nothing of the request: a confused client may put its token anywhere.
        tracing::debug!(status = refusal.status().as_u16(), why = refusal.message(), "a request was refused");
        self.counters.refused(refusal.status());
        refusal.into_response()
    }

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Pieces>, Refusal> {
        let (number, resource) = target::parse(request.uri())?;
        let allowed = match resource {
            Resource::Output => Method::PUT,
            Resource::Parameters | Resource::Dataset(_) => Method::GET,
        };
        if *request.method() != allowed {
            return Err(Refusal::method(if allowed == Method::PUT { "PUT" } else { "GET" }));
        }
        let token = bearer(request.headers()).ok_or_else(Refusal::unauthorised)?;
        let permission = self.grants.authorise(number, token)?;
        // Only now: who has no token cannot keep others from their transfers.
        let slot = Arc::clone(&self.transfers).try_acquire_owned().map_err(|_| Refusal::busy())?;
        match resource {
            Resource::Output => {
                let answer = upload(&permission, request, self.limits.stall, &self.counters).await;
                drop(slot);
                answer
            }
            _ => download(self, permission, resource, request.headers(), slot),
        }
    }
}

/// The token of the one `Authorization: Bearer` header (RFC 6750).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (given.next()?.as_bytes(), given.next()) else { return None };
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn token(values: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        bearer(&headers).map(|token| String::from_utf8(token.to_vec()).unwrap())
    }

    #[test]
    fn the_token_is_in_one_bearer_header() {
        assert_eq!(token(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(token(&["bearer  abc "]).as_deref(), Some("abc"));
        for values in [&[][..], &["Basic abc"], &["abc"], &["Bearer"], &["Bearer abc", "Bearer abc"]] {
            assert_eq!(token(values), None, "{values:?}");
        }
    }
}
