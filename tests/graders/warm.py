"""Reads sources, one JSON string a line; examines each in a fork of a process that has torch; writes reports."""

import json
import os
import sys
import tempfile

sys.path.insert(0, sys.argv[1])
import neural_memory_probe as probe

probe.torch.set_num_threads(1)
for line in sys.stdin:
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        with tempfile.NamedTemporaryFile("w", suffix=".py", delete=False) as file:
            file.write(json.loads(line))
        os.dup2(2, 1)
        report = json.dumps(probe.examine(file.name)).encode()
        os.unlink(file.name)
        while report:
            report = report[os.write(theirs, report) :]
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        report = pipe.read()
    os.waitpid(pid, 0)
    sys.stdout.write(report.decode() + "\n")
    sys.stdout.flush()
