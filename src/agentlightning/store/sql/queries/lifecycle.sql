-- Queries that change rollouts, attempts and resources. "-- name:" begins a query.

-- name: attempt_states
-- ?1 is a JSON array of attempt ids.
SELECT a.attempt_id, a.rollout_id, a.number,
       NOT EXISTS (SELECT 1 FROM attempts b WHERE b.rollout_id = a.rollout_id AND b.number > a.number),
       a.status, a.start_ns, a.heartbeat_ns, a.lease_ns, r.status, r.config
FROM attempts a JOIN rollouts r ON r.rollout_id = a.rollout_id
WHERE a.attempt_id IN (SELECT value FROM json_each(?1));

-- name: due_attempts
SELECT a.attempt_id, a.rollout_id, a.number,
       NOT EXISTS (SELECT 1 FROM attempts b WHERE b.rollout_id = a.rollout_id AND b.number > a.number),
       a.status, a.start_ns, a.heartbeat_ns, a.lease_ns, r.status, r.config
FROM attempts a JOIN rollouts r ON r.rollout_id = a.rollout_id
WHERE a.deadline_ns <= ?1 ORDER BY a.deadline_ns;

-- name: is_any_due
SELECT 1 FROM attempts WHERE deadline_ns <= ?1 LIMIT 1;

-- name: set_attempt_status
UPDATE attempts SET status = ?2, end_ns = ?3, deadline_ns = ?4 WHERE attempt_id = ?1;

-- name: set_attempt_deadline
UPDATE attempts SET deadline_ns = ?2 WHERE attempt_id = ?1;

-- name: set_attempt_fields
UPDATE attempts SET heartbeat_ns = ?2, worker_id = ?3, metadata = ?4 WHERE attempt_id = ?1;

-- name: add_attempt_metadata
UPDATE attempts SET metadata = json_patch(coalesce(nullif(metadata, 'null'), '{}'), ?2) WHERE attempt_id = ?1;

-- name: add_attempt
INSERT INTO attempts (attempt_id, rollout_id, number, status, start_ns, worker_id, lease_ns, deadline_ns, metadata)
VALUES (?, ?, ?, 'preparing', ?, ?, ?, ?, ?);

-- name: set_rollout_status
-- A rollout is in the queue exactly once while its status says so. ?3 is its end.
UPDATE rollouts SET status = ?2, end_ns = ?3,
    queue_place = CASE WHEN ?2 IN ('queuing', 'requeuing') THEN coalesce(queue_place, 1 + coalesce(
        (SELECT max(q.queue_place) FROM rollouts q WHERE q.project = rollouts.project AND q.queue_place IS NOT NULL), 0
    )) END
WHERE rollout_id = ?1;

-- name: set_rollout_fields
UPDATE rollouts SET mode = ?2, resources_id = ?3, config = ?4, metadata = ?5, input = ?6 WHERE rollout_id = ?1;

-- name: last_in_queue
SELECT coalesce(max(queue_place), 0) FROM rollouts WHERE project = ? AND queue_place IS NOT NULL;

-- name: first_in_queue
SELECT rollout_id FROM rollouts WHERE project = ? AND queue_place IS NOT NULL ORDER BY queue_place LIMIT 1;

-- name: is_claimable
-- ?2: attempt that an earlier try may have made, or NULL.
SELECT 1 WHERE EXISTS (SELECT 1 FROM rollouts WHERE project = ?1 AND queue_place IS NOT NULL)
            OR EXISTS (SELECT 1 FROM attempts WHERE attempt_id = ?2);

-- name: projects_of
-- ?1 is a JSON array of rollout ids.
SELECT DISTINCT project FROM rollouts WHERE rollout_id IN (SELECT value FROM json_each(?1));

-- name: project_of_resources
SELECT project FROM resources WHERE resources_id = ?;

-- name: put_resources
INSERT OR REPLACE INTO resources (resources_id, project, created_ns, resources) VALUES (?, ?, ?, ?);

-- name: reserve_sequence
UPDATE rollouts SET last_sequence = last_sequence + 1 WHERE rollout_id = ?;

-- name: raise_sequence
UPDATE rollouts SET last_sequence = max(last_sequence, ?2) WHERE rollout_id = ?1;

-- name: with_children
-- ?1 is a JSON array of rollout ids.
WITH RECURSIVE family (rollout_id) AS (
    SELECT rollout_id FROM rollouts WHERE rollout_id IN (SELECT value FROM json_each(?1))
    UNION
    SELECT r.rollout_id FROM rollouts r JOIN family f ON r.parent_rollout_id = f.rollout_id
)
SELECT rollout_id FROM family;

-- name: delete_spans
DELETE FROM spans WHERE rollout_id IN (SELECT value FROM json_each(?1));

-- name: delete_attempts
DELETE FROM attempts WHERE rollout_id IN (SELECT value FROM json_each(?1));

-- name: delete_rollouts
DELETE FROM rollouts WHERE rollout_id IN (SELECT value FROM json_each(?1));

-- name: prunable
-- ?2: only what is older, or NULL. ?3: the newest so many stay. ?4: unfinished ones must be older than this.
WITH candidates AS (
    SELECT r.rollout_id, r.status, r.start_ns,
           coalesce(r.end_ns, (SELECT max(a.heartbeat_ns) FROM attempts a WHERE a.rollout_id = r.rollout_id), r.start_ns)
               AS last_ns
    FROM rollouts r
    WHERE r.project = ?1 AND r.parent_rollout_id IS NULL AND r.queue_place IS NULL
      AND r.rollout_id NOT IN (SELECT n.rollout_id FROM rollouts n WHERE n.project = ?1 AND n.parent_rollout_id IS NULL
                               ORDER BY n.start_ns DESC, n.rollout_id DESC LIMIT ?3)
)
SELECT rollout_id FROM candidates
WHERE (?2 IS NULL OR last_ns < ?2) AND (status IN ('succeeded', 'failed', 'cancelled') OR last_ns < ?4)
ORDER BY start_ns, rollout_id LIMIT ?5;

-- name: evictable
-- The oldest rollout that nobody waits for or works on; ?1: unfinished ones must be older than this.
SELECT rollout_id FROM rollouts
WHERE status IN ('succeeded', 'failed', 'cancelled') OR (implicit = 1 AND start_ns < ?1)
ORDER BY start_ns, rollout_id LIMIT 20;
