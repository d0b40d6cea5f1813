-- Which log the rows are of: the `namespace_id` in its `meta`. Rows of two logs beside each other would share
-- checkpoints, and entries of the second that lie before them would never become rows.

CREATE TABLE log_identity (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    namespace_id text NOT NULL
);
