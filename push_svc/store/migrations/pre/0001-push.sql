-- Schema of push_svc: who can be reached how, who must still be told, what was told.

-- One row per device that can be pushed.
CREATE TABLE push.push_token (
    account_id bigint NOT NULL,
    device_id text NOT NULL,
    -- number of chatmesh.v1.PushProvider
    provider smallint NOT NULL,
    token text NOT NULL,
    -- digest of provider and token: a token belongs to one device at a time
    token_key bytea NOT NULL,
    app text NOT NULL,
    locale text NOT NULL,
    -- number of chatmesh.v1.PushPrivacy; 0 = the deployment's default
    privacy smallint NOT NULL,
    -- newest position that a visible notification has told of
    pushed_seq bigint NOT NULL DEFAULT 0,
    -- position up to which the device was told to take notifications away
    dismissed_seq bigint NOT NULL DEFAULT 0,
    -- badge told last; -1 = none yet
    badge bigint NOT NULL DEFAULT -1,
    bound_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, device_id)
) WITH (fillfactor = 70);

CREATE UNIQUE INDEX push_token_key ON push.push_token (token_key);

-- One row per device that must be told of something, or be found not to need it. The row is the
-- promise: it is deleted only when the outcome is known.
CREATE TABLE push.push_job (
    account_id bigint NOT NULL,
    device_id text NOT NULL,
    -- position to be told of; 0 = only a dismissal
    timeline_seq bigint NOT NULL,
    -- position up to which the user has read elsewhere; 0 = nothing to dismiss
    dismiss_seq bigint NOT NULL DEFAULT 0,
    -- of the message at timeline_seq, for traces and logs
    message_id bigint NOT NULL DEFAULT 0,
    -- W3C trace context, 25 bytes; empty = not sampled
    trace bytea NOT NULL DEFAULT '',
    due_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- attempts begun since the position was last raised to a new one
    attempt integer NOT NULL DEFAULT 0,
    -- raised by each claim: the result of an older claim does not count
    claim bigint NOT NULL DEFAULT 0,
    -- NULL = not claimed; in the past = whoever claimed it has died
    claimed_until timestamptz,
    PRIMARY KEY (account_id, device_id)
) WITH (fillfactor = 70);

CREATE INDEX push_job_due ON push.push_job (due_at);

-- A bounded record of what became of jobs, for operators; title and body only of provider `log`.
CREATE TABLE push.push_log (
    push_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL,
    device_id text NOT NULL,
    provider smallint NOT NULL,
    timeline_seq bigint NOT NULL,
    message_id bigint NOT NULL,
    sent_at timestamptz NOT NULL DEFAULT now(),
    -- sent, retrying, failed, void
    outcome text NOT NULL,
    visible boolean NOT NULL,
    title text NOT NULL,
    body text NOT NULL,
    attempt integer NOT NULL
);

CREATE INDEX push_log_account ON push.push_log (account_id, push_id DESC);

-- What could not be handled, with its reason. Bounded; retried by hand.
CREATE TABLE push.dead_letter (
    dead_letter_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- sync, push
    origin text NOT NULL,
    account_id bigint NOT NULL,
    -- only this device; empty = all
    device_id text NOT NULL DEFAULT '',
    timeline_seq bigint NOT NULL,
    reason text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    payload bytea NOT NULL
);
