-- Every node hears of signed-out devices by itself.
-- depends: 0071-bounded-reads 0021-standing
--
-- The node that was asked tells the others. Should it die between its commit and that, or not reach
-- one of them, or should the device be opening just then, the session would live on until its stream
-- ended. Now the account is among those that changed, of which each node looks every two seconds.

-- Forgets devices (NULL = all of the account) and remembers their ids as signed out.
CREATE OR REPLACE FUNCTION chat.sign_out_1(p_account bigint, p_device_ids text[])
RETURNS TABLE (device_id text, session_node bigint) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_gone integer;
BEGIN
  PERFORM FROM chat.timeline_head h WHERE h.account = p_account FOR NO KEY UPDATE;
  RETURN QUERY
  WITH locked AS (
    SELECT d.device_id FROM chat.device d
    WHERE d.account = p_account AND (p_device_ids IS NULL OR d.device_id = ANY (p_device_ids))
    ORDER BY d.device_id FOR UPDATE
  ), gone AS (
    DELETE FROM chat.device d USING locked l
    WHERE d.account = p_account AND d.device_id = l.device_id
    RETURNING d.device_id, d.session_node
  ), noted AS (
    INSERT INTO chat.signed_out_device SELECT p_account, g.device_id, chat.now_ms() FROM gone g
    ON CONFLICT DO NOTHING
  )
  SELECT g.device_id, g.session_node FROM gone g;
  GET DIAGNOSTICS v_gone = ROW_COUNT;
  UPDATE chat.timeline_head h SET devices = h.devices - v_gone,
    account_version = h.account_version + 1
  WHERE h.account = p_account AND v_gone > 0;
  UPDATE chat.account a SET standing_changed_at_ms = chat.now_ms()
  WHERE a.id = p_account AND v_gone > 0;
END $$;
