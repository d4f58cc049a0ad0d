-- What came back while an account was being erased goes with its name.
-- depends: 0022-erasure
--
-- A first message to an account makes its direct conversation and the two contacts before the commit
-- refuses it, and a node that has not heard yet may let a device in. Such a row kept the account's own
-- row for good: everybody who wrote to it could stop its erasure.

CREATE OR REPLACE FUNCTION chat.erase_account_1(p_account bigint, p_actor text) RETURNS void
LANGUAGE plpgsql VOLATILE SET lock_timeout = '5s' AS $$
DECLARE
  a record;
BEGIN
  PERFORM chat.erase_members_1(p_account, 1000);
  PERFORM chat.erase_relations_1(p_account);
  -- after this lock nothing refers to the row any more: a contact that is being made is waited for
  PERFORM FROM chat.account x WHERE x.id = p_account FOR UPDATE;
  DELETE FROM chat.contact c WHERE c.owner = p_account OR c.other = p_account;
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
