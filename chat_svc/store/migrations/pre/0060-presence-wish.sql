-- What users chose to be: kept here, for Redis may be lost whole.
-- depends: 0009-govern-1

-- Only of accounts that ever chose. state: chatmesh.v1.PresenceState, 3 online, 4 do not disturb,
-- 5 invisible. status_until_ms: when the text ends, 0 = never. wish_no rises with every
-- change (the time in ms, at least one more than before): presence ignores a wish that is older than
-- the one it knows, and a restored database still tells newer ones.
CREATE TABLE chat.presence_wish (
  account bigint PRIMARY KEY REFERENCES chat.account ON DELETE CASCADE,
  state smallint NOT NULL DEFAULT 3,
  status_text text NOT NULL DEFAULT '',
  status_until_ms bigint NOT NULL DEFAULT 0,
  wish_no bigint NOT NULL
) WITH (fillfactor = 80);
