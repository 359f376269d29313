//! One HTTP request of a peer: a page, or the upgrade to a WebSocket, which
//! every path takes.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{
    Shared,
    admission::{Permit, Source},
    handshake, ingress,
    ingress::Listener,
    page::Wanted,
    visitor, wire,
    wire::Socket,
};
use crate::auth::Ingress;

const HEADER_BYTES: usize = 16 * 1024;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may hold up the exit.
const LAST_REQUEST: Duration = Duration::from_millis(250);

pub(super) type Answer = Response<Full<Bytes>>;

/// Serves one peer: one request, or an upgrade and what follows.
pub(super) async fn serve<S>(stream: S, listener: Listener, shared: Shared, permit: Permit)
where
    S: Socket,
{
    // The service is called once: plain answers close, by their header. Turning
    // keep-alive off here would add `close` to the answer of an upgrade too,
    // which strict clients refuse.
    let permit = Mutex::new(Some(permit));
    let service = service_fn(|request| {
        let (shared, permit) = (shared.clone(), &permit);
        async move {
            Ok::<_, Infallible>(match answer::<S>(request, listener, &shared, permit).await {
                Ok(answer) => answer,
                Err(wanted) => wanted.answer(&shared).await,
            })
        }
    });
    let closing = shared.closing.clone();
    let mut connection = pin!(
        http1::Builder::new()
            .max_buf_size(HEADER_BYTES)
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let served = tokio::select! {
        result = connection.as_mut() => result,
        // Whoever was let in a moment ago still gets the answer.
        () = closing.cancelled() => match timeout(LAST_REQUEST, connection).await {
            Ok(result) => result,
            Err(_) => return,
        },
    };
    if let Err(error) = served {
        tracing::debug!(%error, "request not served");
    }
}

/// Returns the answer, or the page that is wanted.
async fn answer<S>(
    mut request: Request<Incoming>,
    listener: Listener,
    shared: &Shared,
    permit: &Mutex<Option<Permit>>,
) -> Result<Answer, Box<Wanted>>
where
    S: Socket,
{
    let config = shared.gateway.config.get();
    let tailnet_origin = shared.gateway.tailscale.origin();
    let own = (shared.port, tailnet_origin.as_deref());
    let judged = ingress::check_target(request.uri(), request.headers())
        .and_then(|()| ingress::judge(listener, request.headers(), &config.gateway, own));
    let ingress = match judged {
        Ok(ingress) => ingress,
        Err(ingress::Refused(status, body)) => {
            shared.handshakes.misdirected.one();
            return Ok(plain(status, body));
        }
    };
    let ingress = visitor::identify(ingress, listener, request.headers(), shared).await;

    // From here on the peer competes with those of its own address only.
    let source = if ingress.control { Source::Control } else { Source::of(ingress.ip) };
    let admitted = lock(permit).as_mut().is_some_and(|permit| permit.move_to(source));
    if !admitted {
        shared.handshakes.crowded.one();
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "too many unauthenticated peers\n"));
    }

    if !wants_upgrade(request.headers()) {
        let (path, method) = (request.uri().path(), request.method());
        return Err(Box::new(Wanted::of(path, method, request.headers(), ingress)));
    }
    let key = match upgrade_key(&request) {
        Ok(key) => key,
        Err(answer) => return Ok(*answer),
    };
    let Some(permit) = lock(permit).take() else {
        return Ok(plain(StatusCode::BAD_REQUEST, "one upgrade\n"));
    };
    let upgrade = hyper::upgrade::on(&mut request);
    shared.tasks.spawn(upgraded::<S>(upgrade, ingress, shared.clone(), permit));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok(response)
}

fn lock(permit: &Mutex<Option<Permit>>) -> MutexGuard<'_, Option<Permit>> {
    permit.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn upgraded<S>(upgrade: OnUpgrade, ingress: Ingress, shared: Shared, permit: Permit)
where
    S: Socket,
{
    let Ok(upgraded) = upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<S>>() else { return };
    let (socket, read) = (parts.io.into_inner(), parts.read_buf.to_vec());
    let (reader, writer) = wire::wire(socket, read, &shared.incoming);
    handshake::run(reader, writer, ingress, shared, permit).await;
}

fn wants_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE.as_str(), "websocket")
}

fn upgrade_key(request: &Request<Incoming>) -> Result<String, Box<Answer>> {
    let headers = request.headers();
    let bad = |text| Err(Box::new(plain(StatusCode::BAD_REQUEST, text)));
    if *request.method() != Method::GET {
        return bad("an upgrade is a GET\n");
    }
    if !has_token(headers, header::CONNECTION.as_str(), "upgrade") {
        return bad("Connection: Upgrade is missing\n");
    }
    if !has_token(headers, header::SEC_WEBSOCKET_VERSION.as_str(), "13") {
        let mut answer = plain(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 only\n");
        let version = header::HeaderValue::from_static("13");
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
        return Err(Box::new(answer));
    }
    match headers.get(header::SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()) {
        Some(key) if !key.trim().is_empty() => Ok(key.trim().to_owned()),
        _ => bad("Sec-WebSocket-Key is missing\n"),
    }
}

fn has_token(headers: &HeaderMap, name: &str, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

pub(super) fn plain(status: StatusCode, body: &'static str) -> Answer {
    let mut answer = respond(status, Bytes::from_static(body.as_bytes()));
    let text = header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer
}

pub(super) fn respond(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    answer
}
