-- Queries of the pipeline: one batch, one transaction. "-- name:" begins a query.

-- name: add_project
INSERT OR IGNORE INTO projects (project, created_ns) VALUES (?, ?);

-- name: start_rollouts
-- A real rollout replaces an implicit one of the same id; anything else stays as it is.
INSERT INTO rollouts (rollout_id, project, status, mode, resources_id, parent_rollout_id, implicit, start_ns, config,
                      metadata, input, queue_place)
VALUES {rows}
ON CONFLICT (rollout_id) DO UPDATE SET
    project = excluded.project, mode = excluded.mode, resources_id = excluded.resources_id,
    parent_rollout_id = excluded.parent_rollout_id, implicit = 0, start_ns = excluded.start_ns,
    config = excluded.config, metadata = excluded.metadata, input = excluded.input
WHERE rollouts.implicit = 1 AND excluded.implicit = 0;

-- name: start_attempts
INSERT INTO attempts (attempt_id, rollout_id, number, status, start_ns, heartbeat_ns, metadata)
VALUES {rows}
ON CONFLICT DO NOTHING;

-- name: add_sources
INSERT OR IGNORE INTO sources (source_id, process, scope_name, scope_version, schema_url, resource) VALUES {rows};

-- name: reserve_sequences_of
-- For a batch of one rollout, the usual case: a table made of JSON takes a cold processor 0.1 ms longer.
UPDATE rollouts SET last_sequence = last_sequence + ?2 WHERE rollout_id = ?1;

-- name: last_sequence
SELECT rollout_id, last_sequence FROM rollouts WHERE rollout_id = ?1;

-- name: reserve_sequences
-- ?1 is a JSON object: rollout id -> how many spans.
UPDATE rollouts SET last_sequence = last_sequence + (SELECT value FROM json_each(?1) WHERE key = rollout_id)
WHERE rollout_id IN (SELECT key FROM json_each(?1));

-- name: last_sequences
SELECT rollout_id, last_sequence FROM rollouts WHERE rollout_id IN (SELECT key FROM json_each(?1));

-- name: beat_attempts
-- ?1 is a JSON array of attempt ids.
UPDATE attempts SET heartbeat_ns = max(coalesce(heartbeat_ns, 0), ?2)
WHERE attempt_id IN (SELECT value FROM json_each(?1));

-- name: add_ended_spans
-- Ended spans: absent -> insert; open -> replaced; ended -> never changed.
INSERT INTO spans (trace_id, span_id, parent_id, rollout_id, attempt_id, sequence_id, name, kind, start_ns, end_ns,
                   status_code, status_description, source_id, facts, trace_state, links, events, attributes, packed,
                   crc)
VALUES {rows}
ON CONFLICT (trace_id, span_id) DO UPDATE SET
    parent_id = excluded.parent_id, rollout_id = excluded.rollout_id, attempt_id = excluded.attempt_id,
    sequence_id = excluded.sequence_id, name = excluded.name, kind = excluded.kind, start_ns = excluded.start_ns,
    end_ns = excluded.end_ns, status_code = excluded.status_code, status_description = excluded.status_description,
    source_id = excluded.source_id, facts = excluded.facts, trace_state = excluded.trace_state,
    links = excluded.links, events = excluded.events, attributes = excluded.attributes, packed = excluded.packed,
    crc = excluded.crc
WHERE spans.end_ns IS NULL;

-- name: add_open_spans
-- Notes of spans that are still open never replace anything.
INSERT INTO spans (trace_id, span_id, parent_id, rollout_id, attempt_id, sequence_id, name, kind, start_ns, end_ns,
                   status_code, status_description, source_id, facts, trace_state, links, events, attributes, packed,
                   crc)
VALUES {rows}
ON CONFLICT (trace_id, span_id) DO NOTHING;
