-- A VM is a document; the columns beside it exist to be constrained.
CREATE TABLE vms (
    id      TEXT PRIMARY KEY,
    name    TEXT NOT NULL,
    state   TEXT NOT NULL,
    image   TEXT NOT NULL,
    kernel  TEXT NOT NULL,
    created TEXT NOT NULL, -- RFC 3339 in UTC with nine digits, so that it sorts
    doc     TEXT NOT NULL
) STRICT;

-- Unique among the living: a VM that is going has given its name up.
CREATE UNIQUE INDEX vms_name ON vms (name) WHERE state <> 'deleting';
CREATE INDEX vms_image ON vms (image);

-- At most one operation is in flight on a VM, and none without its VM.
CREATE TABLE ops (
    vm     TEXT PRIMARY KEY REFERENCES vms (id) ON DELETE CASCADE,
    opened TEXT NOT NULL,
    doc    TEXT NOT NULL
) STRICT;

CREATE TABLE images (
    name TEXT PRIMARY KEY,
    id   TEXT NOT NULL,
    doc  TEXT NOT NULL
) STRICT;
CREATE INDEX images_id ON images (id);

CREATE TABLE kernels (
    id      TEXT PRIMARY KEY,
    created TEXT NOT NULL,
    doc     TEXT NOT NULL
) STRICT;
