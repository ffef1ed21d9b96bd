-- A plan may have several subjects. One that was an operation of a single VM says
-- now where it goes.
CREATE TABLE plans (
    id     TEXT PRIMARY KEY,
    opened TEXT NOT NULL,
    doc    TEXT NOT NULL
) STRICT;

-- A VM is the subject of one plan at most, and no plan outlives its subjects.
CREATE TABLE subjects (
    vm   TEXT PRIMARY KEY REFERENCES vms (id) ON DELETE CASCADE,
    plan TEXT NOT NULL REFERENCES plans (id) ON DELETE CASCADE
) STRICT;
CREATE INDEX subjects_plan ON subjects (plan);

-- Once, that a VM was to start again was written as an exit by "reboot" of a VM
-- that stops or is stopped. A stop whose guest rebooted is a restart therefore.
-- The kind of an operation nobody knows keeps its name and has no direction.
INSERT INTO plans (id, opened, doc)
SELECT json_extract(ops.doc, '$.id'), opened, json_set(json_remove(ops.doc, '$.vm'),
    '$.subjects', json_array(vm),
    '$.kind', CASE WHEN again THEN 'restart' ELSE kind END,
    '$.direction', CASE
        WHEN again OR kind = 'restart' THEN 'again'
        WHEN kind IN ('stop', 'delete') THEN 'forward'
        WHEN kind IN ('create', 'start') THEN 'back'
        ELSE '' END)
FROM ops
JOIN (SELECT vm AS id, json_extract(ops.doc, '$.kind') AS kind,
        json_extract(ops.doc, '$.kind') = 'stop' AND json_extract(vms.doc, '$.exit.kind') IS 'reboot' AS again
    FROM ops JOIN vms ON vms.id = vm) AS meant ON meant.id = vm;
INSERT INTO subjects SELECT vm, json_extract(doc, '$.id') FROM ops;

-- So is a VM that is stopped, has no operation and ended so. No operation had
-- this id: it is the VM's own.
INSERT INTO plans (id, opened, doc)
SELECT id, created, json_patch(
    json_object('id', id, 'subjects', json_array(id), 'kind', 'restart', 'direction', 'again', 'begun', json_array(),
        'opened', COALESCE(json_extract(doc, '$.stopped'), created)),
    CASE WHEN json_extract(doc, '$.exit.cold') THEN '{"cold":true}' ELSE '{}' END)
FROM vms
WHERE state = 'stopped' AND json_extract(doc, '$.exit.kind') = 'reboot' AND id NOT IN (SELECT vm FROM ops);
INSERT INTO subjects SELECT id, id FROM plans WHERE id IN (SELECT id FROM vms);

-- What a user's restart ended says again how it ended. Its exit's words were
-- "restart was asked for; " and then what a person is told of an end.
UPDATE vms SET doc = json_set(doc, '$.exit.kind', told.kind, '$.exit.detail', substr(rest, length(told.words) + 3))
FROM (SELECT id AS vm, substr(json_extract(doc, '$.exit.detail'), length('restart was asked for; ') + 1) AS rest FROM vms
        WHERE json_extract(doc, '$.exit.kind') = 'reboot' AND json_extract(doc, '$.exit.detail') LIKE 'restart was asked for; %') AS forged
    JOIN (SELECT 'guest powered off' AS words, 'poweroff' AS kind
        UNION ALL SELECT 'guest rebooted', 'reboot'
        UNION ALL SELECT 'guest halted', 'halt'
        UNION ALL SELECT 'kernel panic', 'panic'
        UNION ALL SELECT 'killed', 'killed'
        UNION ALL SELECT 'hypervisor failed', 'failed'
        UNION ALL SELECT 'ended unseen', 'unknown') AS told ON forged.rest LIKE told.words || '%'
WHERE vms.id = forged.vm;
UPDATE vms SET doc = json_remove(doc, '$.exit.cold') WHERE json_extract(doc, '$.exit.cold') IS NOT NULL;

DROP TABLE ops;
