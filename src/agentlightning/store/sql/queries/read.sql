-- Queries of readers. "-- name:" begins a query.

-- name: rollout
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts WHERE rollout_id = ?;

-- name: rollout_by_prefix
SELECT rollout_id FROM rollouts WHERE rollout_id >= ?1 AND rollout_id < ?2 ORDER BY rollout_id LIMIT 2;

-- name: newest_rollouts
-- ?2: 1 to list children of other rollouts too.
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts
WHERE project = ?1 AND (?2 OR parent_rollout_id IS NULL)
ORDER BY start_ns DESC, rollout_id DESC
LIMIT ?3 OFFSET ?4;

-- name: child_rollouts
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts WHERE parent_rollout_id = ?1 ORDER BY start_ns, rollout_id;

-- name: rollouts_by_status
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts
WHERE project = ?1
  AND (?2 IS NULL OR status IN (SELECT value FROM json_each(?2)))
  AND (?3 IS NULL OR rollout_id IN (SELECT value FROM json_each(?3)))
ORDER BY start_ns, rollout_id;

-- name: attempts
SELECT attempt_id, rollout_id, number, status, start_ns, end_ns, heartbeat_ns, worker_id, metadata
FROM attempts WHERE rollout_id = ? ORDER BY number;

-- name: span_rows
-- ?3: 1 to include spans that are still open.
SELECT s.trace_id, s.span_id, s.parent_id, s.rollout_id, s.attempt_id, s.sequence_id, s.name, s.start_ns, s.end_ns,
       s.status_code, s.status_description, o.process, s.facts
FROM spans s JOIN sources o ON o.source_id = s.source_id
WHERE s.rollout_id = ?1 AND (?2 IS NULL OR s.attempt_id = ?2) AND (?3 OR s.end_ns IS NOT NULL)
ORDER BY s.sequence_id, s.start_ns;

-- name: span_records
SELECT s.trace_id, s.span_id, s.parent_id, s.rollout_id, s.attempt_id, s.sequence_id, s.name, s.kind, s.start_ns,
       s.end_ns, s.status_code, s.status_description, s.trace_state, s.links, s.events, s.attributes, s.packed,
       o.process, o.scope_name, o.scope_version, o.schema_url, o.resource
FROM spans s JOIN sources o ON o.source_id = s.source_id
WHERE s.rollout_id = ?1 AND (?2 IS NULL OR s.attempt_id = ?2) AND (?3 OR s.end_ns IS NOT NULL)
ORDER BY s.sequence_id, s.start_ns;

-- name: resources
SELECT resources_id, resources FROM resources WHERE resources_id = ?;

-- name: latest_resources
SELECT resources_id, resources FROM resources WHERE project = ? ORDER BY created_ns DESC, rowid DESC LIMIT 1;

-- name: counts
SELECT (SELECT count(*) FROM rollouts) AS rollouts, (SELECT count(*) FROM spans) AS spans;
