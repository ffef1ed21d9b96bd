# A client of the standard library alone, on what docs/client.md makes: it does what a
# program does with a VM. It says nothing unless something is wrong.
import io
import sys
import tarfile

from banger import Banger, Error

banger = Banger(sys.argv[1])
scratch = sys.argv[2]  # a directory of the guest's


def refused(code, *request):
    try:
        banger.call(*request)
    except Error as e:
        assert e.code == code, (e.code, e)
    else:
        raise AssertionError(f"{request} was not refused")


# Create, with progress.
stages = []
vm = banger.lines("POST", "/vms", {"spec": {"name": "py", "memory_mib": 256}, "start": True}, lambda e: stages.append(e["stage"]))
assert vm["state"] == "running" and vm["spec"]["name"] == "py", vm
assert "spec" in stages, stages
refused("conflict", "POST", "/vms", {"spec": {"name": "py"}})
refused("invalid", "POST", "/vms", {"spec": {"cpus": 2}})

# Run a command: its input, both outputs, its status; one that takes too long.
done = banger.call("POST", "/vms/py/exec", {"argv": ["sh", "-c", "cat; echo err >&2; exit 3"], "stdin": "in"})
assert (done["stdout"], done["stderr"], done["exit"]) == ("in", "err\n", 3), done
done = banger.call("POST", "/vms/py/exec", {"argv": ["sleep", "600"], "timeout_ms": 100})
assert done["exit"] == 124 and done["timed_out"], done

# Put files in, look at them there, get them out.
data = io.BytesIO()
with tarfile.open(fileobj=data, mode="w") as tar:
    member = tarfile.TarInfo("sub/file")
    member.size = 100000
    tar.addfile(member, io.BytesIO(b"x" * member.size))
data.seek(0)
assert banger.call("PUT", f"/vms/py/files?path={scratch}/in", data) is None
done = banger.call("POST", "/vms/py/exec", {"argv": ["wc", "-c", scratch + "/in/sub/file"]})
assert done["stdout"].split()[0] == "100000", done
with tarfile.open(fileobj=banger.request("GET", f"/vms/py/files?path={scratch}/in/."), mode="r|") as tar:
    sizes = {member.name: member.size for member in tar if member.isfile()}
assert list(sizes.values()) == [100000], sizes
refused("not_found", "GET", f"/vms/py/files?path={scratch}/nosuch")

# What happened is told, as it happens too.
seen = []
banger.lines("GET", "/events", event=lambda e: seen.append((e.get("name"), e["stage"])))
assert ("py", "running") in seen, seen
follow = banger.request("GET", "/events?follow=true")

banger.call("DELETE", "/vms/py")
refused("not_found", "GET", "/vms/py")
assert any(b'"deleted"' in line for line in follow)
