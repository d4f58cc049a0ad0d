-- Search: the words of messages, written behind the commit and never in it.
-- depends: 0022-erasure 0030-retention 0036-threads 0060-presence-wish
--
-- A row here is a hint: whether a message may be shown, and whether it still says that, is read from
-- chat.event by the search itself. So rows may be late, and rows of erased messages find nothing.
-- Steps that write rows hold one advisory lock: what was read under it is written under it, and a
-- step that takes words away begins after every step that may still have been writing them.

CREATE TABLE chat.search_entry (
  conversation bigint NOT NULL,
  conversation_seq bigint NOT NULL,
  created_at_ms bigint NOT NULL,
  words tsvector NOT NULL,
  PRIMARY KEY (conversation, conversation_seq)
);
CREATE INDEX search_words ON chat.search_entry USING gin (words);

-- Up to where a conversation's events were looked at, and with which text search configuration.
CREATE TABLE chat.search_position (
  conversation bigint PRIMARY KEY,
  indexed_seq bigint NOT NULL,
  language text NOT NULL
) WITH (fillfactor = 70);

-- Where the sweep is: conversations after `conversation`, rows after (entry_conversation, entry_seq).
CREATE TABLE chat.search_pass (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  conversation bigint NOT NULL DEFAULT 0,
  entry_conversation bigint NOT NULL DEFAULT 0,
  entry_seq bigint NOT NULL DEFAULT 0,
  next_at_ms bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO chat.search_pass DEFAULT VALUES;

-- The text that a stored body says; empty when it says none or is encrypted. Bodies are what the
-- server wrote: fields 9 and above of chatmesh.v1.Event, texts in UTF-8.
CREATE FUNCTION chat.search_text_1(body bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  c_content CONSTANT bigint := 9;
  c_encrypted CONSTANT bigint := 13;
  v_end integer := length(body);
  v_size CONSTANT integer := length(body);
  v_at integer := 0;
  v_depth integer := 0;  -- 0 Event, 1 Content, 2 TextContent
  v_after integer := 0;  -- where the event goes on behind its content
  v_text_at integer := 0;
  v_text_size integer := 0;
  v_tag bigint := -1;
  v_value bigint;
  v_shift integer;
  v_byte integer;
BEGIN
  WHILE v_at < v_size LOOP
    IF v_depth > 0 AND v_at >= v_end THEN
      v_at := v_after;
      v_depth := 0;
      CONTINUE;
    END IF;
    v_value := 0;
    v_shift := 0;
    LOOP
      IF v_at >= v_size OR v_shift > 63 THEN
        RETURN '';
      END IF;
      v_byte := get_byte(body, v_at);
      v_at := v_at + 1;
      v_value := v_value | ((v_byte & 127)::bigint << v_shift);
      EXIT WHEN v_byte < 128;
      v_shift := v_shift + 7;
    END LOOP;
    IF v_tag < 0 THEN
      v_tag := v_value;
      IF v_tag < 0 OR v_tag & 7 NOT IN (0, 2) THEN
        RETURN '';
      END IF;
      CONTINUE;
    END IF;
    IF v_tag & 7 = 0 THEN
      IF v_depth = 0 AND v_tag >> 3 = c_encrypted AND v_value <> 0 THEN
        RETURN '';
      END IF;
    ELSIF v_value < 0 OR v_value > v_size - v_at THEN
      RETURN '';
    ELSIF v_depth = 0 AND v_tag >> 3 = c_content THEN
      v_depth := 1;
      v_after := v_at + v_value::integer;
      v_end := v_after;
    ELSIF v_depth = 1 AND v_tag >> 3 = 1 THEN
      v_depth := 2;
      v_end := v_at + v_value::integer;
    ELSIF v_depth = 2 AND v_tag >> 3 = 1 THEN
      v_text_at := v_at;
      v_text_size := v_value::integer;
      v_at := v_after;
      v_depth := 0;
    ELSE
      v_at := v_at + v_value::integer;
    END IF;
    v_tag := -1;
  END LOOP;
  RETURN convert_from(substring(body FROM v_text_at + 1 FOR v_text_size), 'UTF8');
END $$;

-- Words of a text; a tsvector has room for one megabyte.
CREATE FUNCTION chat.search_words_1(p_language text, p_text text) RETURNS tsvector
LANGUAGE sql STABLE PARALLEL SAFE RETURN to_tsvector(p_language::regconfig, left(p_text, 65536));

-- Looks at new events of conversations, about p_events at most: messages get their words, an edit
-- or a deletion has its message read anew. behind: conversations that are not at their end.
-- is_busy: another node steps, nothing was done.
CREATE FUNCTION chat.index_search_1(
  p_conversations bigint[], p_events integer, p_language text,
  OUT events integer, OUT behind bigint[], OUT is_busy boolean
) LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
DECLARE
  c record;
  v_to bigint;
BEGIN
  events := 0;
  behind := '{}';
  is_busy := NOT pg_try_advisory_xact_lock(hashtext('chat.search'));
  IF is_busy THEN
    RETURN;
  END IF;
  FOR c IN SELECT x.id, x.last_conversation_seq AS last,
      CASE WHEN p.language = p_language THEN p.indexed_seq ELSE 0 END AS done
    FROM chat.conversation x LEFT JOIN chat.search_position p ON p.conversation = x.id
    WHERE x.id = ANY (p_conversations) ORDER BY x.id
  LOOP
    v_to := least(c.last, c.done + p_events - events);
    IF v_to < c.last THEN
      behind := behind || c.id;
    END IF;
    CONTINUE WHEN v_to <= c.done;
    WITH seen AS MATERIALIZED (
      SELECT e.conversation_seq, e.target_seq, e.kind, e.flags FROM chat.event e
      WHERE e.conversation = c.id AND e.conversation_seq > c.done AND e.conversation_seq <= v_to
    ), wanted AS (
      SELECT s.conversation_seq FROM seen s WHERE s.flags & 1 = 1
      UNION SELECT s.target_seq FROM seen s WHERE s.kind IN (3, 4)
    ), said AS MATERIALIZED (
      SELECT w.conversation_seq, e.created_at_ms,
        CASE WHEN e.flags & 9 = 1 THEN chat.search_text_1(e.body) ELSE '' END AS text
      FROM wanted w LEFT JOIN chat.event e
        ON e.conversation = c.id AND e.conversation_seq = w.conversation_seq
    ), gone AS (
      DELETE FROM chat.search_entry x USING said s
      WHERE x.conversation = c.id AND x.conversation_seq = s.conversation_seq
        AND coalesce(s.text, '') = ''
    )
    INSERT INTO chat.search_entry AS x (conversation, conversation_seq, created_at_ms, words)
    SELECT c.id, s.conversation_seq, s.created_at_ms, chat.search_words_1(p_language, s.text)
    FROM said s WHERE s.text <> '' ORDER BY s.conversation_seq
    ON CONFLICT (conversation, conversation_seq) DO UPDATE SET words = excluded.words;
    INSERT INTO chat.search_position AS x VALUES (c.id, v_to, p_language)
    ON CONFLICT (conversation) DO UPDATE SET indexed_seq = excluded.indexed_seq,
      language = excluded.language;
    events := events + (v_to - c.done);
  END LOOP;
END $$;

-- One step of the sweep: which of the next p_rows conversations are behind (a node died with what it
-- knew, the configuration changed, the index is new), and away with those of the next p_rows rows
-- whose message is gone. oldest_ms: when the oldest event that waits was committed; 0 = none waits.
-- is_over: the pass has ended, another node steps, or the next pass is not due.
CREATE FUNCTION chat.sweep_search_1(
  p_rows integer, p_language text, p_period_ms bigint,
  OUT behind bigint[], OUT oldest_ms bigint, OUT removed integer, OUT is_over boolean
) LANGUAGE plpgsql VOLATILE SET enable_seqscan = off AS $$
DECLARE
  s chat.search_pass;
  v_last bigint;
  v_looked bigint;
  e record;
BEGIN
  behind := '{}';
  oldest_ms := 0;
  removed := 0;
  is_over := true;
  IF NOT pg_try_advisory_xact_lock(hashtext('chat.search')) THEN
    RETURN;
  END IF;
  SELECT * INTO s FROM chat.search_pass;
  IF chat.now_ms() < s.next_at_ms THEN
    RETURN;
  END IF;
  WITH looked AS MATERIALIZED (
    SELECT c.id, c.last_conversation_seq, CASE WHEN p.language = p_language THEN p.indexed_seq
      ELSE 0 END AS done
    FROM (SELECT x.id, x.last_conversation_seq FROM chat.conversation x
      WHERE x.id > s.conversation ORDER BY x.id LIMIT p_rows) c
    LEFT JOIN chat.search_position p ON p.conversation = c.id
  )
  SELECT max(l.id), count(*),
    coalesce(array_agg(l.id) FILTER (WHERE l.last_conversation_seq > l.done), '{}'),
    coalesce(min((SELECT x.created_at_ms FROM chat.event x WHERE x.conversation = l.id
      AND x.conversation_seq > l.done ORDER BY x.conversation_seq LIMIT 1))
      FILTER (WHERE l.last_conversation_seq > l.done), 0)
  INTO v_last, v_looked, behind, oldest_ms FROM looked l;
  is_over := v_looked < p_rows;
  s.conversation := CASE WHEN is_over THEN 0 ELSE v_last END;

  WITH looked AS MATERIALIZED (
    SELECT x.conversation, x.conversation_seq FROM chat.search_entry x
    WHERE (x.conversation, x.conversation_seq) > (s.entry_conversation, s.entry_seq)
    ORDER BY x.conversation, x.conversation_seq LIMIT p_rows
  ), gone AS (
    DELETE FROM chat.search_entry x USING looked l
    WHERE x.conversation = l.conversation AND x.conversation_seq = l.conversation_seq
      AND NOT EXISTS (SELECT FROM chat.event v WHERE v.conversation = l.conversation
        AND v.conversation_seq = l.conversation_seq AND v.flags & 9 = 1
        AND v.expires_at_ms NOT BETWEEN 1 AND chat.now_ms())
    RETURNING 1
  )
  SELECT (SELECT count(*) FROM gone) AS gone, count(*) OVER () AS looked, l.conversation, l.conversation_seq
  INTO e FROM looked l ORDER BY l.conversation DESC, l.conversation_seq DESC LIMIT 1;
  IF NOT FOUND OR e.looked < p_rows THEN
    s.entry_conversation := 0;
    s.entry_seq := 0;
  ELSE
    s.entry_conversation := e.conversation;
    s.entry_seq := e.conversation_seq;
    is_over := false;
  END IF;
  IF FOUND THEN
    removed := e.gone;
  END IF;
  UPDATE chat.search_pass x SET conversation = s.conversation,
    entry_conversation = s.entry_conversation, entry_seq = s.entry_seq,
    next_at_ms = CASE WHEN is_over THEN chat.now_ms() + p_period_ms ELSE 0 END;
END $$;

-- As before, and the words of what is blanked go with it; steps that write words come before or after.
CREATE OR REPLACE FUNCTION chat.erase_events_1(
  p_account bigint, p_conversation bigint, p_seq bigint, p_to_conversation bigint, p_to_seq bigint
) RETURNS bigint LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
  v_count bigint;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('chat.search'));
  WITH mine AS MATERIALIZED (
    SELECT e.conversation, e.conversation_seq, e.key, e.flags & 9 = 1 AS visible FROM chat.event e
    WHERE (e.conversation, e.conversation_seq) > (p_conversation, p_seq)
      AND (p_to_conversation IS NULL
        OR (e.conversation, e.conversation_seq) <= (p_to_conversation, p_to_seq))
      AND e.sender = p_account
    ORDER BY e.conversation, e.conversation_seq FOR NO KEY UPDATE
  ), forgotten AS (
    DELETE FROM chat.idempotency_key k USING mine m WHERE k.key = m.key AND k.sender = p_account
  ), unfound AS (
    DELETE FROM chat.search_entry s USING mine m
    WHERE s.conversation = m.conversation AND s.conversation_seq = m.conversation_seq
  ), blanked AS (
    UPDATE chat.event e SET body = '', trace = '', mentions = NULL, flags = e.flags | 8
    FROM mine m WHERE e.conversation = m.conversation AND e.conversation_seq = m.conversation_seq
  )
  SELECT count(*) INTO v_count FROM mine WHERE visible;
  RETURN v_count;
END $$;

-- As before, and the words go with the message. A step that writes words meanwhile has read the
-- message before: the sweep takes those away.
CREATE OR REPLACE FUNCTION chat.expire_1(p_rows integer) RETURNS integer
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
  ), forgotten AS (
    DELETE FROM chat.search_entry s USING due
    WHERE s.conversation = due.conversation AND s.conversation_seq = due.conversation_seq
  )
  UPDATE chat.event e SET body = '', mentions = NULL, flags = e.flags | 8
  FROM due WHERE e.conversation = due.conversation AND e.conversation_seq = due.conversation_seq;
  GET DIAGNOSTICS v_count = ROW_COUNT;
  RETURN v_count;
END $$;
