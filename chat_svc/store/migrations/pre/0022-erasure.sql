-- Erasing a user, in bounded steps that may be run again.
-- depends: 0021-standing 0032-hidden 0060-presence-wish
--
-- The account is switched off first, so that nothing new comes. Then, step by step: its devices and
-- relations, its memberships, all that it wrote (and its name in what others wrote), its timeline.
-- Its row goes last: while it is there the steps find it by its name. The timeline's head stays,
-- disabled, without a name: conversations still point at it, and it refuses what is sent there.

-- Where the erasure of an account is. stage: of chat_svc.store.erasure.Stage.
CREATE TABLE chat.erasure (
  account bigint PRIMARY KEY,
  stage smallint NOT NULL DEFAULT 0,
  conversation bigint NOT NULL DEFAULT 0,
  conversation_seq bigint NOT NULL DEFAULT 0,
  begun_at_ms bigint NOT NULL
);

-- Lines about an account: without them an erasure would read all lines of everybody.
CREATE INDEX contact_other ON chat.contact (other);
CREATE INDEX block_blocked ON chat.block (blocked);

-- Devices, contacts, blocks, wish.
CREATE FUNCTION chat.erase_relations_1(p_account bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
BEGIN
  PERFORM FROM chat.timeline_head h
  WHERE h.account = p_account
    OR h.account IN (SELECT b.owner FROM chat.block b WHERE b.blocked = p_account)
  ORDER BY h.account FOR NO KEY UPDATE;
  WITH gone AS (DELETE FROM chat.block b WHERE b.blocked = p_account RETURNING b.owner)
  UPDATE chat.timeline_head h SET blocks = h.blocks - 1 FROM gone WHERE h.account = gone.owner;
  DELETE FROM chat.block b WHERE b.owner = p_account;
  DELETE FROM chat.contact c WHERE c.owner = p_account OR c.other = p_account;
  DELETE FROM chat.device d WHERE d.account = p_account;
  DELETE FROM chat.signed_out_device d WHERE d.account = p_account;
  DELETE FROM chat.hidden h WHERE h.account = p_account;
  DELETE FROM chat.presence_wish w WHERE w.account = p_account;
  UPDATE chat.timeline_head h SET devices = 0, push_devices = 0, blocks = 0
  WHERE h.account = p_account;
END $$;

-- Takes the account out of at most p_rows conversations, whoever it was there; how many. A group that
-- loses its last owner gets the member that stands highest, then longest; one that loses its last
-- member loses its title. Nobody is told by an event: it would name whom nobody is to name.
CREATE FUNCTION chat.erase_members_1(p_account bigint, p_rows integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
  v_ids bigint[];
  c record;
BEGIN
  v_ids := ARRAY(SELECT m.conversation FROM chat.member m
    JOIN chat.conversation x ON x.id = m.conversation AND x.kind <> 3
    WHERE m.account = p_account ORDER BY m.conversation LIMIT p_rows);
  PERFORM FROM chat.conversation x WHERE x.id = ANY (v_ids) ORDER BY x.id FOR NO KEY UPDATE;
  FOR c IN SELECT x.id, x.kind, m.role, m.gone FROM chat.conversation x
    JOIN chat.member m ON m.conversation = x.id AND m.account = p_account
    WHERE x.id = ANY (v_ids) ORDER BY x.id
  LOOP
    DELETE FROM chat.member m WHERE m.conversation = c.id AND m.account = p_account;
    DELETE FROM chat.member_interval i WHERE i.conversation = c.id AND i.account = p_account;
    CONTINUE WHEN c.kind <> 2 OR c.gone;
    UPDATE chat.conversation x SET member_count = x.member_count - 1,
      govern_version = x.govern_version + 1,
      title = CASE WHEN x.member_count > 1 THEN x.title ELSE '' END
    WHERE x.id = c.id;
    CONTINUE WHEN EXISTS (SELECT FROM chat.member m
      WHERE m.conversation = c.id AND NOT m.gone AND m.role = 3);
    UPDATE chat.member m SET role = 3 WHERE m.conversation = c.id AND m.account = (
      SELECT y.account FROM chat.member y WHERE y.conversation = c.id AND NOT y.gone
      ORDER BY y.role DESC, y.joined_at_ms, y.account LIMIT 1);
  END LOOP;
  RETURN cardinality(v_ids);
END $$;

-- Blanks what the account wrote between two positions (the second included; NULL = to the end), and
-- forgets the keys it was sent under; how many visible messages were blanked.
CREATE FUNCTION chat.erase_events_1(
  p_account bigint, p_conversation bigint, p_seq bigint, p_to_conversation bigint, p_to_seq bigint
) RETURNS bigint LANGUAGE sql VOLATILE SET lock_timeout = '5s' AS $$
  WITH mine AS MATERIALIZED (
    SELECT e.conversation, e.conversation_seq, e.key, e.flags & 9 = 1 AS visible FROM chat.event e
    WHERE (e.conversation, e.conversation_seq) > (p_conversation, p_seq)
      AND (p_to_conversation IS NULL
        OR (e.conversation, e.conversation_seq) <= (p_to_conversation, p_to_seq))
      AND e.sender = p_account
    ORDER BY e.conversation, e.conversation_seq FOR NO KEY UPDATE
  ), forgotten AS (
    DELETE FROM chat.idempotency_key k USING mine m WHERE k.key = m.key AND k.sender = p_account
  ), blanked AS (
    UPDATE chat.event e SET body = '', trace = '', mentions = NULL, flags = e.flags | 8
    FROM mine m WHERE e.conversation = m.conversation AND e.conversation_seq = m.conversation_seq
  )
  SELECT count(*) FROM mine WHERE visible
$$;

-- Removes at most p_rows rows of the account's timeline, then of its self conversation; how many.
CREATE FUNCTION chat.erase_timeline_1(p_account bigint, p_rows integer) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
  v_self bigint := (SELECT a.self_conversation FROM chat.account a WHERE a.id = p_account);
  v_count bigint;
BEGIN
  PERFORM FROM chat.conversation x WHERE x.id = v_self FOR NO KEY UPDATE;
  PERFORM FROM chat.timeline_head h WHERE h.account = p_account FOR NO KEY UPDATE;
  UPDATE chat.timeline_head h SET min_seq = h.seq + 1
  WHERE h.account = p_account AND h.min_seq <= h.seq;
  DELETE FROM chat.timeline t USING (SELECT x.timeline_seq FROM chat.timeline x
    WHERE x.account = p_account ORDER BY x.timeline_seq LIMIT p_rows) old
  WHERE t.account = p_account AND t.timeline_seq = old.timeline_seq;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  IF v_count = 0 THEN
    DELETE FROM chat.event e USING (SELECT x.conversation_seq FROM chat.event x
      WHERE x.conversation = v_self ORDER BY x.conversation_seq LIMIT p_rows) old
    WHERE e.conversation = v_self AND e.conversation_seq = old.conversation_seq;
    GET DIAGNOSTICS v_count = ROW_COUNT;
  END IF;
  IF v_count = 0 THEN
    DELETE FROM chat.member_interval i WHERE i.conversation = v_self;
    DELETE FROM chat.member m WHERE m.conversation = v_self;
    DELETE FROM chat.conversation x WHERE x.id = v_self;
  END IF;
  RETURN v_count;
END $$;

-- The last step: the name itself, in the audit log, too. Only what keeps old tokens out remains.
CREATE FUNCTION chat.erase_account_1(p_account bigint, p_actor text) RETURNS void
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
  a record;
BEGIN
  PERFORM FROM chat.timeline_head h WHERE h.account = p_account FOR NO KEY UPDATE;
  DELETE FROM chat.account x WHERE x.id = p_account RETURNING x.tenant, x.external_id INTO a;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  DELETE FROM chat.erasure x WHERE x.account = p_account;
  INSERT INTO chat.erased_account VALUES (p_account, a.tenant,
    chat.name_digest_1(a.tenant, a.external_id), chat.now_ms());
  PERFORM chat.audit_append_1(a.tenant, '{7}', ARRAY[p_actor], '{""}', '{0}', '{DeleteUser}');
  PERFORM chat.audit_forget_1(a.tenant, a.external_id);
END $$;
