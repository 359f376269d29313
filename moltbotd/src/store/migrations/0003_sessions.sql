-- A conversation. `entry` is the JSON that clients know as SessionEntry,
-- fields of other versions included.
CREATE TABLE session (
    key           TEXT PRIMARY KEY,
    agent_id      TEXT NOT NULL,
    session_id    TEXT NOT NULL,
    updated_at_ms INTEGER,
    entry         TEXT NOT NULL
) STRICT;
CREATE INDEX session_by_id ON session (session_id);
CREATE INDEX session_by_update ON session (updated_at_ms DESC);
CREATE INDEX session_by_label ON session (json_extract(entry, '$.label'));

-- One message of a conversation; `message` is JSON as chat.history shows it.
CREATE TABLE transcript (
    session_id TEXT NOT NULL,
    seq        INTEGER NOT NULL,
    id         TEXT NOT NULL,
    run_id     TEXT,
    at_ms      INTEGER NOT NULL,
    message    TEXT NOT NULL,
    PRIMARY KEY (session_id, seq)
) STRICT, WITHOUT ROWID;

-- A turn of the agent, from its acceptance to its end.
CREATE TABLE run (
    id            TEXT PRIMARY KEY,
    session_key   TEXT NOT NULL,
    session_id    TEXT,              -- NULL while it waits for its turn
    inbox_id      INTEGER UNIQUE,    -- the channel message that caused it
    state         TEXT NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'aborted')),
    request       TEXT,              -- JSON: enough to take the run up again; NULL once it ended
    result        TEXT,              -- JSON
    error         TEXT,
    accepted_at_ms INTEGER NOT NULL,
    started_at_ms INTEGER,
    ended_at_ms   INTEGER
) STRICT;
CREATE INDEX run_open ON run (state) WHERE state IN ('queued', 'running');
CREATE INDEX run_ended ON run (ended_at_ms) WHERE ended_at_ms IS NOT NULL;

-- A tool call of a run. One that is 'started' when the daemon comes back is
-- reported to the model as interrupted and is never executed a second time.
CREATE TABLE tool_call (
    run_id  TEXT NOT NULL REFERENCES run (id) ON DELETE CASCADE,
    call_id TEXT NOT NULL,
    name    TEXT NOT NULL,
    args    TEXT NOT NULL,
    state   TEXT NOT NULL CHECK (state IN ('started', 'done')),
    result  TEXT,
    PRIMARY KEY (run_id, call_id)
) STRICT;
