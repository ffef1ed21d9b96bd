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

PRAGMA user_version=1;
INSERT INTO images VALUES('debian-12','e4fa8d7247ff','{"id":"e4fa8d7247ff","name":"debian-12","size":402698240,"entries":10608,"source":"debian-12.tar","created":"2026-11-24T12:17:22.470007192Z"}');
INSERT INTO kernels VALUES('03a6c46371fb','2026-11-24T12:16:42.125256058Z','{"id":"03a6c46371fb","name":"debian-12-cloud","version":"6.1.0-50-cloud-amd64","source":"linux-image-6.1.0-50-cloud-amd64 6.1.176-1 sha256:efe19f605b6f54a8352e68d85a629abb2d30b72a085faef603a9152590baa791","created":"2026-11-24T12:16:42.125256058Z"}');
INSERT INTO vms VALUES('56ac692ca05f','web','running','e4fa8d7247ff','03a6c46371fb','2026-11-24T12:17:22.484220657Z','{"id":"56ac692ca05f","spec":{"name":"web","image":"debian-12","kernel":"debian-12-cloud","vcpu":2,"memory_mib":256,"disk_mib":10240,"net":"user","hypervisor":"qemu"},"state":"running","image_id":"e4fa8d7247ff","kernel_id":"03a6c46371fb","boots":1,"created":"2026-11-24T12:17:22.484220657Z","started":"2026-11-24T12:17:42.417558266Z","held":{"vmm":{"pid":26840,"start_time":551072,"boot_id":"aabfdc2b-744b-4214-a4dd-db82f2c35240"},"shim":{"pid":26831,"start_time":551070,"boot_id":"aabfdc2b-744b-4214-a4dd-db82f2c35240"},"ram_file":"/dev/shm/banger-56ac692ca05f.ram"}}');
INSERT INTO vms VALUES('1f69876e1604','db','creating','e4fa8d7247ff','03a6c46371fb','2026-11-24T12:17:42.440527388Z','{"id":"1f69876e1604","spec":{"name":"db","image":"debian-12","kernel":"debian-12-cloud","vcpu":2,"memory_mib":1024,"disk_mib":10240,"net":"user","hypervisor":"qemu"},"state":"creating","image_id":"e4fa8d7247ff","kernel_id":"03a6c46371fb","boots":0,"created":"2026-11-24T12:17:42.440527388Z"}');
INSERT INTO ops VALUES('1f69876e1604','2026-11-24T12:17:42.440527388Z','{"id":"736e90a34d76","vm":"1f69876e1604","kind":"create","begun":["directory","disk"],"opened":"2026-11-24T12:17:42.440527388Z"}');
