//! See [`Router`].

use std::{
    any::Any,
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use futures_util::FutureExt as _;
use moltbot_protocol::{
    Access, Delivery, Request, Role, Scope, Waits,
    frame::{RequestFrame, ResponseFrame},
};
use schemars::SchemaGenerator;
use serde::Serialize;
use serde_json::{Map, Value, json, value::RawValue};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{Context, Error, Result, validate::Rules};
use crate::{
    bus::Outbox,
    metrics::{Count, Durations},
};

/// The table of callable methods.
///
/// A method enters it once, with [`Router::on`]; its name, permission, schema
/// and answer type are read off the handler's signature.
pub struct Router<G> {
    methods: HashMap<&'static str, Method<G>>,
    /// In the order they were added, which is the order clients see.
    order: Vec<&'static str>,
    /// Methods that clients may know from elsewhere, and why they are not here.
    absent: HashMap<&'static str, &'static str>,
    unknown: Count,
}

/// Figures about a method.
#[derive(Debug)]
pub struct Calls {
    /// Calls that succeeded.
    pub ok: Count,
    /// Calls that were refused or failed.
    pub failed: Count,
    /// How long the answer took, the first one if there are two.
    pub took: Durations,
    /// What to expect of the next answer, in bytes.
    expected: AtomicUsize,
}

/// What is expected of a method's answers before the first one was seen: four
/// such calls of a client are started at once.
const UNKNOWN_ANSWER: usize = 4 * 1024 * 1024;

impl Calls {
    /// Expects of the next answer what this one had, and not much less than
    /// the largest of the last few dozen.
    fn sized(&self, bytes: usize) {
        // Two answers at once may overwrite each other's estimate; it is one.
        let before = match self.expected.load(Ordering::Relaxed) {
            UNKNOWN_ANSWER => 0,
            before => before,
        };
        self.expected.store(bytes.max(before - before / 32), Ordering::Relaxed);
    }

    fn note(&self, ok: bool, since: Instant) {
        if ok {
            self.ok.one()
        } else {
            self.failed.one()
        }
        self.took.add(since.elapsed());
    }
}

struct Method<G> {
    calls: Arc<Calls>,
    access: Access,
    advertised: bool,
    waits: Waits,
    schema: fn(&mut SchemaGenerator) -> Value,
    call: Box<Handler<G>>,
}

type Handler<G> = dyn Fn(Context<G>, String, &str) -> Reply + Send + Sync;
type Reply = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// The answers of a method that answers twice: the first at once, the second
/// when the work is done.
pub struct Twice<T> {
    /// What the caller gets now.
    pub first: T,
    /// Runs once the first answer is queued. What it returns, if anything, is
    /// sent with the same request id.
    pub last: Option<Last>,
}

/// The work behind a second answer.
pub type Last = Pin<Box<dyn Future<Output = Option<Final>> + Send>>;

/// A second answer.
#[derive(Debug)]
pub struct Final {
    /// The result; present on failures of an agent run too.
    pub payload: Option<Value>,
    /// The reason of a failure.
    pub error: Option<moltbot_protocol::ErrorShape>,
}

/// An answered request.
#[must_use]
pub struct Answer {
    /// The response frame.
    pub text: Utf8Bytes,
    ok: bool,
    then: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Answer {
    /// Queues the response, then starts what follows it: events that a call
    /// causes must not overtake its answer.
    pub fn deliver(self, outbox: &Outbox) {
        outbox.push(self.text, Delivery::Answer);
        if let Some(then) = self.then {
            tokio::spawn(then);
        }
    }
}

impl<G> Default for Router<G> {
    fn default() -> Self {
        Self {
            methods: HashMap::new(),
            order: Vec::new(),
            absent: HashMap::new(),
            unknown: Count::default(),
        }
    }
}

impl<G: Send + Sync + 'static> Router<G> {
    /// Names a method that clients may know from elsewhere, and tells those who
    /// call it why it is not here.
    pub fn absent(&mut self, method: &'static str, why: &'static str) -> &mut Self {
        self.absent.insert(method, why);
        self
    }

    /// Adds a handler for `R`.
    ///
    /// # Panics
    ///
    /// When two handlers take the same request: a mistake in the source, met
    /// by the first test that builds a router.
    pub fn on<R, F, Fut>(&mut self, handler: F) -> &mut Self
    where
        R: Request,
        F: Fn(Context<G>, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R::Response>> + Send + 'static,
    {
        let rules = OnceLock::new();
        self.insert::<R>(Box::new(move |cx, id, params| match parse::<R>(&rules, params) {
            Ok(request) => {
                let answer = handler(cx, request);
                Box::pin(async move { respond(&id, answer.await) })
            }
            Err(error) => ready(respond::<()>(&id, Err(error))),
        }))
    }

    /// Adds a handler for a method that answers twice.
    ///
    /// # Panics
    ///
    /// See [`Router::on`].
    pub fn on_twice<R, F, Fut>(&mut self, handler: F) -> &mut Self
    where
        R: Request,
        F: Fn(Context<G>, R) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Twice<R::Response>>> + Send + 'static,
    {
        let rules = OnceLock::new();
        self.insert::<R>(Box::new(move |cx, id, params| match parse::<R>(&rules, params) {
            Ok(request) => {
                let outbox = Arc::clone(&cx.outbox);
                let answer = handler(cx, request);
                Box::pin(async move {
                    let (result, last) = match answer.await {
                        Ok(Twice { first, last }) => (Ok(first), last),
                        Err(error) => (Err(error), None),
                    };
                    let answer = respond(&id, result);
                    let then = last.map(|last| Box::pin(push_final(outbox, id, last)) as _);
                    Answer { then, ..answer }
                })
            }
            Err(error) => ready(respond::<()>(&id, Err(error))),
        }))
    }

    fn insert<R: Request>(&mut self, call: Box<Handler<G>>) -> &mut Self {
        let calls = Calls {
            ok: Count::default(),
            failed: Count::default(),
            took: Durations::quick(),
            expected: AtomicUsize::new(UNKNOWN_ANSWER),
        };
        let method = Method {
            calls: Arc::new(calls),
            access: R::ACCESS,
            advertised: R::ADVERTISED,
            waits: R::WAITS,
            schema: describe::<R>,
            call,
        };
        let previous = self.methods.insert(R::METHOD, method);
        assert!(previous.is_none(), "two handlers for {}", R::METHOD);
        self.order.push(R::METHOD);
        self
    }

    /// Answers one request. A panicking handler is answered with an error and
    /// logged; the daemon lives on.
    pub fn dispatch(&self, cx: Context<G>, frame: &RequestFrame<'_>) -> Reply {
        let since = Instant::now();
        let id = frame.id.clone().into_owned();
        let found = self.methods.get(&*frame.method);
        if let Err(error) = authorize(&cx, found.map(|method| method.access)) {
            // Names that a peer makes up are counted as one.
            found.map_or(&self.unknown, |method| &method.calls.failed).one();
            return ready(respond::<()>(&id, Err(error)));
        }
        let Some(method) = found else {
            let error = if frame.method == "connect" {
                Error::invalid("connect is only valid as the first request")
            } else {
                Error::Invalid(match self.absent.get(&*frame.method) {
                    Some(why) => format!("unknown method: {}: {why}", frame.method),
                    None => format!("unknown method: {}", frame.method),
                })
            };
            self.unknown.one();
            return ready(respond::<()>(&id, Err(error)));
        };
        let params = frame.params.map_or("{}", RawValue::get);
        let name = frame.method.clone().into_owned();
        let call = || (method.call)(cx, id.clone(), params);
        let calls = Arc::clone(&method.calls);
        match std::panic::catch_unwind(AssertUnwindSafe(call)) {
            Ok(reply) => Box::pin(async move {
                let answer = AssertUnwindSafe(reply)
                    .catch_unwind()
                    .await
                    .unwrap_or_else(|panic| panicked(&id, &name, panic.as_ref()));
                calls.note(answer.ok, since);
                calls.sized(answer.text.len());
                answer
            }),
            Err(panic) => {
                calls.note(false, since);
                ready(panicked(&id, &name, panic.as_ref()))
            }
        }
    }

    /// Answers a request that the daemon does not take on.
    pub fn refuse(&self, frame: &RequestFrame<'_>, error: Error) -> Answer {
        self.methods.get(&*frame.method).map_or(&self.unknown, |method| &method.calls.failed).one();
        respond::<()>(&frame.id, Err(error))
    }

    /// Returns what the answer of a method depends on.
    #[must_use]
    pub fn waits(&self, method: &str) -> Waits {
        self.methods.get(method).map_or(Waits::ForDaemon, |method| method.waits)
    }

    /// Returns how many bytes the answer of a method is expected to have.
    #[must_use]
    pub fn expected_answer(&self, method: &str) -> usize {
        self.methods.get(method).map_or(0, |it| it.calls.expected.load(Ordering::Relaxed))
    }

    /// Returns figures about the calls of each method, sorted by name.
    #[must_use]
    pub fn calls(&self) -> Vec<(&'static str, Arc<Calls>)> {
        let mut calls: Vec<_> =
            self.methods.iter().map(|(&name, method)| (name, Arc::clone(&method.calls))).collect();
        calls.sort_unstable_by_key(|&(name, _)| name);
        calls
    }

    /// Returns how many calls named no method.
    #[must_use]
    pub fn unknown_calls(&self) -> u64 {
        self.unknown.get()
    }

    /// Names of the methods clients are told about: the `features.methods` of
    /// the handshake.
    pub fn advertised(&self) -> impl Iterator<Item = &'static str> {
        self.order.iter().copied().filter(|name| self.methods[name].advertised)
    }

    /// Every method with its permission, sorted.
    #[must_use]
    pub fn table(&self) -> Vec<(&'static str, Access)> {
        let mut table: Vec<_> =
            self.methods.iter().map(|(&name, method)| (name, method.access)).collect();
        table.sort_unstable_by_key(|&(name, _)| name);
        table
    }

    /// JSON Schema of every method.
    #[must_use]
    pub fn schema(&self) -> Value {
        let mut types = SchemaGenerator::default();
        let mut names: Vec<_> = self.methods.keys().copied().collect();
        names.sort_unstable();
        let methods: Map<String, Value> = names
            .into_iter()
            .map(|name| (name.to_owned(), (self.methods[name].schema)(&mut types)))
            .collect();
        json!({ "methods": methods, "$defs": types.take_definitions(true) })
    }
}

impl<G> fmt::Debug for Router<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.order).finish()
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("text", &self.text).finish_non_exhaustive()
    }
}

impl<T: fmt::Debug> fmt::Debug for Twice<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Twice").field("first", &self.first).finish_non_exhaustive()
    }
}

/// The role comes first, then the scope; an unlisted method needs admin, so
/// that nobody else learns which names exist.
fn authorize<G>(cx: &Context<G>, access: Option<Access>) -> Result<()> {
    let (role, scopes) = (cx.caller.role, &cx.caller.scopes);
    let needed = match access {
        Some(access) if access.allows(role, scopes) => return Ok(()),
        Some(Access::Operator(scope)) => scope,
        Some(Access::Node | Access::Connected) => {
            return Err(Error::Invalid(format!("unauthorized role: {role}")));
        }
        None if role == Role::Operator && scopes.holds(Scope::Admin) => return Ok(()),
        None => Scope::Admin,
    };
    Err(Error::Invalid(match role {
        Role::Node => format!("unauthorized role: {role}"),
        Role::Operator => format!("missing scope: {}", needed.name()),
    }))
}

/// Parses parameters. The schema that documents the method is asked where the
/// type alone cannot tell, and for the words when they do not fit.
fn parse<R: Request>(rules: &OnceLock<Rules>, params: &str) -> Result<R> {
    let rules = rules.get_or_init(Rules::of::<R>);
    let invalid = |text: &str| Error::Invalid(format!("invalid {} params: {text}", R::METHOD));
    if rules.knows_more(params)
        && let Some(text) = rules.violations(params)
    {
        return Err(invalid(&text));
    }
    serde_json::from_str::<R>(params)
        .map_err(|error| invalid(&rules.violations(params).unwrap_or_else(|| error.to_string())))
}

fn describe<R: Request>(types: &mut SchemaGenerator) -> Value {
    let params = R::json_schema(types);
    json!({
        "description": params.get("description"),
        "access": access_name(R::ACCESS),
        "advertised": R::ADVERTISED,
        "params": params,
        "result": types.subschema_for::<R::Response>(),
    })
}

fn access_name(access: Access) -> &'static str {
    match access {
        Access::Connected => "anyone connected",
        Access::Node => "role node",
        Access::Operator(scope) => scope.name(),
    }
}

async fn push_final(outbox: Arc<Outbox>, id: String, last: Last) {
    let Some(Final { payload, error }) = last.await else { return };
    let frame = ResponseFrame { id: &id, ok: error.is_none(), payload, error: error.as_ref() };
    let text = serde_json::to_string(&frame).expect("wire types serialize");
    outbox.push(text.into(), Delivery::Answer);
}

fn respond<T: Serialize>(id: &str, result: Result<T>) -> Answer {
    let error = match &result {
        Ok(_) => None,
        Err(error) => {
            match error {
                Error::Internal(cause) => tracing::error!(%cause, "call failed"),
                error => tracing::debug!(%error, "call refused"),
            }
            Some(error.shape())
        }
    };
    let (ok, error) = (error.is_none(), error.as_ref());
    let text = match result {
        Err(Error::Failed { payload, .. }) => {
            serde_json::to_string(&ResponseFrame { id, ok, payload: Some(payload), error })
        }
        result => serde_json::to_string(&ResponseFrame { id, ok, payload: result.ok(), error }),
    };
    Answer { text: text.expect("wire types serialize").into(), ok, then: None }
}

fn panicked(id: &str, method: &str, panic: &(dyn Any + Send)) -> Answer {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown");
    tracing::error!(method, panic = text, "handler panicked");
    respond::<()>(id, Err(Error::Unavailable("internal error".into())))
}

fn ready(answer: Answer) -> Reply {
    Box::pin(std::future::ready(answer))
}

#[cfg(test)]
mod tests {
    use moltbot_protocol::{
        Scopes,
        handshake::ClientInfo,
        methods::health::{Health, HealthSummary, Status, StatusSummary},
    };

    use super::*;
    use crate::auth::Caller;

    fn context(role: Role, scopes: &[Scope]) -> Context<()> {
        let client: ClientInfo = serde_json::from_value(json!({
            "id": "test", "version": "1", "platform": "linux", "mode": "test",
        }))
        .unwrap();
        let caller = Caller {
            conn_id: "c".into(),
            role,
            scopes: Scopes::of(scopes),
            client,
            device_id: None,
            remote_ip: None,
            local: true,
            secret: None,
            capped: false,
        };
        Context {
            gateway: Arc::new(()),
            caller: Arc::new(caller),
            outbox: Arc::new(Outbox::new(1024)),
        }
    }

    async fn panics_late(_cx: Context<()>, _request: Health) -> Result<HealthSummary> {
        tokio::task::yield_now().await;
        panic!("on purpose, with /secret/path");
    }

    async fn refuses(_cx: Context<()>, _request: Status) -> Result<StatusSummary> {
        Err(Error::Internal("SELECT secret".into()))
    }

    async fn call(cx: Context<()>, method: &str) -> Value {
        let mut router = Router::default();
        router.on(panics_late).on(refuses);
        let text = format!(r#"{{"type":"req","id":"7","method":"{method}"}}"#);
        let frame: RequestFrame<'_> = serde_json::from_str(&text).unwrap();
        let answer = router.dispatch(cx, &frame).await;
        serde_json::from_str(&answer.text).unwrap()
    }

    #[tokio::test]
    async fn a_panicking_handler_is_answered_and_gives_nothing_away() {
        let answer = call(context(Role::Operator, &[Scope::Admin]), "health").await;
        assert_eq!(answer["id"], "7");
        assert_eq!(answer["error"]["code"], "UNAVAILABLE");
        assert!(!answer.to_string().contains("secret"), "{answer}");
    }

    #[tokio::test]
    async fn the_cause_of_trouble_stays_in_the_log() {
        let answer = call(context(Role::Operator, &[Scope::Read]), "status").await;
        assert_eq!(answer["error"]["message"], "temporarily unavailable");
    }

    #[tokio::test]
    async fn who_may_not_call_learns_no_names() {
        for method in ["no.such.method", "config.get"] {
            let answer = call(context(Role::Operator, &[Scope::Read]), method).await;
            assert_eq!(answer["error"]["message"], "missing scope: operator.admin");
        }
        let answer = call(context(Role::Node, &[]), "status").await;
        assert_eq!(answer["error"]["message"], "unauthorized role: node");
        let answer = call(context(Role::Operator, &[Scope::Admin]), "no.such.method").await;
        assert_eq!(answer["error"]["message"], "unknown method: no.such.method");
    }
}
