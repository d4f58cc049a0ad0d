-- The tables of chat_svc. What a column means is defined in docs/positions.md.
--
-- No foreign keys on event, timeline and idempotency_key: each costs a lookup and a lock per row
-- of the message path. No unique index beyond their primary keys: each costs 25 to 47 % of
-- PostgreSQL's CPU. No index on a column that a commit updates: head updates must stay HOT.

-- One row, made once per database: a restored copy that goes its own way is noticed by it.
CREATE TABLE chat.history (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  id uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO chat.history DEFAULT VALUES;

CREATE TABLE chat.tenant (
  id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text COLLATE "C" NOT NULL UNIQUE
);

-- Audiences: 1 nobody, 2 contacts. Mute: 1 none, 2 mentions only, 3 all.
CREATE TABLE chat.account (
  id bigint PRIMARY KEY,
  tenant integer NOT NULL REFERENCES chat.tenant,
  external_id text COLLATE "C" NOT NULL,
  kind smallint NOT NULL DEFAULT 1,
  created_at_ms bigint NOT NULL,
  disabled_at_ms bigint NOT NULL DEFAULT 0,
  self_conversation bigint NOT NULL,
  presence_audience smallint NOT NULL DEFAULT 2,
  last_seen_audience smallint NOT NULL DEFAULT 2,
  typing_audience smallint NOT NULL DEFAULT 2,
  receipts_audience smallint NOT NULL DEFAULT 2,
  mute smallint NOT NULL DEFAULT 1,
  quiet_start_minute smallint NOT NULL DEFAULT 0,
  quiet_end_minute smallint NOT NULL DEFAULT 0,
  time_zone text NOT NULL DEFAULT '',
  UNIQUE (tenant, external_id)
);

-- States seen from the owner: 1 requested, 2 incoming, 3 accepted. Blocks are apart.
CREATE TABLE chat.contact (
  owner bigint NOT NULL REFERENCES chat.account,
  other bigint NOT NULL REFERENCES chat.account,
  state smallint NOT NULL,
  changed_at_ms bigint NOT NULL,
  PRIMARY KEY (owner, other)
);

CREATE TABLE chat.block (
  owner bigint NOT NULL REFERENCES chat.account,
  blocked bigint NOT NULL REFERENCES chat.account,
  changed_at_ms bigint NOT NULL,
  PRIMARY KEY (owner, blocked)
);

-- Kinds: 1 direct, 2 group, 3 self. Direct and self: (direct_low, direct_high) are the accounts.
-- last_created_at_ms is also "active at"; lists sort by it without an index, for it changes with
-- every event.
CREATE TABLE chat.conversation (
  id bigint PRIMARY KEY,
  tenant integer NOT NULL,
  kind smallint NOT NULL,
  join_policy smallint NOT NULL DEFAULT 1,
  history_policy smallint NOT NULL DEFAULT 1,
  member_count integer NOT NULL,
  govern_version integer NOT NULL DEFAULT 0,
  last_conversation_seq bigint NOT NULL DEFAULT 0,
  last_message_no bigint NOT NULL DEFAULT 0,
  last_created_at_ms bigint NOT NULL DEFAULT 0,
  created_at_ms bigint NOT NULL,
  direct_low bigint,
  direct_high bigint,
  title text NOT NULL DEFAULT ''
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
CREATE UNIQUE INDEX conversation_direct ON chat.conversation (direct_low, direct_high)
  WHERE direct_low IS NOT NULL;

-- Roles: 1 member, 2 admin, 3 owner. `gone`: was a member.
CREATE TABLE chat.member (
  conversation bigint NOT NULL,
  account bigint NOT NULL,
  joined_at_ms bigint NOT NULL,
  read_message_no bigint NOT NULL DEFAULT 0,
  read_conversation_seq bigint NOT NULL DEFAULT 0,
  delivered_conversation_seq bigint NOT NULL DEFAULT 0,
  mute_until_ms bigint NOT NULL DEFAULT 0,
  changed_at_version bigint NOT NULL DEFAULT 0,
  role smallint NOT NULL DEFAULT 1,
  mute smallint NOT NULL DEFAULT 1,
  gone boolean NOT NULL DEFAULT false,
  pinned boolean NOT NULL DEFAULT false,
  archived boolean NOT NULL DEFAULT false,
  marked_unread boolean NOT NULL DEFAULT false,
  draft text NOT NULL DEFAULT '',
  PRIMARY KEY (conversation, account)
) WITH (fillfactor = 70);
CREATE INDEX member_account ON chat.member (account, conversation);

-- What of a conversation an account may read: from..to inclusive; NULL = still a member.
CREATE TABLE chat.member_interval (
  conversation bigint NOT NULL,
  account bigint NOT NULL,
  from_conversation_seq bigint NOT NULL,
  to_conversation_seq bigint,
  PRIMARY KEY (conversation, account, from_conversation_seq)
);

-- kind: field number in chatmesh.v1.Content. flags: 1 visible, 2 notifies, 8 erased.
-- body: chatmesh.v1.Event without positions and key, as bytes, content first; empty when erased.
-- target_seq: what is edited, deleted, reacted to, pinned or answered; 0 = nothing.
CREATE TABLE chat.event (
  conversation bigint NOT NULL,
  conversation_seq bigint NOT NULL,
  message_no bigint NOT NULL,
  id bigint NOT NULL,
  sender bigint NOT NULL,
  created_at_ms bigint NOT NULL,
  expires_at_ms bigint NOT NULL,
  target_seq bigint NOT NULL,
  kind smallint NOT NULL,
  flags smallint NOT NULL,
  key uuid NOT NULL,
  body bytea NOT NULL,
  trace bytea NOT NULL,
  mentions bigint[],
  PRIMARY KEY (conversation, conversation_seq)
);
-- Edits of one message: blanked with it.
CREATE INDEX event_edit ON chat.event (conversation, target_seq) WHERE kind = 3;

-- The answer to a key. The key comes first: UUIDv7 rises with time, so inserts meet in few pages.
-- content_hash: the top 8 bits are the version of the hash.
CREATE TABLE chat.idempotency_key (
  key uuid NOT NULL,
  sender bigint NOT NULL,
  content_hash bigint NOT NULL,
  message_id bigint NOT NULL,
  conversation bigint NOT NULL,
  conversation_seq bigint NOT NULL,
  message_no bigint NOT NULL,
  timeline_seq bigint NOT NULL,
  created_at_ms bigint NOT NULL,
  PRIMARY KEY (key, sender)
) PARTITION BY RANGE (key);

CREATE TABLE chat.timeline (
  account bigint NOT NULL,
  timeline_seq bigint NOT NULL,
  conversation bigint NOT NULL,
  conversation_seq bigint NOT NULL,
  PRIMARY KEY (account, timeline_seq)
) PARTITION BY HASH (account);
CREATE TABLE chat.timeline_0 PARTITION OF chat.timeline FOR VALUES WITH (MODULUS 8, REMAINDER 0);
CREATE TABLE chat.timeline_1 PARTITION OF chat.timeline FOR VALUES WITH (MODULUS 8, REMAINDER 1);
CREATE TABLE chat.timeline_2 PARTITION OF chat.timeline FOR VALUES WITH (MODULUS 8, REMAINDER 2);
CREATE TABLE chat.timeline_3 PARTITION OF chat.timeline FOR VALUES WITH (MODULUS 8, REMAINDER 3);
CREATE TABLE chat.timeline_4 PARTITION OF chat.timeline FOR VALUES WITH (MODULUS 8, REMAINDER 4);
CREATE TABLE chat.timeline_5 PARTITION OF chat.timeline FOR VALUES WITH (MODULUS 8, REMAINDER 5);
CREATE TABLE chat.timeline_6 PARTITION OF chat.timeline FOR VALUES WITH (MODULUS 8, REMAINDER 6);
CREATE TABLE chat.timeline_7 PARTITION OF chat.timeline FOR VALUES WITH (MODULUS 8, REMAINDER 7);

-- disabled, devices and blocks repeat what other tables say, so that a commit, which reads this
-- row anyway, need not look there; they change under this row's lock only.
CREATE TABLE chat.timeline_head (
  account bigint PRIMARY KEY,
  seq bigint NOT NULL DEFAULT 0,
  min_seq bigint NOT NULL DEFAULT 1,
  notify_seq bigint NOT NULL DEFAULT 0,
  account_version bigint NOT NULL DEFAULT 0,
  tenant integer NOT NULL,
  devices integer NOT NULL DEFAULT 0,
  push_devices integer NOT NULL DEFAULT 0,
  blocks integer NOT NULL DEFAULT 0,
  disabled boolean NOT NULL DEFAULT false
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);

-- Numbers of sessions, over all devices: a device that was forgotten and comes again is still
-- above every session it had.
CREATE SEQUENCE chat.session_no AS bigint;

CREATE TABLE chat.device (
  account bigint NOT NULL REFERENCES chat.account,
  acked_seq bigint NOT NULL,
  acked_id bigint NOT NULL,
  session_no bigint NOT NULL,
  session_node bigint NOT NULL,
  seen_at_ms bigint NOT NULL,
  created_at_ms bigint NOT NULL,
  kind smallint NOT NULL,
  device_id text COLLATE "C" NOT NULL,
  name text NOT NULL,
  PRIMARY KEY (account, device_id)
) WITH (fillfactor = 60);
CREATE INDEX device_node ON chat.device (session_node, account, device_id) WHERE session_node > 0;

-- Devices that were signed out: not to be opened again under the same id.
CREATE TABLE chat.signed_out_device (
  account bigint NOT NULL,
  device_id text COLLATE "C" NOT NULL,
  signed_out_at_ms bigint NOT NULL,
  PRIMARY KEY (account, device_id)
);

-- One row per life of a chat node's process. Times are PostgreSQL's. taken_at_ms: when another
-- node began to hand over what this one left; 0 = not.
CREATE TABLE chat.chat_node (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  name text NOT NULL,
  target text NOT NULL,
  started_at_ms bigint NOT NULL,
  lease_until_ms bigint NOT NULL,
  taken_at_ms bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Hints of one commit, parallel arrays. Written by the commit, deleted when all are settled.
CREATE TABLE chat.outbox (
  batch_id bigint PRIMARY KEY,
  node bigint NOT NULL,
  created_at_ms bigint NOT NULL,
  next_at_ms bigint NOT NULL,
  attempt integer NOT NULL DEFAULT 0,
  accounts bigint[] NOT NULL,
  seqs bigint[] NOT NULL,
  ids bigint[] NOT NULL,
  pushable boolean[] NOT NULL
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX outbox_node ON chat.outbox (node, batch_id);
