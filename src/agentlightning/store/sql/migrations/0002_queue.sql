-- The queue of rollouts, and when an attempt becomes overdue.

-- Place in the queue, lowest first; NULL outside it.
ALTER TABLE rollouts ADD COLUMN queue_place INTEGER;
CREATE INDEX rollouts_queue ON rollouts (project, queue_place) WHERE queue_place IS NOT NULL;
CREATE INDEX rollouts_of_parent ON rollouts (parent_rollout_id) WHERE parent_rollout_id IS NOT NULL;

-- Longest time without a heartbeat that the claim of the attempt allows.
ALTER TABLE attempts ADD COLUMN lease_ns INTEGER;
-- Not before this moment the attempt is overdue. A heartbeat leaves it alone: whoever finds it past looks again.
ALTER TABLE attempts ADD COLUMN deadline_ns INTEGER;
CREATE INDEX attempts_due ON attempts (deadline_ns) WHERE deadline_ns IS NOT NULL;
