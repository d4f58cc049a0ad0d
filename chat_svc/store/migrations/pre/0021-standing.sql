-- Whether an account may sign in, with which tokens, and how nodes learn that it changed.
-- depends: 0020-audit
--
-- Nodes keep accounts in memory and look for changes every few seconds by standing_changed_at_ms.

ALTER TABLE chat.account
  ADD COLUMN tokens_not_before_ms bigint NOT NULL DEFAULT 0,
  ADD COLUMN standing_changed_at_ms bigint NOT NULL DEFAULT 0;
CREATE INDEX account_standing ON chat.account (standing_changed_at_ms)
  WHERE standing_changed_at_ms > 0;

-- Accounts that were erased: nothing but what keeps their old tokens out. name_digest is a keyed
-- digest of the user id: enough to know it again, not to read it.
CREATE TABLE chat.erased_account (
  account bigint PRIMARY KEY,
  tenant integer NOT NULL,
  name_digest bytea NOT NULL,
  erased_at_ms bigint NOT NULL
);
CREATE INDEX erased_account_name ON chat.erased_account (tenant, name_digest);
CREATE INDEX erased_account_at ON chat.erased_account (erased_at_ms);

CREATE FUNCTION chat.name_digest_1(p_tenant integer, p_user text) RETURNS bytea
LANGUAGE sql STABLE RETURN sha256(
  (SELECT uuid_send(h.id) FROM chat.history h) || int4send(p_tenant) || convert_to(p_user, 'UTF8'));

-- When the last account of that name was erased; 0 = never.
CREATE FUNCTION chat.erased_at_1(p_tenant integer, p_user text) RETURNS bigint
LANGUAGE sql STABLE RETURN coalesce((SELECT max(e.erased_at_ms) FROM chat.erased_account e
  WHERE e.tenant = p_tenant AND e.name_digest = chat.name_digest_1(p_tenant, p_user)), 0);

-- As before, and an account that has an erased one's name refuses that one's tokens.
CREATE OR REPLACE FUNCTION chat.make_accounts_1(
  p_tenant text, p_users text[], p_ids bigint[], p_self_ids bigint[], p_kind smallint
) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  v_tenant integer;
BEGIN
  SELECT t.id INTO v_tenant FROM chat.tenant t WHERE t.name = p_tenant;
  IF v_tenant IS NULL THEN
    INSERT INTO chat.tenant (name) VALUES (p_tenant) ON CONFLICT (name) DO NOTHING;
    SELECT t.id INTO v_tenant FROM chat.tenant t WHERE t.name = p_tenant;
  END IF;
  WITH made AS (
    INSERT INTO chat.account (id, tenant, external_id, kind, created_at_ms, self_conversation,
      tokens_not_before_ms)
    SELECT x.id, v_tenant, x.user_id, p_kind, chat.now_ms(), x.self_id,
      chat.erased_at_1(v_tenant, x.user_id)
    FROM unnest(p_users, p_ids, p_self_ids) x(user_id, id, self_id)
    ORDER BY x.user_id COLLATE "C"
    ON CONFLICT (tenant, external_id) DO NOTHING
    RETURNING id, self_conversation
  ), head AS (
    INSERT INTO chat.timeline_head (account, tenant) SELECT id, v_tenant FROM made
  ), conversation AS (
    INSERT INTO chat.conversation (id, tenant, kind, member_count, created_at_ms, direct_low,
      direct_high)
    SELECT self_conversation, v_tenant, 3, 1, chat.now_ms(), id, id FROM made
  ), member AS (
    INSERT INTO chat.member (conversation, account, joined_at_ms)
    SELECT self_conversation, id, chat.now_ms() FROM made
  )
  INSERT INTO chat.member_interval (conversation, account, from_conversation_seq)
  SELECT self_conversation, id, 1 FROM made;
END $$;

-- Changes an account's standing; NULL = unchanged. p_revoke: tokens issued until now are refused.
-- The audit record is part of it, and is written only when something changed. No row: there is no
-- such user in the tenant.
CREATE FUNCTION chat.set_standing_1(
  p_tenant text, p_user text, p_disabled boolean, p_kind smallint, p_revoke boolean, p_actor text,
  p_detail text
) RETURNS TABLE (account bigint, not_before_ms bigint) LANGUAGE plpgsql VOLATILE
SET lock_timeout = '5s' AS $$
#variable_conflict use_column
DECLARE
  a record;
  v_now_ms bigint;
BEGIN
  SELECT x.* INTO a FROM chat.tenant t JOIN chat.account x
    ON x.tenant = t.id AND x.external_id = p_user WHERE t.name = p_tenant;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  PERFORM FROM chat.timeline_head h WHERE h.account = a.id FOR NO KEY UPDATE;
  SELECT x.* INTO a FROM chat.account x WHERE x.id = a.id;
  IF NOT FOUND THEN  -- erased meanwhile
    RETURN;
  END IF;
  v_now_ms := chat.now_ms();
  IF p_revoke OR (a.disabled_at_ms > 0) <> p_disabled OR a.kind <> p_kind THEN
    UPDATE chat.timeline_head h SET disabled = p_disabled
    WHERE h.account = a.id AND h.disabled <> p_disabled;
    UPDATE chat.account x SET
      disabled_at_ms = CASE WHEN p_disabled IS NULL THEN x.disabled_at_ms
        WHEN p_disabled THEN greatest(x.disabled_at_ms, v_now_ms) ELSE 0 END,
      kind = coalesce(p_kind, x.kind),
      tokens_not_before_ms = CASE WHEN p_revoke THEN v_now_ms ELSE x.tokens_not_before_ms END,
      standing_changed_at_ms = v_now_ms
    WHERE x.id = a.id RETURNING * INTO a;
    PERFORM chat.audit_append_1(a.tenant, '{6}', ARRAY[p_actor], ARRAY[p_user], '{0}',
      ARRAY[p_detail]);
  END IF;
  RETURN QUERY SELECT a.id, a.tokens_not_before_ms;
END $$;
