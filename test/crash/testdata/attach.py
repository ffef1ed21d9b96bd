# A client that follows a command while daemons are killed. It goes on at the next one,
# from the bytes it has.
import http.client
import json
import os
import signal
import subprocess
import sys

from banger import Banger, Error

socket, vm, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
banger = Banger(socket)
script = "i=0; while [ $i -lt 600 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; echo done >&2; exit 5"
cmd = banger.call("POST", f"/vms/{vm}/commands", {"argv": ["sh", "-c", script]})
out, err, daemons = "", "", set()
while cmd["running"]:
    try:
        daemon = banger.call("GET", "/version")["pid"]
        daemons.add(daemon)
        path = f"/vms/{vm}/commands/{cmd['id'][:8]}/output?follow=true&stdout={len(out)}&stderr={len(err)}"
        for line in banger.request("GET", path):
            line = json.loads(line)
            if "error" in line:
                raise Error(line["error"])
            if "result" in line:
                cmd = line["result"]
                break
            piece = line["output"]
            have = out if piece["stream"] == "stdout" else err
            assert piece["offset"] == len(have) and "lost" not in piece, (piece, len(have))
            if piece["stream"] == "stdout":
                out += piece["data"]
            else:
                err += piece["data"]
            if len(daemons) <= kills and len(out) > 400 * len(daemons):
                os.kill(daemon, signal.SIGKILL)
    except (OSError, http.client.HTTPException):
        subprocess.run(["banger", "ps"], check=True, stdout=subprocess.DEVNULL)  # starts the next daemon
assert out == "".join(f"line {i}\n" for i in range(600)), out
assert err == "done\n" and cmd["exit"] == 5, (err, cmd)
assert len(daemons) == kills + 1, daemons

# Later, all of it is still there, and the command in the list.
assert [c["exit"] for c in banger.call("GET", f"/vms/{vm}/commands")["results"] if c["id"] == cmd["id"]] == [5]
again = []
for line in banger.request("GET", f"/vms/{vm}/commands/{cmd['id']}/output"):
    again.append(json.loads(line))
assert "".join(l["output"]["data"] for l in again if "output" in l and l["output"]["stream"] == "stdout") == out
banger.call("DELETE", f"/vms/{vm}/commands/{cmd['id']}")
print(f"{len(daemons)} daemons")
