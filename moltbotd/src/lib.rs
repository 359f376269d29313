//! The Moltbot gateway.
//!
//! A message's way through the daemon, one module per step:
//!
//! [`net`] (socket, handshake, frames) → [`rpc`] (find, authorize, parse) →
//! [`methods`] (act) → [`store`] (remember) → [`bus`] (tell everyone).
//!
//! A channel's way: [`channels`] (poll, admit, commit to the inbox) →
//! [`agent`] (lane, model, [`tools`]) → [`store`] (transcript and outbox in one
//! transaction) → [`channels`] (send, confirm).
//!
//! A module may use what stands below it, never what stands above:
//!
//! ```text
//! main · boot · reload · rekey · cli · state
//! net                 methods
//!         gateway
//! discovery · restart · agent · sessions · channels · nodes · presence · health
//! providers · tools · rpc · upkeep
//! bus · store · config · auth · tailscale
//! logging · paths · lock · shutdown · inherited · supervisor · clock · asker · environment · private · listening · tls · metrics · watch
//! protocol (crate)
//! ```

pub mod agent;
pub mod asker;
pub mod auth;
pub mod boot;
pub mod bus;
pub mod channels;
pub mod cli;
pub mod clock;
pub mod config;
pub mod discovery;
pub mod environment;
pub mod gateway;
pub mod health;
pub mod inherited;
pub mod listening;
pub mod lock;
pub mod logging;
pub mod methods;
pub mod metrics;
pub mod net;
pub mod nodes;
pub mod paths;
pub mod presence;
pub mod private;
pub mod providers;
pub mod rekey;
pub mod reload;
pub mod restart;
pub mod rpc;
pub mod sessions;
pub mod shutdown;
pub mod state;
pub mod store;
pub mod supervisor;
pub mod tailscale;
pub mod tls;
pub mod tools;
pub mod upkeep;
pub mod watch;
