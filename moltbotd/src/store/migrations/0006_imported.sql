-- What an import from another gateway found and no part of this version runs
-- yet, as it was there; the version that runs it takes it from here.
CREATE TABLE imported (
    kind   TEXT NOT NULL,                 -- cron-job, exec-approvals, auth-profiles, tts
    id     TEXT NOT NULL,
    body   TEXT NOT NULL,                 -- JSON
    origin TEXT NOT NULL,                 -- the file it was in
    imported_at_ms INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT;
