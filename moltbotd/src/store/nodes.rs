//! Tables `node_request`, `node_pairing` and `node_name`, and the devices that
//! are nodes.

use std::collections::HashMap;

use moltbot_protocol::{
    limits,
    methods::node::{NodePaired, NodePending},
};
use rusqlite::{OptionalExtension as _, Row, params, types::Type};
use serde::de::DeserializeOwned;

use super::Db;

/// A paired device that may connect as a node.
#[derive(Clone, Debug)]
pub struct NodeDevice {
    /// Id of its key.
    pub id: String,
    /// Name for people.
    pub display_name: Option<String>,
    /// Its operating system.
    pub platform: Option<String>,
    /// Address it was paired from.
    pub remote_ip: Option<String>,
    /// Commands it was approved for, of those that need it.
    pub allow: Vec<String>,
}

impl Db<'_> {
    /// Returns the devices that are paired for the role `node`.
    pub fn node_devices(&self) -> rusqlite::Result<Vec<NodeDevice>> {
        self.0
            .prepare_cached(
                "SELECT id, display_name, platform, remote_ip, allow FROM device
                 WHERE EXISTS (SELECT 1 FROM json_each(device.roles) WHERE value = 'node')",
            )?
            .query_map([], |row| {
                let allow: String = row.get(4)?;
                Ok(NodeDevice {
                    id: row.get(0)?,
                    display_name: row.get(1)?,
                    platform: row.get(2)?,
                    remote_ip: row.get(3)?,
                    allow: serde_json::from_str(&allow).unwrap_or_default(),
                })
            })?
            .collect()
    }

    /// Returns whether a device is paired for the role `node`.
    pub fn is_node_device(&self, id: &str) -> rusqlite::Result<bool> {
        self.0
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM device, json_each(device.roles)
                                WHERE device.id = ?1 AND value = 'node')",
            )?
            .query_row([id], |row| row.get(0))
    }

    /// Returns the names operators gave to nodes.
    pub fn node_names(&self) -> rusqlite::Result<HashMap<String, String>> {
        self.0
            .prepare_cached("SELECT node_id, display_name FROM node_name")?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    /// Names a node.
    pub fn put_node_name(&self, node_id: &str, display_name: &str) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO node_name (node_id, display_name) VALUES (?1, ?2)
                 ON CONFLICT (node_id) DO UPDATE SET display_name = ?2",
            )?
            .execute(params![node_id, display_name])?;
        Ok(())
    }

    /// Forgets requests made before a moment.
    pub fn drop_node_requests_before(&self, at_ms: i64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached("DELETE FROM node_request WHERE requested_at_ms < ?1")?
            .execute([at_ms])?;
        Ok(())
    }

    /// Returns the requests made since a moment, newest first.
    pub fn node_requests_since(&self, at_ms: i64) -> rusqlite::Result<Vec<NodePending>> {
        self.0
            .prepare_cached(
                "SELECT body FROM node_request WHERE requested_at_ms >= ?1
                 ORDER BY requested_at_ms DESC, request_id",
            )?
            .query_map([at_ms], body)?
            .collect()
    }

    /// Returns the request of a node.
    pub fn node_request_of(&self, node_id: &str) -> rusqlite::Result<Option<NodePending>> {
        self.0
            .prepare_cached("SELECT body FROM node_request WHERE node_id = ?1")?
            .query_row([node_id], body)
            .optional()
    }

    /// Stores a request, and drops the oldest of those that are too many.
    pub fn put_node_request(&self, request: &NodePending) -> rusqlite::Result<()> {
        let text = serde_json::to_string(request).expect("wire types serialize");
        let at_ms = i64::try_from(request.ts).unwrap_or(i64::MAX);
        self.0
            .prepare_cached(
                "INSERT INTO node_request (request_id, node_id, body, requested_at_ms)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![request.request_id, request.node_id, text, at_ms])?;
        self.0
            .prepare_cached(
                "DELETE FROM node_request WHERE rowid IN
                     (SELECT rowid FROM node_request
                      ORDER BY requested_at_ms DESC, rowid DESC LIMIT -1 OFFSET ?1)",
            )?
            .execute([limits::PENDING])?;
        Ok(())
    }

    /// Removes a request and returns it.
    pub fn take_node_request(&self, request_id: &str) -> rusqlite::Result<Option<NodePending>> {
        self.0
            .prepare_cached("DELETE FROM node_request WHERE request_id = ?1 RETURNING body")?
            .query_row([request_id], body)
            .optional()
    }

    /// Returns the pairing of a node.
    pub fn node_pairing(&self, node_id: &str) -> rusqlite::Result<Option<NodePaired>> {
        self.0
            .prepare_cached("SELECT body FROM node_pairing WHERE node_id = ?1")?
            .query_row([node_id], body)
            .optional()
    }

    /// Returns every pairing.
    pub fn node_pairings(&self) -> rusqlite::Result<Vec<NodePaired>> {
        self.0
            .prepare_cached("SELECT body FROM node_pairing ORDER BY node_id")?
            .query_map([], body)?
            .collect()
    }

    /// Stores the pairing of a node.
    pub fn put_node_pairing(&self, node: &NodePaired) -> rusqlite::Result<()> {
        let text = serde_json::to_string(node).expect("wire types serialize");
        self.0
            .prepare_cached(
                "INSERT INTO node_pairing (node_id, body) VALUES (?1, ?2)
                 ON CONFLICT (node_id) DO UPDATE SET body = ?2",
            )?
            .execute(params![node.node_id, text])?;
        Ok(())
    }
}

fn body<T: DeserializeOwned>(row: &Row<'_>) -> rusqlite::Result<T> {
    let text: String = row.get(0)?;
    serde_json::from_str(&text)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into()))
}
