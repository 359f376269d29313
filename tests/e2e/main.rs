//! End-to-end tests that need nothing beside the workspace: one program, one link step.

// In a test an unwrap that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod admission;
mod advisories;
mod backup;
mod binding;
mod broken_config;
mod channels;
mod commands;
mod config;
mod contract;
mod conversations;
mod costs;
mod doctor;
mod events;
mod faults;
mod grants;
mod handshake;
mod harness;
mod health;
mod hostile;
mod identity;
mod import;
mod ingress;
mod layers;
mod limits;
mod locks;
mod logs;
mod memory;
mod metrics;
mod models;
mod moltbotctl;
mod mutations;
mod node_host;
mod nodes;
mod pairing;
mod paths;
mod profiles;
mod reauth;
mod replay;
mod restart;
mod secrets;
mod security_record;
mod service;
mod service_files;
mod settings;
mod state;
mod tailscale;
#[cfg(target_os = "linux")]
mod terminal;
mod tls;
mod websocket_manners;
