#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""now.py URI MOUNTPOINT DOMAIN TARGET [TIMES]: how fast is now/TARGET.img of a running domain? It is read from one end to the other, and so is the very same
export, from the same socket, by nbdcopy (package libnbd-bin): in turn, so many times (5). The best of each counts, for others are at work on most machines."""
import os
import re
import subprocess
import sys

from serve import MIB, Way, dd, in_turn


def beside_nbdcopy(uri, file, domain, target, times):
    """{contender: runs}, of a file that is kept open meanwhile: that is what the export lives by."""
    kept = os.open(file, os.O_RDONLY)
    xml = subprocess.run(["virsh", "-q", "-c", uri, "backup-dumpxml", domain], check=True, capture_output=True, text=True).stdout
    socket = re.search("socket='(.*?)'", xml).group(1)
    got = in_turn(times, [Way("now/", file), Way("nbdcopy", argv=["nbdcopy", "nbd+unix:///%s?socket=%s" % (target, socket), "null:"])], dd)
    os.close(kept)
    return got


if __name__ == "__main__":
    if len(sys.argv) < 5:
        sys.exit(__doc__)
    url, mount, dom, disk = sys.argv[1:5]
    path = "%s/%s/now/%s.img" % (mount, dom, disk)
    best = {name: min(r.wall for r in runs) for name, runs in beside_nbdcopy(url, path, dom, disk, int((sys.argv[5:] or [5])[0])).items()}
    size = os.stat(path).st_size / MIB
    print("%d MiB: nbdcopy %d MiB/s, now/ %d MiB/s: %d %% of its speed" % (size, size / best["nbdcopy"], size / best["now/"], 100 * best["nbdcopy"] / best["now/"]))
