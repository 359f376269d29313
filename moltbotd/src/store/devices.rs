//! Tables `device`, `device_token` and `device_request`.

use moltbot_protocol::{
    Scopes, limits,
    methods::device::{PairedDevice, PendingDevice, TokenSummary},
};
use rusqlite::{OptionalExtension as _, Row, params};

use super::Db;

/// A device that was let in, with its tokens.
#[derive(Clone, Debug)]
pub struct Device {
    /// What may be shown of it; without tokens.
    pub info: PairedDevice,
    /// One token for each role.
    pub tokens: Vec<DeviceToken>,
}

/// A token of a device.
#[derive(Clone)]
pub struct DeviceToken {
    /// What may be shown of it.
    pub summary: TokenSummary,
    /// The token, 32 hex digits.
    pub token: String,
}

impl std::fmt::Debug for DeviceToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.summary.fmt(f)
    }
}

impl Device {
    /// Returns the token of a role.
    #[must_use]
    pub fn token(&self, role: &str) -> Option<&DeviceToken> {
        self.tokens.iter().find(|token| token.summary.role == role)
    }

    /// Returns what may be shown: the device with its tokens described.
    #[must_use]
    pub fn shown(&self) -> PairedDevice {
        let tokens: Vec<_> = self.tokens.iter().map(|token| token.summary.clone()).collect();
        PairedDevice { tokens: (!tokens.is_empty()).then_some(tokens), ..self.info.clone() }
    }
}

impl Db<'_> {
    /// Returns a paired device.
    pub fn device(&self, id: &str) -> rusqlite::Result<Option<Device>> {
        let info = self
            .0
            .prepare_cached(&format!("{SELECT_DEVICE} WHERE id = ?1"))?
            .query_row([id], device_info)
            .optional()?;
        info.map(|info| self.with_tokens(info)).transpose()
    }

    /// Returns every paired device, newest approval first.
    pub fn devices(&self) -> rusqlite::Result<Vec<Device>> {
        let infos: Vec<PairedDevice> = self
            .0
            .prepare_cached(&format!("{SELECT_DEVICE} ORDER BY approved_at_ms DESC, id"))?
            .query_map([], device_info)?
            .collect::<Result<_, _>>()?;
        infos.into_iter().map(|info| self.with_tokens(info)).collect()
    }

    /// Stores a device, without its tokens.
    pub fn put_device(&self, info: &PairedDevice) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "INSERT INTO device (id, public_key, display_name, platform, client_id,
                                     client_mode, role, roles, scopes, remote_ip,
                                     created_at_ms, approved_at_ms, allow, approved_via)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)
                 ON CONFLICT (id) DO UPDATE SET
                     public_key = ?2, display_name = ?3, platform = ?4, client_id = ?5,
                     client_mode = ?6, role = ?7, roles = ?8, scopes = ?9, remote_ip = ?10,
                     created_at_ms = ?11, approved_at_ms = ?12, allow = ?13,
                     approved_via = ?14",
            )?
            .execute(params![
                info.device_id,
                info.public_key,
                info.display_name,
                info.platform,
                info.client_id,
                info.client_mode,
                info.role,
                json(&info.roles.clone().unwrap_or_default()),
                json(&info.scopes.clone().unwrap_or_default()),
                info.remote_ip,
                info.created_at_ms.cast_signed(),
                info.approved_at_ms.cast_signed(),
                json(&info.allow.clone().unwrap_or_default()),
                info.approved_via,
            ])?;
        Ok(())
    }

    /// Forgets a device and its tokens; returns whether it was known.
    pub fn remove_device(&self, id: &str) -> rusqlite::Result<bool> {
        let removed = self.0.prepare_cached("DELETE FROM device WHERE id = ?1")?.execute([id])?;
        Ok(removed > 0)
    }

    /// Stores a token, replacing the one of the same role.
    pub fn put_token(&self, device_id: &str, token: &DeviceToken) -> rusqlite::Result<()> {
        let DeviceToken { summary, token } = token;
        self.0
            .prepare_cached(
                "INSERT INTO device_token (device_id, role, token, scopes, created_at_ms,
                                           rotated_at_ms, revoked_at_ms, last_used_at_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (device_id, role) DO UPDATE SET
                     token = ?3, scopes = ?4, created_at_ms = ?5, rotated_at_ms = ?6,
                     revoked_at_ms = ?7, last_used_at_ms = ?8",
            )?
            .execute(params![
                device_id,
                summary.role,
                token,
                json(&summary.scopes),
                summary.created_at_ms.cast_signed(),
                summary.rotated_at_ms.map(u64::cast_signed),
                summary.revoked_at_ms.map(u64::cast_signed),
                summary.last_used_at_ms.map(u64::cast_signed),
            ])?;
        Ok(())
    }

    /// Notes that a token was used.
    pub fn touch_token(&self, device_id: &str, role: &str, now_ms: u64) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "UPDATE device_token SET last_used_at_ms = ?3 WHERE device_id = ?1 AND role = ?2",
            )?
            .execute(params![device_id, role, now_ms.cast_signed()])?;
        Ok(())
    }

    /// Returns the open request of a device that is not older than `since_ms`.
    pub fn device_request_of(
        &self,
        device_id: &str,
        since_ms: u64,
    ) -> rusqlite::Result<Option<PendingDevice>> {
        let body: Option<String> = self
            .0
            .prepare_cached(
                "SELECT body FROM device_request WHERE device_id = ?1 AND requested_at_ms >= ?2",
            )?
            .query_row(params![device_id, since_ms.cast_signed()], |row| row.get(0))
            .optional()?;
        Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
    }

    /// Returns the open requests that are not older than `since_ms`, newest
    /// first.
    pub fn device_requests(&self, since_ms: u64) -> rusqlite::Result<Vec<PendingDevice>> {
        let bodies: Vec<String> = self
            .0
            .prepare_cached(
                "SELECT body FROM device_request WHERE requested_at_ms >= ?1
                 ORDER BY requested_at_ms DESC, request_id",
            )?
            .query_map([since_ms.cast_signed()], |row| row.get(0))?
            .collect::<Result<_, _>>()?;
        Ok(bodies.iter().filter_map(|body| serde_json::from_str(body).ok()).collect())
    }

    /// Stores a request, replacing an older one of the same device. Drops
    /// requests older than `since_ms`, and the oldest of those that are too
    /// many, from one address or in all.
    pub fn put_device_request(
        &self,
        request: &PendingDevice,
        since_ms: u64,
    ) -> rusqlite::Result<()> {
        self.0
            .prepare_cached(
                "DELETE FROM device_request WHERE requested_at_ms < ?1 OR device_id = ?2",
            )?
            .execute(params![since_ms.cast_signed(), request.device_id])?;
        self.0
            .prepare_cached(
                "INSERT INTO device_request (request_id, device_id, body, requested_at_ms)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                request.request_id,
                request.device_id,
                json(request),
                request.ts.cast_signed()
            ])?;
        // One after the other: who is one too many of an address pushes out
        // nobody else.
        self.0
            .prepare_cached(
                "DELETE FROM device_request WHERE rowid IN
                     (SELECT rowid FROM device_request
                      WHERE json_extract(body, '$.remoteIp') IS ?1
                      ORDER BY requested_at_ms DESC, rowid DESC LIMIT -1 OFFSET ?2)",
            )?
            .execute(params![request.remote_ip, limits::PENDING_PER_ADDRESS])?;
        self.0
            .prepare_cached(
                "DELETE FROM device_request WHERE rowid IN
                     (SELECT rowid FROM device_request
                      ORDER BY requested_at_ms DESC, rowid DESC LIMIT -1 OFFSET ?1)",
            )?
            .execute([limits::PENDING])?;
        Ok(())
    }

    /// Removes and returns a request that is not older than `since_ms`.
    pub fn take_device_request(
        &self,
        request_id: &str,
        since_ms: u64,
    ) -> rusqlite::Result<Option<PendingDevice>> {
        let body: Option<String> = self
            .0
            .prepare_cached(
                "DELETE FROM device_request WHERE request_id = ?1 AND requested_at_ms >= ?2
                 RETURNING body",
            )?
            .query_row(params![request_id, since_ms.cast_signed()], |row| row.get(0))
            .optional()?;
        Ok(body.and_then(|body| serde_json::from_str(&body).ok()))
    }

    fn with_tokens(&self, info: PairedDevice) -> rusqlite::Result<Device> {
        let tokens = self
            .0
            .prepare_cached(
                "SELECT role, scopes, created_at_ms, rotated_at_ms, revoked_at_ms,
                        last_used_at_ms, token
                 FROM device_token WHERE device_id = ?1 ORDER BY role",
            )?
            .query_map([&info.device_id], token)?
            .collect::<Result<_, _>>()?;
        Ok(Device { info, tokens })
    }
}

const SELECT_DEVICE: &str = "SELECT id, public_key, display_name, platform, client_id, client_mode,
        role, roles, scopes, remote_ip, created_at_ms, approved_at_ms, allow, approved_via
        FROM device";

fn device_info(row: &Row<'_>) -> rusqlite::Result<PairedDevice> {
    let roles: String = row.get(7)?;
    let scopes: String = row.get(8)?;
    let scopes: Scopes = serde_json::from_str(&scopes).unwrap_or_default();
    let allow: String = row.get(12)?;
    let allow: Vec<String> = serde_json::from_str(&allow).unwrap_or_default();
    Ok(PairedDevice {
        device_id: row.get(0)?,
        public_key: row.get(1)?,
        display_name: row.get(2)?,
        platform: row.get(3)?,
        client_id: row.get(4)?,
        client_mode: row.get(5)?,
        role: row.get(6)?,
        roles: Some(serde_json::from_str(&roles).unwrap_or_default()),
        scopes: (!scopes.0.is_empty()).then_some(scopes),
        remote_ip: row.get(9)?,
        created_at_ms: row.get::<_, i64>(10)?.cast_unsigned(),
        approved_at_ms: row.get::<_, i64>(11)?.cast_unsigned(),
        tokens: None,
        allow: (!allow.is_empty()).then_some(allow),
        approved_via: row.get(13)?,
    })
}

fn token(row: &Row<'_>) -> rusqlite::Result<DeviceToken> {
    let scopes: String = row.get(1)?;
    Ok(DeviceToken {
        summary: TokenSummary {
            role: row.get(0)?,
            scopes: serde_json::from_str(&scopes).unwrap_or_default(),
            created_at_ms: row.get::<_, i64>(2)?.cast_unsigned(),
            rotated_at_ms: row.get::<_, Option<i64>>(3)?.map(i64::cast_unsigned),
            revoked_at_ms: row.get::<_, Option<i64>>(4)?.map(i64::cast_unsigned),
            last_used_at_ms: row.get::<_, Option<i64>>(5)?.map(i64::cast_unsigned),
        },
        token: row.get(6)?,
    })
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("wire types serialize")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn request(device: usize, remote_ip: Option<&str>) -> PendingDevice {
        let request = serde_json::json!({
            "requestId": format!("r{device}"), "deviceId": format!("d{device}"), "publicKey": "k",
            "remoteIp": remote_ip, "ts": 1_000 + device,
        });
        serde_json::from_value(request).unwrap()
    }

    #[tokio::test]
    async fn open_requests_are_few_of_one_address_and_in_all_and_the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("moltbot.db")).unwrap();
        let (after_crowd, after_flood) = store
            .write(|db| {
                for device in 0..100 {
                    let ip = format!("192.0.2.{device}");
                    db.put_device_request(&request(device, Some(&ip)), 0)?;
                }
                let after_crowd = db.device_requests(0)?;
                for device in 100..200 {
                    db.put_device_request(&request(device, Some("198.51.100.1")), 0)?;
                }
                for device in 200..300 {
                    db.put_device_request(&request(device, None), 0)?;
                }
                Ok((after_crowd, db.device_requests(0)?))
            })
            .await
            .unwrap();
        assert_eq!(after_crowd.len(), limits::PENDING as usize);
        assert_eq!(after_crowd[0].device_id, "d99");
        assert_eq!(after_flood.len(), limits::PENDING as usize);
        let of = |ip: Option<&str>| {
            after_flood.iter().filter(|it| it.remote_ip.as_deref() == ip).count()
        };
        assert_eq!(of(Some("198.51.100.1")), limits::PENDING_PER_ADDRESS as usize);
        assert_eq!(of(None), limits::PENDING_PER_ADDRESS as usize);
        assert_eq!(after_flood[0].device_id, "d299");
    }
}
