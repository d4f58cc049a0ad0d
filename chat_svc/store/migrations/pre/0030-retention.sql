-- Retention: timelines are cut at a position, events go by age; disappearing messages are blanked.
-- depends: 0008-timelines
--
-- A sweep is made of bounded steps, each a transaction of its own; an advisory lock lets one node
-- step at a time. A reader sees min_seq and rows of one snapshot: never a hole, only a later start.

-- Where the sweep is. cutoff_ms: what was created before it is old; 0 = no pass is under way.
-- is_cutting: timelines after `account` are still to be looked at; else events of conversations
-- after `conversation` are.
CREATE TABLE chat.retention (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  cutoff_ms bigint NOT NULL DEFAULT 0,
  next_at_ms bigint NOT NULL DEFAULT 0,
  account bigint NOT NULL DEFAULT 0,
  conversation bigint NOT NULL DEFAULT 0,
  is_cutting boolean NOT NULL DEFAULT true
);
INSERT INTO chat.retention DEFAULT VALUES;

-- Messages that disappear and have not yet: what the sweep looks for. Costs other messages nothing.
CREATE INDEX event_expiry ON chat.event (expires_at_ms) WHERE expires_at_ms > 0 AND flags & 8 = 0;

-- One step: at most about p_rows rows go. Entries go when their event is older than p_age_ms, or when
-- more than p_entries are kept; always a prefix, whose end becomes min_seq. Events go by age alone,
-- after a whole pass over all timelines with the same cutoff, and one day later than entries: the
-- order of a timeline follows PostgreSQL's clock, which may have been set back in between.
-- is_over: the pass has ended, or another node steps, or the next pass is not due.
CREATE FUNCTION chat.retain_1(
  p_age_ms bigint, p_entries bigint, p_rows integer, p_period_ms bigint,
  OUT entries bigint, OUT events bigint, OUT is_over boolean
) LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
DECLARE
  c_margin_ms CONSTANT bigint := 86400000;
  s chat.retention;
  h record;
  v_seen boolean := false;
  v_left bigint := p_rows;
  v_end bigint;
  v_cut bigint;
  v_id bigint;
BEGIN
  entries := 0;
  events := 0;
  is_over := false;
  IF NOT pg_try_advisory_xact_lock(hashtext('chat.retain')) THEN
    is_over := true;
    RETURN;
  END IF;
  SELECT * INTO s FROM chat.retention;
  IF s.cutoff_ms = 0 THEN
    IF chat.now_ms() < s.next_at_ms THEN
      is_over := true;
      RETURN;
    END IF;
    s.cutoff_ms := chat.now_ms() - p_age_ms;
    s.account := 0;
    s.is_cutting := true;
  END IF;

  IF s.is_cutting THEN
    FOR h IN SELECT x.account, x.seq, x.min_seq FROM chat.timeline_head x
      WHERE x.account > s.account ORDER BY x.account LIMIT p_rows
    LOOP
      v_seen := true;
      EXIT WHEN v_left <= 0;
      v_end := least(h.seq + 1, h.min_seq + v_left);
      v_cut := coalesce((SELECT t.timeline_seq FROM chat.timeline t
        LEFT JOIN LATERAL (SELECT e.created_at_ms FROM chat.event e
          WHERE e.conversation = t.conversation AND e.conversation_seq = t.conversation_seq
          LIMIT 1) e ON true
        WHERE t.account = h.account AND t.timeline_seq >= h.min_seq AND t.timeline_seq < v_end
          AND e.created_at_ms >= s.cutoff_ms
        ORDER BY t.timeline_seq LIMIT 1), v_end);
      v_cut := greatest(v_cut, least(h.seq - p_entries + 1, v_end));
      IF v_cut > h.min_seq THEN
        DELETE FROM chat.timeline t WHERE t.account = h.account
          AND t.timeline_seq >= h.min_seq AND t.timeline_seq < v_cut;
        UPDATE chat.timeline_head x SET min_seq = v_cut WHERE x.account = h.account;
        entries := entries + v_cut - h.min_seq;
        v_left := v_left - (v_cut - h.min_seq);
      END IF;
      EXIT WHEN v_cut = v_end AND v_end <= h.seq;  -- more of this one in the next step
      s.account := h.account;
    END LOOP;
    IF NOT v_seen THEN
      s.is_cutting := false;
      s.conversation := 0;
    END IF;
  ELSE
    FOR v_id IN SELECT x.id FROM chat.conversation x
      WHERE x.id > s.conversation ORDER BY x.id LIMIT p_rows
    LOOP
      v_seen := true;
      EXIT WHEN v_left <= 0;
      -- created_at_ms never falls within a conversation: what is old is a prefix
      IF (SELECT e.created_at_ms FROM chat.event e WHERE e.conversation = v_id
          ORDER BY e.conversation_seq LIMIT 1) < s.cutoff_ms - c_margin_ms THEN
        SELECT max(e.conversation_seq), count(*) INTO v_cut, v_end FROM (
          SELECT x.conversation_seq, x.created_at_ms FROM chat.event x
          WHERE x.conversation = v_id ORDER BY x.conversation_seq LIMIT v_left) e
        WHERE e.created_at_ms < s.cutoff_ms - c_margin_ms;
        DELETE FROM chat.event e WHERE e.conversation = v_id AND e.conversation_seq <= v_cut;
        events := events + v_end;
        v_left := v_left - v_end;
        EXIT WHEN v_left <= 0;
      END IF;
      s.conversation := v_id;
    END LOOP;
    IF NOT v_seen THEN
      s.cutoff_ms := 0;
      s.next_at_ms := chat.now_ms() + p_period_ms;
      is_over := true;
    END IF;
  END IF;
  UPDATE chat.retention r SET cutoff_ms = s.cutoff_ms, next_at_ms = s.next_at_ms,
    account = s.account, conversation = s.conversation, is_cutting = s.is_cutting;
END $$;

-- Blanks at most p_rows messages whose time is over, as a deletion for everyone would; how many.
-- What a commit holds is left for the next time: nothing here waits for a row.
CREATE FUNCTION chat.expire_1(p_rows integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
DECLARE
  v_count integer;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtext('chat.expire')) THEN
    RETURN 0;
  END IF;
  WITH due AS (
    SELECT e.conversation, e.conversation_seq FROM chat.event e
    WHERE e.expires_at_ms > 0 AND e.flags & 8 = 0 AND e.expires_at_ms <= chat.now_ms()
    ORDER BY e.expires_at_ms LIMIT p_rows FOR NO KEY UPDATE SKIP LOCKED
  )
  UPDATE chat.event e SET body = '', mentions = NULL, flags = e.flags | 8
  FROM due WHERE e.conversation = due.conversation AND e.conversation_seq = due.conversation_seq;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  RETURN v_count;
END $$;

-- As before, and an edit of a message that disappears disappears with it.
CREATE OR REPLACE FUNCTION chat.apply_targets_1(
  p_status smallint[], p_conversation bigint[], p_kind smallint[], p_target bigint[],
  p_patch bytea[]
) RETURNS void LANGUAGE sql VOLATILE AS $$
  WITH target AS MATERIALIZED (
    SELECT t.conversation, t.target, bool_or(t.kind = 4) AS deleted,
      max(t.n) FILTER (WHERE t.kind = 3) AS last_edit
    FROM unnest(p_status, p_conversation, p_kind, p_target)
      WITH ORDINALITY t(status, conversation, kind, target, n)
    WHERE t.status = 0 AND t.kind IN (3, 4) GROUP BY t.conversation, t.target
  ), erased AS (
    UPDATE chat.event e SET body = '', mentions = NULL, flags = e.flags | 8
    FROM target t WHERE t.deleted AND e.conversation = t.conversation
      AND (e.conversation_seq = t.target OR (e.kind = 3 AND e.target_seq = t.target))
  ), ending AS (
    UPDATE chat.event e SET expires_at_ms = m.expires_at_ms
    FROM target t
    JOIN chat.event m ON m.conversation = t.conversation AND m.conversation_seq = t.target
      AND m.expires_at_ms > 0
    WHERE NOT t.deleted AND e.conversation = t.conversation AND e.kind = 3
      AND e.target_seq = t.target AND e.expires_at_ms <> m.expires_at_ms
  )
  UPDATE chat.event e SET body = p_patch[t.last_edit] || chat.without_content(e.body)
  FROM target t WHERE NOT t.deleted AND e.conversation = t.conversation
    AND e.conversation_seq = t.target
$$;
