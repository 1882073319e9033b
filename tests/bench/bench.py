# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""The parts of the benchmark, in their order; run.sh starts this where nothing else is disturbed."""
import argparse
import os
import sys
import time
import traceback

import growing
import reading
from images import Images
from report import Report
from serve import Lab

PARTS = {"sequential": reading.sequential, "written": reading.written, "raw": reading.frozen_raw, "now": reading.now, "copied": reading.copied,
         "compressed": reading.compressed, "random": reading.at_random, "chains": reading.chains, "cold": reading.cold, "open": growing.large,
         "size": growing.virtual_size, "snapshots": growing.snapshots, "memory": growing.memory, "latency": reading.latency, "domains": growing.domains}

options = argparse.ArgumentParser(prog="tests/bench/run.sh")
options.add_argument("--quick", action="store_true", help="smaller images, and without domains: two minutes once the images are there")
options.add_argument("--rounds", type=int, default=5)
options.add_argument("--out", help="where FILE.json, FILE.svg and FILE.md go (last, in the cache)")
options.add_argument("--cache", help=argparse.SUPPRESS)
options.add_argument("--work", help=argparse.SUPPRESS)
options.add_argument("parts", nargs="*", metavar="PART", help=" ".join(PARTS))
asked = options.parse_args()
for part in asked.parts:
    if part not in PARTS:
        options.error("there is no part '%s'" % part)

begun = time.monotonic()
report, images = Report(asked.quick, asked.rounds), Images(asked.cache)
lab = Lab(asked.work, os.environ["SNAPFS"], asked.rounds)
lab.uri, lab.copy = os.environ.get("URI"), os.path.join(asked.work, "tmpfs", "copy")
failed, out = [], asked.out or os.path.join(asked.cache, "last")
for part in asked.parts or [p for p in PARTS if p != "domains" or not asked.quick]:
    at = time.monotonic()
    try:
        PARTS[part](lab, images, report, lambda full, quick: quick if asked.quick else full)
    except Exception:  # the other parts are worth having all the same
        traceback.print_exc(file=sys.stdout)
        failed.append(part)
    finally:
        lab.close()
    report.data["missing"], report.data["failed"] = sorted(lab.missing), failed
    report.save(out)
    print("# %s took %.0f s" % (part, time.monotonic() - at), flush=True)
report.summary()
print("%.0f s; figures and picture: %s.json, .svg, .md" % (time.monotonic() - begun, out))
if failed:
    sys.exit("these parts failed: " + " ".join(failed))
