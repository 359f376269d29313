-- What came in from a channel; committed before the channel's offset moves.
CREATE TABLE inbox (
    id             INTEGER PRIMARY KEY,
    channel        TEXT NOT NULL,
    account        TEXT NOT NULL,
    update_id      INTEGER NOT NULL,
    body           TEXT,             -- JSON InboundMessage; NULL when nothing is to be done
    state          TEXT NOT NULL CHECK (state IN ('received', 'done', 'ignored')),
    received_at_ms INTEGER NOT NULL,
    UNIQUE (channel, account, update_id)
) STRICT;
CREATE INDEX inbox_open ON inbox (id) WHERE state = 'received';

-- What goes out to a channel. `sending` is committed before the network is
-- asked; a row found in it after a crash becomes `unknown` and is sent again
-- with a mark.
CREATE TABLE outbox (
    id              INTEGER PRIMARY KEY,
    key             TEXT NOT NULL UNIQUE, -- idempotency key
    channel         TEXT NOT NULL,
    account         TEXT NOT NULL,
    chat            TEXT NOT NULL,        -- messages of one chat keep their order
    body            TEXT NOT NULL,        -- JSON: route, text, media
    state           TEXT NOT NULL CHECK (state IN ('queued', 'sending', 'sent', 'unknown', 'failed')),
    parts_sent      INTEGER NOT NULL DEFAULT 0,
    attempts        INTEGER NOT NULL DEFAULT 0,
    next_attempt_ms INTEGER NOT NULL,
    message_id      TEXT,
    chat_id         TEXT,
    error           TEXT,
    created_at_ms   INTEGER NOT NULL,
    updated_at_ms   INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_open ON outbox (channel, account, chat, id)
    WHERE state IN ('queued', 'sending', 'unknown');

-- A message that shows a reply while it is written, by the key of the reply.
CREATE TABLE draft (
    key        TEXT PRIMARY KEY,
    channel    TEXT NOT NULL,
    account    TEXT NOT NULL,
    chat_id    TEXT NOT NULL,
    message_id TEXT,                      -- NULL while its sending is not confirmed
    created_at_ms INTEGER NOT NULL
) STRICT;

-- A stranger's request to be let in.
CREATE TABLE channel_pairing (
    channel      TEXT NOT NULL,
    account      TEXT NOT NULL,
    sender_id    TEXT NOT NULL,
    code         TEXT NOT NULL,
    meta         TEXT NOT NULL,           -- JSON: name, username
    created_at_ms   INTEGER NOT NULL,
    last_seen_at_ms INTEGER NOT NULL,
    PRIMARY KEY (channel, account, sender_id)
) STRICT;

-- Senders who were let in.
CREATE TABLE channel_allow (
    channel      TEXT NOT NULL,
    account      TEXT NOT NULL,
    sender_id    TEXT NOT NULL,
    added_at_ms  INTEGER NOT NULL,
    PRIMARY KEY (channel, account, sender_id)
) STRICT;
