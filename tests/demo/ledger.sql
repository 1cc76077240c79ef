-- A real piece of work for sqlite3: a ledger of accounts and postings is made, indexed, changed, queried and packed.
-- Everything is derived from the row number, so the output is the same on every run.
CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, town TEXT NOT NULL);
CREATE TABLE posting (id INTEGER PRIMARY KEY, account INTEGER REFERENCES account, day TEXT, cents INTEGER, note TEXT);

WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 400)
INSERT INTO account SELECT i, printf('owner-%04d', (i * 7919) % 1000),
    CASE i % 5 WHEN 0 THEN 'Aachen' WHEN 1 THEN 'Bergen' WHEN 2 THEN 'Cork' WHEN 3 THEN 'Delft' ELSE 'Evora' END FROM n;

BEGIN;
WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
INSERT INTO posting SELECT i, 1 + (i * 104729) % 400, date('2026-01-01', (i % 365) || ' days'),
    ((i * 48271) % 200001) - 100000, hex(zeroblob(i % 29)) || '/' || ((i * 31) % 977) FROM n;
COMMIT;

CREATE INDEX posting_by_account ON posting (account, day);
CREATE INDEX posting_by_note ON posting (note);

SELECT town, count(*), sum(cents), min(day), max(day) FROM posting JOIN account ON account.id = posting.account
    GROUP BY town ORDER BY town;
SELECT owner, sum(cents) AS balance FROM posting JOIN account ON account.id = posting.account
    GROUP BY account.id ORDER BY balance DESC, owner LIMIT 10;

UPDATE posting SET note = upper(replace(note, '/', ':')) || printf('#%d', id) WHERE id % 3 = 0;
DELETE FROM posting WHERE cents BETWEEN -500 AND 500;
SELECT count(*), total(cents), sum(length(note)) FROM posting;

SELECT day, cents, sum(cents) OVER (PARTITION BY account ORDER BY day, id) AS running
    FROM posting WHERE account = 17 ORDER BY day, id LIMIT 12;

CREATE VIEW weekly AS SELECT strftime('%W', day) AS week, group_concat(DISTINCT account % 11) AS some, avg(cents) AS mean
    FROM posting GROUP BY week;
SELECT week, length(some), round(mean, 2) FROM weekly ORDER BY week LIMIT 8;
SELECT json_group_array(json_object('id', id, 'town', town)) FROM (SELECT id, town FROM account ORDER BY id LIMIT 6);
VACUUM;
PRAGMA integrity_check;
