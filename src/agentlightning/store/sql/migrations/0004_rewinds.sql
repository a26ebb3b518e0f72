-- Followers go by the place (rowid) of rows. When the newest rows are deleted, their places are given again.

-- One row for each such deletion: from which place on they are. AUTOINCREMENT: no number is ever used twice.
CREATE TABLE rewinds (
    rewind         INTEGER PRIMARY KEY AUTOINCREMENT,
    span_place     INTEGER NOT NULL,
    rollout_place  INTEGER NOT NULL
);
