-- Accounts and direct conversations, made before the commit that needs them, each in a transaction
-- of its own and in key order: made inside, they would deadlock with a commit.
-- depends: 0002-functions

-- Makes the accounts of one tenant that are not there yet, each with its timeline head and its self
-- conversation. p_ids and p_self_ids: fresh Snowflakes, one each per user; unused ones are lost.
CREATE FUNCTION chat.make_accounts_1(
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
    INSERT INTO chat.account (id, tenant, external_id, kind, created_at_ms, self_conversation)
    SELECT x.id, v_tenant, x.user_id, p_kind, chat.now_ms(), x.self_id
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

-- Makes the direct conversations of pairs (low < high) that have none, and, if wanted, the two
-- contacts where neither blocks the other. Pairs with an account that is not of the tenant are left
-- out. p_ids: fresh Snowflakes, one per pair.
CREATE FUNCTION chat.make_direct_1(
  p_tenant integer, p_low bigint[], p_high bigint[], p_ids bigint[], p_make_contacts boolean
) RETURNS void LANGUAGE sql VOLATILE AS $$
  WITH made AS (
    INSERT INTO chat.conversation (id, tenant, kind, member_count, created_at_ms, direct_low,
      direct_high)
    SELECT x.id, p_tenant, 1, 2, chat.now_ms(), x.low, x.high
    FROM unnest(p_low, p_high, p_ids) x(low, high, id)
    JOIN chat.account a ON a.id = x.low AND a.tenant = p_tenant
    JOIN chat.account b ON b.id = x.high AND b.tenant = p_tenant
    WHERE x.low < x.high
    ORDER BY x.low, x.high
    ON CONFLICT (direct_low, direct_high) WHERE direct_low IS NOT NULL DO NOTHING
    RETURNING id, direct_low, direct_high
  ), side AS (
    SELECT id, direct_low AS account, direct_high AS other FROM made
    UNION ALL SELECT id, direct_high, direct_low FROM made
  ), member AS (
    INSERT INTO chat.member (conversation, account, joined_at_ms)
    SELECT id, account, chat.now_ms() FROM side
  ), member_interval AS (
    INSERT INTO chat.member_interval (conversation, account, from_conversation_seq)
    SELECT id, account, 1 FROM side
  )
  INSERT INTO chat.contact (owner, other, state, changed_at_ms)
  SELECT s.account, s.other, 3, chat.now_ms() FROM side s
  WHERE p_make_contacts AND NOT EXISTS (SELECT FROM chat.block b
    WHERE b.owner = s.account AND b.blocked = s.other
      OR b.owner = s.other AND b.blocked = s.account)
  ORDER BY s.account, s.other
  ON CONFLICT (owner, other) DO UPDATE SET state = 3, changed_at_ms = excluded.changed_at_ms
    WHERE contact.state <> 3
$$;
