-- The older pairing of nodes by request, which clients still list and rename.
CREATE TABLE node_request (
    request_id TEXT PRIMARY KEY,
    node_id    TEXT NOT NULL UNIQUE,
    body       TEXT NOT NULL,             -- JSON
    requested_at_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE node_pairing (
    node_id TEXT PRIMARY KEY,
    body    TEXT NOT NULL                 -- JSON
) STRICT;

-- The name an operator gave a node.
CREATE TABLE node_name (
    node_id      TEXT PRIMARY KEY,
    display_name TEXT NOT NULL
) STRICT;
