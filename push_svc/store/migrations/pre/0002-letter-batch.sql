-- A dead letter says which batch of which chat node it came with; 0 = unknown.
ALTER TABLE push.dead_letter
    ADD COLUMN batch_id bigint NOT NULL DEFAULT 0,
    ADD COLUMN node_id bigint NOT NULL DEFAULT 0;
