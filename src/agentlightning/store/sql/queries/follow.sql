-- Queries of readers that follow the store. "-- name:" begins a query.

-- name: data_version
-- Changes when another connection commits, and when this one writes.
SELECT data_version, total_changes() FROM pragma_data_version;

-- name: newest_places
SELECT coalesce((SELECT max(rowid) FROM spans), 0), coalesce((SELECT max(rowid) FROM rollouts), 0);

-- name: rewound
-- Lowest places from which on new rows may lie since rewind ?1, and the newest rewind; NULL without any.
SELECT min(span_place), min(rollout_place), max(rewind) FROM rewinds WHERE rewind > ?1;

-- name: add_rewind
INSERT INTO rewinds (span_place, rollout_place) VALUES (?, ?);

-- name: drop_rewinds
-- Those that say no more than a newer one.
DELETE FROM rewinds WHERE span_place >= ?1 AND rollout_place >= ?2;

-- name: new_spans
SELECT s.rowid, s.trace_id, s.span_id, s.parent_id, s.rollout_id, s.attempt_id, s.sequence_id, s.name, s.start_ns,
       s.end_ns, s.status_code, s.status_description, o.process, s.facts
FROM spans s JOIN sources o ON o.source_id = s.source_id
WHERE s.rowid > ?2 AND (SELECT r.project FROM rollouts r WHERE r.rollout_id = s.rollout_id) = ?1
ORDER BY s.rowid LIMIT ?3;

-- name: ended_spans
-- ?1 is a JSON array of [trace id, span id].
SELECT s.rowid, s.trace_id, s.span_id, s.parent_id, s.rollout_id, s.attempt_id, s.sequence_id, s.name, s.start_ns,
       s.end_ns, s.status_code, s.status_description, o.process, s.facts
FROM json_each(?1) k
CROSS JOIN spans s ON s.trace_id = json_extract(k.value, '$[0]') AND s.span_id = json_extract(k.value, '$[1]')
JOIN sources o ON o.source_id = s.source_id
WHERE s.end_ns IS NOT NULL AND s.rowid <= ?2;

-- name: changed_rollouts
-- ?3 is a JSON array of the ids of rollouts that were not finished.
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts WHERE rowid > ?2 AND project = ?1
UNION
SELECT r.rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM json_each(?3) k CROSS JOIN rollouts r ON r.rollout_id = k.value
WHERE r.status IN ('succeeded', 'failed', 'cancelled')
ORDER BY start_ns;

-- name: unfinished_rollouts
SELECT rollout_id, project, status, mode, resources_id, start_ns, end_ns, config, metadata, input
FROM rollouts
WHERE project = ?1 AND start_ns >= ?2 AND status NOT IN ('succeeded', 'failed', 'cancelled')
ORDER BY start_ns;

-- name: open_spans_of
-- ?1 is a JSON array of rollout ids.
SELECT s.trace_id, s.span_id, s.parent_id, s.rollout_id, s.attempt_id, s.sequence_id, s.name, s.start_ns, s.end_ns,
       s.status_code, s.status_description, o.process, s.facts
FROM json_each(?1) k
CROSS JOIN spans s ON s.rollout_id = k.value AND s.sequence_id = 0
JOIN sources o ON o.source_id = s.source_id
ORDER BY s.start_ns LIMIT ?2;
