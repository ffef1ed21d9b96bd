# What schemathesis doesn't know of our media types.
import io
import json
import tarfile

import schemathesis


@schemathesis.serializer("application/x-tar")
def tar(ctx, value):
    """A tar of one file that holds what was made up, or what was made up as it is."""
    if isinstance(value, bytes):
        return value
    data = json.dumps(value, default=str).encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        member = tarfile.TarInfo("made-up")
        member.size = len(data)
        t.addfile(member, io.BytesIO(data))
    return out.getvalue()


@schemathesis.deserializer("application/x-ndjson")
def lines(ctx, response):
    """The lines, which must end with a result or an error, and only with one."""
    found = [json.loads(line) for line in response.content.splitlines()]
    if ["event" in line for line in found] != [True] * (len(found) - 1) + [False]:
        raise ValueError(f"lines that don't end as they should: {response.content!r}")
    return found
