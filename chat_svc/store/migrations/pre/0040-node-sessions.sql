-- How many sessions live on each node, as it said last: what "its share" is.
-- depends: 0001-tables

ALTER TABLE chat.chat_node ADD COLUMN sessions integer NOT NULL DEFAULT 0;
