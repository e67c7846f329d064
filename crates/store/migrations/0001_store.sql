-- Records, data keys and the audit log of a Belljar store. docs/broker-store.md says what they mean.

CREATE TABLE belljar_data_keys (
    id bigint PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    key_id text NOT NULL,
    wrapped bytea NOT NULL,
    created bigint NOT NULL,
    active boolean NOT NULL
);
CREATE INDEX belljar_data_keys_tenant ON belljar_data_keys (tenant);
-- A tenant seals with one key.
CREATE UNIQUE INDEX belljar_data_keys_active ON belljar_data_keys (tenant) WHERE active;

CREATE SEQUENCE belljar_revision AS bigint;

CREATE TABLE belljar_records (
    tenant text COLLATE "C" NOT NULL,
    kind smallint NOT NULL,
    key bytea NOT NULL,
    revision bigint NOT NULL,
    expires bigint,
    -- A data key that seals anything cannot go away.
    data_key bigint NOT NULL REFERENCES belljar_data_keys (id),
    value bytea NOT NULL,
    PRIMARY KEY (tenant, kind, key)
) WITH (fillfactor = 85);
-- Sealed values do not become shorter.
ALTER TABLE belljar_records ALTER COLUMN value SET STORAGE EXTERNAL;
CREATE INDEX belljar_records_expires ON belljar_records (expires, tenant, kind, key) WHERE expires IS NOT NULL;
CREATE INDEX belljar_records_data_key ON belljar_records (data_key);

-- An entry's hash is over the hash before it, its number and its body.
CREATE TABLE belljar_audit (
    tenant text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    hash bytea NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant, sequence)
);
CREATE TABLE belljar_audit_heads (
    tenant text COLLATE "C" PRIMARY KEY,
    sequence bigint NOT NULL,
    hash bytea NOT NULL
);
CREATE TABLE belljar_audit_checkpoints (
    tenant text COLLATE "C" NOT NULL,
    sequence bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant, sequence)
);

-- Keeps mistakes away from the log. Who owns the tables can take this away; the checkpoints then tell.
CREATE FUNCTION belljar_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER belljar_audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON belljar_audit
    FOR EACH STATEMENT EXECUTE FUNCTION belljar_append_only();
CREATE TRIGGER belljar_audit_checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON belljar_audit_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION belljar_append_only();

-- Locks records by the hashes of their names, which come sorted, so that nobody waits in a circle. Each statement after
-- this sees what the holder before committed; for that the transaction has to be READ COMMITTED.
CREATE FUNCTION belljar_lock(names bigint[], shared boolean[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    n integer;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the transaction is %, not read committed', current_setting('transaction_isolation');
    END IF;
    FOR n IN 1 .. coalesce(array_length(names, 1), 0) LOOP
        IF shared[n] THEN
            PERFORM pg_advisory_xact_lock_shared(names[n]);
        ELSE
            PERFORM pg_advisory_xact_lock(names[n]);
        END IF;
    END LOOP;
END
$$;

-- Appends bodies to the logs of their tenants, in order.
CREATE FUNCTION belljar_append(tenants text[], bodies bytea[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    log text;
    n integer;
    head_sequence bigint;
    head_hash bytea;
BEGIN
    FOR log IN SELECT DISTINCT t COLLATE "C" FROM unnest(tenants) AS t ORDER BY 1 LOOP
        INSERT INTO belljar_audit_heads VALUES
            (log, 0, sha256(convert_to('belljar audit log 1', 'UTF8') || '\x00'::bytea || convert_to(log, 'UTF8')))
            ON CONFLICT DO NOTHING;
        SELECT h.sequence, h.hash INTO head_sequence, head_hash FROM belljar_audit_heads h WHERE h.tenant = log FOR UPDATE;
        FOR n IN 1 .. array_length(tenants, 1) LOOP
            CONTINUE WHEN tenants[n] <> log;
            head_sequence := head_sequence + 1;
            head_hash := sha256(head_hash || int8send(head_sequence) || bodies[n]);
            INSERT INTO belljar_audit VALUES (log, head_sequence, head_hash, bodies[n]);
        END LOOP;
        UPDATE belljar_audit_heads h SET sequence = head_sequence, hash = head_hash WHERE h.tenant = log;
    END LOOP;
END
$$;

-- Applies a batch. Outcome 0: applied as this change. 1: the precondition `item` does not hold, the record
-- was seen in the revision `seen`. 2: a data key is not in use any more.
CREATE FUNCTION belljar_apply(
    lock_names bigint[], lock_shared boolean[],
    want_tenant text[], want_kind smallint[], want_key bytea[], want bigint[],
    put_tenant text[], put_kind smallint[], put_key bytea[], put_expires bigint[], put_data_key bigint[], put_value bytea[],
    delete_tenant text[], delete_kind smallint[], delete_key bytea[],
    audit_tenant text[], audit_body bytea[],
    notices text[], at bigint,
    OUT outcome smallint, OUT change bigint, OUT item integer, OUT seen bigint
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM belljar_lock(lock_names, lock_shared);
    -- Wanted is a revision, or -1 for an absent and -2 for any present record.
    SELECT w.n, r.revision INTO item, seen
        FROM unnest(want_tenant, want_kind, want_key, want) WITH ORDINALITY AS w (tenant, kind, key, want, n)
        LEFT JOIN belljar_records r ON r.tenant = w.tenant COLLATE "C" AND r.kind = w.kind AND r.key = w.key
            AND (r.expires IS NULL OR r.expires > at)
        WHERE NOT CASE w.want
            WHEN -1 THEN r.revision IS NULL
            WHEN -2 THEN r.revision IS NOT NULL
            ELSE r.revision IS NOT DISTINCT FROM w.want
        END
        ORDER BY w.n LIMIT 1;
    IF FOUND THEN
        outcome := 1;
        RETURN;
    END IF;
    IF EXISTS (
        SELECT FROM unnest(put_data_key) AS k
            WHERE NOT EXISTS (SELECT FROM belljar_data_keys d WHERE d.id = k AND d.active)
    ) THEN
        outcome := 2;
        RETURN;
    END IF;
    change := nextval('belljar_revision');
    INSERT INTO belljar_records AS r (tenant, kind, key, revision, expires, data_key, value)
        SELECT p.tenant, p.kind, p.key, change, p.expires, p.data_key, p.value
        FROM unnest(put_tenant, put_kind, put_key, put_expires, put_data_key, put_value)
            AS p (tenant, kind, key, expires, data_key, value)
        ON CONFLICT (tenant, kind, key) DO UPDATE SET
            revision = excluded.revision, expires = excluded.expires, data_key = excluded.data_key, value = excluded.value;
    DELETE FROM belljar_records r
        USING unnest(delete_tenant, delete_kind, delete_key) AS d (tenant, kind, key)
        WHERE r.tenant = d.tenant COLLATE "C" AND r.kind = d.kind AND r.key = d.key;
    IF audit_tenant <> '{}' THEN
        PERFORM belljar_append(audit_tenant, audit_body);
    END IF;
    PERFORM pg_notify('belljar_' || 'belljar_records'::regclass::oid, change || ' ' || n) FROM unnest(notices) AS n;
    outcome := 0;
END
$$;

-- Replaces sealed values of records that are still in the same revision and sealed with the same key; says how many.
CREATE FUNCTION belljar_reseal(
    lock_names bigint[], lock_shared boolean[],
    tenants text[], kinds smallint[], keys bytea[], revisions bigint[], old_keys bigint[], new_keys bigint[], sealed bytea[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    count bigint;
BEGIN
    PERFORM belljar_lock(lock_names, lock_shared);
    UPDATE belljar_records r SET data_key = s.new_key, value = s.value
        FROM unnest(tenants, kinds, keys, revisions, old_keys, new_keys, sealed)
            AS s (tenant, kind, key, revision, old_key, new_key, value)
        WHERE r.tenant = s.tenant COLLATE "C" AND r.kind = s.kind AND r.key = s.key
            AND r.revision = s.revision AND r.data_key = s.old_key;
    GET DIAGNOSTICS count = ROW_COUNT;
    RETURN count;
END
$$;

-- Makes a data key the one that its tenant seals with, when that is `replaces` now.
CREATE FUNCTION belljar_add_data_key(
    new_id bigint, of_tenant text, of_key_id text, as_wrapped bytea, at bigint, replaces bigint
) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    now_active bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('belljar data keys of ' || of_tenant, 0));
    SELECT id INTO now_active FROM belljar_data_keys WHERE tenant = of_tenant COLLATE "C" AND active;
    IF now_active IS DISTINCT FROM replaces OR EXISTS (SELECT FROM belljar_data_keys WHERE id = new_id) THEN
        RETURN false;
    END IF;
    UPDATE belljar_data_keys SET active = false WHERE id = now_active;
    INSERT INTO belljar_data_keys VALUES (new_id, of_tenant, of_key_id, as_wrapped, at, true);
    RETURN true;
END
$$;

-- Removes a data key that nothing is sealed with. 0: gone. 1: absent. 2: active. 3: in use.
CREATE FUNCTION belljar_retire(old_id bigint) RETURNS smallint LANGUAGE plpgsql AS $$
DECLARE
    is_active boolean;
BEGIN
    -- Waits for whoever is writing a value with this key.
    SELECT active INTO is_active FROM belljar_data_keys WHERE id = old_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 1;
    ELSIF is_active THEN
        RETURN 2;
    ELSIF EXISTS (SELECT FROM belljar_records WHERE data_key = old_id) THEN
        RETURN 3;
    END IF;
    DELETE FROM belljar_data_keys WHERE id = old_id;
    RETURN 0;
END
$$;
