//! The wire contract between `moltbotd` and its clients.
//!
//! Plain data only: no sockets, no clock, no runtime, no files. A method, an
//! event and a frame are each declared once here; the daemon, the client and
//! the tests read the same declaration.

pub mod access;
pub mod error;
pub mod events;
pub mod frame;
pub mod handshake;
pub mod limits;
pub mod methods;
pub mod signature;
pub mod text;

use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

pub use access::{Access, Role, Scope, Scopes};
pub use error::{ErrorCode, ErrorShape};
pub use text::Text;

/// The protocol version this crate speaks.
pub const PROTOCOL_VERSION: u32 = 3;

/// A call a client may make. The value *is* the parameters.
///
/// Everything the daemon knows about a method is derived from this one
/// declaration: the route, the permission check, the `features.methods` list
/// and the JSON Schema. The doc comment on the implementing struct becomes the
/// method's description.
pub trait Request: Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// Name on the wire, for example `sessions.list`.
    const METHOD: &'static str;
    /// Who may call it.
    const ACCESS: Access;
    /// Whether `features.methods` of the handshake names it. The reference
    /// leaves a few callable methods out.
    const ADVERTISED: bool = true;
    /// What its answer depends on.
    const WAITS: Waits = Waits::ForDaemon;
    /// What a successful call answers with.
    type Response: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
}

/// A message the daemon may push to clients.
pub trait Event: Serialize + JsonSchema {
    /// Name on the wire, for example `presence`.
    const EVENT: &'static str;
    /// Who may see it.
    const ACCESS: Access;
    /// What happens when a client reads too slowly.
    const DELIVERY: Delivery;
}

/// What the answer to a call depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// On the daemon alone: it comes as soon as the daemon gets to it.
    ForDaemon,
    /// On a party outside, such as a channel or a node, that may take its time.
    /// The call goes on when its caller leaves.
    ForOthers,
    /// On something the call only looks at. It ends when its caller leaves.
    AsOnlooker,
}

/// What to do with a frame when a client's queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It replaces itself soon: skip it for this client.
    Skippable,
    /// The client would miss state: disconnect it, so that it resynchronises.
    Required,
    /// It was asked for: queue it whatever the queue holds. The reader stops
    /// taking requests from a client that does not read its answers.
    Answer,
}
