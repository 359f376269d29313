//! Every method, one file per family.

pub mod agent;
pub mod agents;
pub mod channels;
pub mod chat;
pub mod commands;
pub mod config;
pub mod device;
pub mod exec_approvals;
pub mod gateway;
pub mod health;
pub mod logs;
pub mod models;
pub mod node;
pub mod send;
pub mod sessions;
pub mod system;
pub mod talk;
pub mod voicewake;
