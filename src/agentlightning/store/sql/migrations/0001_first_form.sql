-- The first form: projects, rollouts with their attempts, spans, resources.
-- Times are nanoseconds since the epoch. Columns that hold JSON are TEXT.

CREATE TABLE projects (
    project     TEXT PRIMARY KEY,
    created_ns  INTEGER NOT NULL
);

CREATE TABLE rollouts (
    rollout_id         TEXT PRIMARY KEY,
    project            TEXT NOT NULL,
    status             TEXT NOT NULL,
    mode               TEXT,
    resources_id       TEXT,
    parent_rollout_id  TEXT,
    implicit           INTEGER NOT NULL DEFAULT 0,
    start_ns           INTEGER NOT NULL,
    end_ns             INTEGER,
    -- Highest sequence number that was given to a span of this rollout; numbers are never given twice.
    last_sequence      INTEGER NOT NULL DEFAULT 0,
    config             TEXT NOT NULL DEFAULT '{}',
    metadata           TEXT NOT NULL DEFAULT 'null',
    input              TEXT NOT NULL DEFAULT 'null'
);
CREATE INDEX rollouts_newest ON rollouts (project, start_ns);

CREATE TABLE attempts (
    attempt_id    TEXT PRIMARY KEY,
    rollout_id    TEXT NOT NULL,
    -- 1 for the first attempt of a rollout.
    number        INTEGER NOT NULL,
    status        TEXT NOT NULL,
    start_ns      INTEGER NOT NULL,
    end_ns        INTEGER,
    heartbeat_ns  INTEGER,
    worker_id     TEXT,
    metadata      TEXT NOT NULL DEFAULT 'null',
    UNIQUE (rollout_id, number)
);

-- Who made a span: process, OpenTelemetry resource and instrumentation scope, shared by many spans.
CREATE TABLE sources (
    source_id      INTEGER PRIMARY KEY,
    process        TEXT NOT NULL,
    scope_name     TEXT NOT NULL,
    scope_version  TEXT NOT NULL,
    schema_url     TEXT NOT NULL,
    resource       TEXT NOT NULL
);

-- Small columns first: SQLite reads a row from its front, and the last ones may be megabytes long.
CREATE TABLE spans (
    trace_id            TEXT NOT NULL,
    span_id             TEXT NOT NULL,
    parent_id           TEXT,
    rollout_id          TEXT NOT NULL,
    attempt_id          TEXT NOT NULL,
    -- Place in the rollout from 1; 0 while the span is open.
    sequence_id         INTEGER NOT NULL,
    name                TEXT NOT NULL,
    kind                TEXT NOT NULL,
    start_ns            INTEGER NOT NULL,
    -- NULL while the span is open.
    end_ns              INTEGER,
    status_code         TEXT NOT NULL,
    status_description  TEXT,
    source_id           INTEGER NOT NULL,
    -- What the view found in the attributes (types.query.SpanFacts), JSON.
    facts               TEXT NOT NULL,
    trace_state         TEXT NOT NULL,
    links               TEXT NOT NULL,
    events              TEXT NOT NULL,
    attributes          TEXT NOT NULL,
    -- Attributes that JSON cannot hold or that are long arrays of numbers, packed (store/pack.py).
    packed              BLOB,
    PRIMARY KEY (trace_id, span_id)
);
CREATE INDEX spans_of_rollout ON spans (rollout_id, sequence_id);

CREATE TABLE resources (
    resources_id  TEXT PRIMARY KEY,
    project       TEXT NOT NULL,
    created_ns    INTEGER NOT NULL,
    resources     TEXT NOT NULL
);
CREATE INDEX resources_newest ON resources (project, created_ns);
