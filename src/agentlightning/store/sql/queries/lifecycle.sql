-- Queries that change rollouts, attempts and resources one at a time. "-- name:" begins a query.

-- name: set_attempt
UPDATE attempts SET status = ?2, end_ns = ?3, heartbeat_ns = ?4, worker_id = ?5, metadata = ?6 WHERE attempt_id = ?1;

-- name: set_rollout
UPDATE rollouts SET status = ?2, end_ns = ?3, mode = ?4, resources_id = ?5, config = ?6, metadata = ?7, input = ?8
WHERE rollout_id = ?1;

-- name: put_resources
INSERT OR REPLACE INTO resources (resources_id, project, created_ns, resources) VALUES (?, ?, ?, ?);

-- name: reserve_sequence
UPDATE rollouts SET last_sequence = last_sequence + 1 WHERE rollout_id = ?;

-- name: raise_sequence
UPDATE rollouts SET last_sequence = max(last_sequence, ?2) WHERE rollout_id = ?1;
