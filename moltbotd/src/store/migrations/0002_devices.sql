CREATE TABLE device (
    id             TEXT PRIMARY KEY, -- hex SHA-256 of the raw public key
    public_key     TEXT NOT NULL,    -- base64url, 32 bytes
    display_name   TEXT,
    platform       TEXT,
    client_id      TEXT,
    client_mode    TEXT,
    role           TEXT,             -- the last one
    roles          TEXT NOT NULL,    -- JSON array
    scopes         TEXT NOT NULL,    -- JSON array
    remote_ip      TEXT,
    created_at_ms  INTEGER NOT NULL,
    approved_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE device_token (
    device_id       TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    role            TEXT NOT NULL,
    token           TEXT NOT NULL,
    scopes          TEXT NOT NULL,   -- JSON array, sorted
    created_at_ms   INTEGER NOT NULL,
    rotated_at_ms   INTEGER,
    revoked_at_ms   INTEGER,
    last_used_at_ms INTEGER,
    PRIMARY KEY (device_id, role)
) STRICT;

CREATE TABLE device_request (
    request_id   TEXT PRIMARY KEY,
    device_id    TEXT NOT NULL UNIQUE,
    body         TEXT NOT NULL,      -- JSON, as device.pair.list shows it
    requested_at_ms INTEGER NOT NULL
) STRICT;
