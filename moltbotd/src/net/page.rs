//! The plain pages: `/healthz`, `/readyz` and `/metrics`.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::{
    Shared,
    http::{Answer, plain, respond},
    metrics::{self, Format},
};
use crate::auth::Ingress;

/// How long the database may take to answer before it counts as not ready.
const STORE_PATIENCE: Duration = Duration::from_secs(2);

/// A page that somebody asked for.
pub(super) struct Wanted {
    path: String,
    method: Method,
    ingress: Ingress,
    accept: Format,
    /// What follows `Bearer` in `Authorization`.
    bearer: Option<String>,
    /// Which page made the browser ask, as only the browser can say.
    asked_by: AskedBy,
}

/// Who made a browser ask for a page (`Sec-Fetch-Site`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AskedBy {
    /// No page: another program, or a person who typed the address.
    Nobody,
    /// A page of this origin.
    OwnPage,
    /// A page of another origin, which may be another port of this host.
    ForeignPage,
}

impl AskedBy {
    fn of(site: Option<&str>) -> Self {
        match site {
            None | Some("none") => Self::Nobody,
            Some("same-origin") => Self::OwnPage,
            Some(_) => Self::ForeignPage,
        }
    }
}

impl Wanted {
    pub(super) fn of(path: &str, method: &Method, headers: &HeaderMap, ingress: Ingress) -> Self {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION)
            .and_then(|value| value.split_once(' '))
            .filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"))
            .map(|(_, secret)| secret.trim().to_owned());
        Self {
            path: path.to_owned(),
            method: method.clone(),
            ingress,
            accept: Format::of(text(header::ACCEPT).unwrap_or_default()),
            bearer,
            asked_by: AskedBy::of(text(HeaderName::from_static("sec-fetch-site"))),
        }
    }

    /// Makes the page.
    pub(super) async fn answer(self, shared: &Shared) -> Answer {
        if !matches!(&*self.path, "/healthz" | "/readyz" | "/metrics") {
            return plain(StatusCode::NOT_FOUND, "Not Found\n");
        }
        if !matches!(self.method, Method::GET | Method::HEAD) {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            let allow = HeaderValue::from_static("GET, HEAD");
            answer.headers_mut().insert(header::ALLOW, allow);
            return answer;
        }
        // No page of another origin needs to know whether a gateway runs here.
        if self.asked_by == AskedBy::ForeignPage {
            return plain(StatusCode::FORBIDDEN, "not for pages of other origins\n");
        }
        match &*self.path {
            "/healthz" => plain(StatusCode::OK, "ok\n"),
            "/readyz" => readiness(shared).await,
            _ => self.metrics(shared).await,
        }
    }

    /// Names of methods, channels and accounts are nobody's business but the
    /// owner's: whoever is not on this host shows the gateway's secret. A page
    /// in a browser never gets them, not even one of ours.
    async fn metrics(self, shared: &Shared) -> Answer {
        if self.ingress.browser || self.asked_by != AskedBy::Nobody {
            return plain(StatusCode::FORBIDDEN, "not for browsers\n");
        }
        let known = self.ingress.local || self.ingress.control;
        let secret = self.bearer.as_deref();
        if !known && !shared.gateway.auth.knows_secret(&self.ingress, secret) {
            let mut answer = plain(StatusCode::UNAUTHORIZED, "the gateway's secret is needed\n");
            let bearer = HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
            return answer;
        }
        let page = metrics::page(shared, self.accept).await;
        typed(respond(StatusCode::OK, page.into()), self.accept.content_type())
    }
}

/// Names what is not ready, in words that tell a stranger nothing more.
async fn readiness(shared: &Shared) -> Answer {
    let mut missing = Vec::new();
    let store = &shared.gateway.store;
    let reads = tokio::time::timeout(STORE_PATIENCE, store.read(|db| db.setting::<u8>("ready")));
    if store.trouble().is_some() || !matches!(reads.await, Ok(Ok(_))) {
        missing.push("store");
    }
    if shared.closing.is_cancelled() {
        missing.push("stopping");
    }
    let ready = missing.is_empty();
    let body = json!({ "ready": ready, "notReady": missing }).to_string() + "\n";
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    typed(respond(status, body.into()), "application/json")
}

fn typed(mut answer: Answer, content_type: &'static str) -> Answer {
    let value = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(header::CONTENT_TYPE, value);
    answer
}
