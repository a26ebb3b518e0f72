-- Queries that keep projects apart: what of the given ids is of another project. "-- name:" begins a query.

-- name: foreign_rollouts
-- ?1 is a JSON array of ids.
SELECT rollout_id FROM rollouts WHERE rollout_id IN (SELECT value FROM json_each(?1)) AND project <> ?2;

-- name: foreign_attempts
SELECT a.attempt_id FROM attempts a CROSS JOIN rollouts r ON r.rollout_id = a.rollout_id
WHERE a.attempt_id IN (SELECT value FROM json_each(?1)) AND r.project <> ?2;

-- name: foreign_spans
-- ?1 is a JSON array of [trace id, span id].
SELECT s.span_id FROM json_each(?1) k
CROSS JOIN spans s ON s.trace_id = json_extract(k.value, '$[0]') AND s.span_id = json_extract(k.value, '$[1]')
CROSS JOIN rollouts r ON r.rollout_id = s.rollout_id
WHERE r.project <> ?2;

-- name: foreign_resources
SELECT resources_id FROM resources WHERE resources_id IN (SELECT value FROM json_each(?1)) AND project <> ?2;
