-- Worker numbers and the windows of time reserved for them.

-- One row: how this deployment splits its ids. Two splits in one deployment would give equal ids,
-- so a sequencer with another split refuses to start.
CREATE TABLE sequencer.layout (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    time_bits integer NOT NULL,
    worker_bits integer NOT NULL,
    sequence_bits integer NOT NULL,
    epoch_ms bigint NOT NULL
);

-- One row per worker number. Every id of a worker lies in a window that was committed here before
-- the id was given; whoever takes the worker over begins at window_end_ms.
CREATE TABLE sequencer.worker (
    worker integer PRIMARY KEY CHECK (worker >= 0),
    -- ms since the Unix epoch; 0 = never used
    window_end_ms bigint NOT NULL DEFAULT 0,
    -- raised at each claim: a renewal names the epoch it holds
    epoch bigint NOT NULL DEFAULT 0,
    -- host:pid:random of the process that holds it; NULL = given back
    holder text,
    changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
