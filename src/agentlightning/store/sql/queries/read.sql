-- Queries of readers. "-- name:" begins a query.

-- name: rollout
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts WHERE rollout_id = ?;

-- name: rollout_by_prefix
SELECT rollout_id FROM rollouts WHERE rollout_id >= ?1 AND rollout_id < ?2 ORDER BY rollout_id LIMIT 2;

-- name: newest_rollouts
-- ?2: 1 to list children of other rollouts too. One whose parent is in another store is shown at the top.
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts
WHERE project = ?1
  AND (?2 OR parent_rollout_id IS NULL
       OR NOT EXISTS (SELECT 1 FROM rollouts p WHERE p.rollout_id = rollouts.parent_rollout_id))
ORDER BY start_ns DESC, rollout_id DESC
LIMIT ?3 OFFSET ?4;

-- name: child_rollouts
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts WHERE parent_rollout_id = ?1 ORDER BY start_ns, rollout_id;

-- name: rollouts_where
-- ?2 ?3 ?4: statuses, ids and modes, JSON arrays. ?5 ?6: start from, before. ?7: JSON object that metadata contain.
-- ?8: text in input or metadata, lower case. ?9: 1 for newest first. ?10 ?11: how many (-1: all), how many to skip.
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts r
WHERE project = ?1
  AND (?2 IS NULL OR status IN (SELECT value FROM json_each(?2)))
  AND (?3 IS NULL OR rollout_id IN (SELECT value FROM json_each(?3)))
  AND (?4 IS NULL OR mode IN (SELECT value FROM json_each(?4)))
  AND (?5 IS NULL OR start_ns >= ?5) AND (?6 IS NULL OR start_ns < ?6)
  AND (?7 IS NULL OR NOT EXISTS (
        SELECT 1 FROM json_each(?7) w WHERE NOT EXISTS (
            SELECT 1 FROM json_each(r.metadata) m WHERE m.key = w.key AND m.type = w.type AND m.value IS w.value)))
  AND (?8 IS NULL OR instr(lower(input), ?8) OR instr(lower(metadata), ?8))
ORDER BY CASE WHEN ?9 THEN -start_ns ELSE start_ns END, CASE WHEN ?9 THEN NULL ELSE rollout_id END, rollout_id DESC
LIMIT ?10 OFFSET ?11;

-- name: statuses_of
SELECT rollout_id, status FROM rollouts WHERE rollout_id IN (SELECT value FROM json_each(?1));

-- name: attempts
SELECT attempt_id, rollout_id, number, status, start_ns, end_ns, heartbeat_ns, worker_id, metadata
FROM attempts WHERE rollout_id = ? ORDER BY number;

-- name: span_rows
-- ?3: 1 to include spans that are still open.
SELECT s.trace_id, s.span_id, s.parent_id, s.rollout_id, s.attempt_id, s.sequence_id, s.name, s.start_ns, s.end_ns,
       s.status_code, s.status_description, o.process, s.facts
FROM spans s JOIN sources o ON o.source_id = s.source_id
WHERE s.rollout_id = ?1 AND (?2 IS NULL OR s.attempt_id = ?2) AND (?3 OR s.sequence_id > 0)
ORDER BY s.sequence_id, s.start_ns;

-- name: span_records
SELECT s.trace_id, s.span_id, s.parent_id, s.rollout_id, s.attempt_id, s.sequence_id, s.name, s.kind, s.start_ns,
       s.end_ns, s.status_code, s.status_description, s.trace_state, s.links, s.events, s.attributes, s.packed,
       o.process, o.scope_name, o.scope_version, o.schema_url, o.resource
FROM spans s JOIN sources o ON o.source_id = s.source_id
WHERE s.rollout_id = ?1 AND (?2 IS NULL OR s.attempt_id = ?2) AND (?3 OR s.sequence_id > 0)
ORDER BY s.sequence_id, s.start_ns;

-- name: spans_by_key
-- ?1 is a JSON array of [trace id, span id].
SELECT s.trace_id, s.span_id, s.parent_id, s.rollout_id, s.attempt_id, s.sequence_id, s.name, s.kind, s.start_ns,
       s.end_ns, s.status_code, s.status_description, s.trace_state, s.links, s.events, s.attributes, s.packed,
       o.process, o.scope_name, o.scope_version, o.schema_url, o.resource
FROM json_each(?1) k
JOIN spans s ON s.trace_id = json_extract(k.value, '$[0]') AND s.span_id = json_extract(k.value, '$[1]')
JOIN sources o ON o.source_id = s.source_id
ORDER BY k.key;

-- name: attempt_of_trace
SELECT s.rollout_id, s.attempt_id FROM spans s JOIN attempts a ON a.attempt_id = s.attempt_id
WHERE s.trace_id = ?1 ORDER BY a.start_ns DESC LIMIT 1;

-- name: resources
SELECT resources_id, resources FROM resources WHERE resources_id = ?;

-- name: latest_resources
SELECT resources_id, resources FROM resources WHERE project = ? ORDER BY created_ns DESC, rowid DESC LIMIT 1;

-- name: latest_resources_with
SELECT resources_id, resources FROM resources
WHERE project = ?1 AND EXISTS (SELECT 1 FROM json_each(resources) WHERE key = ?2)
ORDER BY created_ns DESC, rowid DESC LIMIT 1;

-- name: counts
SELECT (SELECT count(*) FROM rollouts), (SELECT count(*) FROM attempts), (SELECT count(*) FROM spans),
       (SELECT count(*) FROM resources),
       (SELECT count(*) FROM rollouts WHERE project = ?1 AND queue_place IS NOT NULL);

-- name: statuses
SELECT status, count(*) FROM rollouts WHERE project = ? GROUP BY status;
