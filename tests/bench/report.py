# SPDX-License-Identifier: LGPL-2.1-or-later
# Copyright (C) 2026 The virt-snapfs authors
"""What was measured, as text while it goes, and as JSON and a picture at the end.

rows    one contender at one task: medians, and how it stands to the raw file and to virt-snapfs in the same round
goals   what has to be reached, the figure, met or missed
curves  the same question with more and more of something: flat, or linear, as it was designed to be
"""
import json
import math
import os
import platform
import re
import subprocess
from html import escape

from serve import MIB, median, ratio

FLAT, LINEAR = "flat", "linear"
HEAD = "%-4s%-26s %9s %8s %8s %8s %9s %8s" % ("", "", "wall ms", "MiB/s", "of raw", "ours is", "CPU ms", "peak MiB")
COLOURS = {"raw file": "#9aa5b1", "virt-snapfs": "#1f6feb", "now/": "#1f6feb"}


def version(*argv):
    try:
        out = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    except OSError:
        return "missing"
    m = re.search(r"\d+\.\d+(\.\d+)*", out)
    return m.group(0) if m else "?"


def machine():
    with open("/proc/cpuinfo") as f:
        model = re.search(r"model name\s*: (.*)", f.read())
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "cpu": model.group(1) if model else platform.machine(),
            "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB, "qemu": version("qemu-img", "--version"),
            "nbdcopy": version("nbdcopy", "--version"), "fio": version("fio", "--version")}


class Report:
    def __init__(self, quick, rounds):
        self.data = {"machine": machine(), "quick": quick, "rounds": rounds, "missing": [], "rows": [], "goals": [], "curves": []}

    def task(self, title, passing, cache, got, size=0):
        """@got: {contender: runs}, in turn. @passing: which pass it is; @cache: warm or cold is the page cache of the images."""
        print("\n%s (%s, page cache %s)\n%s" % (title, passing, cache, HEAD))
        raw, ours = got.get("raw file"), next((got[n] for n in got if n.startswith("virt-snapfs")), None)
        for name, runs in got.items():
            row = {"task": title, "pass": passing, "cache": cache, "contender": name, "wall_s": median(runs), "cpu_s": median(runs, "cpu"),
                   "peak_mib": median(runs, "peak"), "least_s": min(r.wall for r in runs), "runs": len(runs), "bytes": size,
                   "of_raw_speed": ratio(raw, runs) if raw else None, "raw_cpu": ratio(runs, raw, "cpu") if raw else None,
                   "ours_is": ratio(runs, ours) if ours else None}
            self.data["rows"].append(row)
            print("%-4s%-26s %9.4g %8.0f %8s %8s %9.4g %8s" % (
                "", name, 1000 * row["wall_s"], size / MIB / row["wall_s"], "%.2f" % row["of_raw_speed"] if raw else "-",
                "%.2f" % row["ours_is"] if ours and not name.startswith("virt-snapfs") else "-", 1000 * row["cpu_s"],
                "%.0f" % row["peak_mib"] if row["peak_mib"] else "-"), flush=True)

    def goal(self, number, what, want, figure, unit="", met=None):
        """@want: ">= 0.65" or "<= 1.6". A figure that is None could not be had. @met: whether it is, where more than the figure decides."""
        op, limit = want.split()
        if met is None and figure is not None:
            met = {">=": figure >= float(limit), "<=": figure <= float(limit), "<": figure < float(limit)}[op]
        self.data["goals"].append({"goal": number, "what": what, "want": want, "figure": figure, "unit": unit, "met": met})

    @staticmethod
    def shown(figure):
        return "-" if figure is None else "%.3g" % figure if figure < 100 else "%.0f" % figure

    def curve(self, what, of, xs, ys, unit, design):
        """Flat: the last is at most half as much again as the first, or differs by less than can be told. Linear: not more than in proportion."""
        grown, times = ys[-1] / max(ys[0], 1e-9), xs[-1] / xs[0]
        good = grown <= 1.5 or ys[-1] - ys[0] < {"ms": 1.0, "MiB": 4.0}.get(unit, 0) if design == FLAT else grown <= 1.2 * times
        self.data["curves"].append({"what": what, "of": of, "x": xs, "y": ys, "unit": unit, "design": design, "as_designed": good})

    def summary(self):
        goals = self.data["goals"]
        print("\n%-4s %-68s %9s %9s" % ("GOAL", "", "WANTED", "FIGURE"))
        for g in goals:
            print("%-4s %-68s %9s %9s  %s" % (g["goal"], g["what"], g["want"], (self.shown(g["figure"]) + " " + g["unit"]).strip(),
                                              {None: "not measured", True: "met", False: "missed"}[g["met"]]))
        print("\n%-62s %9s %9s" % ("CURVE", "DESIGN", "GROWTH"))
        for c in self.data["curves"]:
            points = " ".join("%s:%s" % (x, self.shown(y)) for x, y in zip(c["x"], c["y"]))
            print("%-62s %9s %9s  %s (%s %s)" % ("%s by %s" % (c["what"], c["of"]), c["design"], "x %.2f" % (c["y"][-1] / max(c["y"][0], 1e-9)),
                                                 "as designed" if c["as_designed"] else "NOT as designed", points, c["unit"]))
        if self.data["missing"]:
            print("missing, and so not among the contenders: " + ", ".join(self.data["missing"]))
        print("%d goals met, %d missed, %d not measured" % tuple(sum(g["met"] is m for g in goals) for m in (True, False, None)))

    def save(self, path):
        with open(path + ".json", "w") as f:
            json.dump(self.data, f, indent=1)
        with open(path + ".svg", "w") as f:
            f.write(self.svg())
        with open(path + ".md", "w") as f:
            f.write(self.table())

    def table(self):
        """The goals, for README."""
        return "| | | wanted | figure | |\n|---|---|---|---|---|\n" + "".join("| %s | %s | %s | %s %s | %s |\n" % (
            g["goal"], g["what"], g["want"], self.shown(g["figure"]), g["unit"], {None: "not measured", True: "met", False: "**missed**"}[g["met"]])
            for g in self.data["goals"])

    # ------------------------------------------------------------ the picture

    def bars(self, y):
        """One bar a contender, as long as it is fast beside the fastest; groups by task. Returns what is drawn, and where it ends."""
        out, tasks = [], {}
        for row in self.data["rows"]:
            if not row["contender"].startswith("chain"):
                tasks.setdefault((row["task"], row["pass"], row["cache"]), []).append(row)
        for (task, passing, cache), rows in tasks.items():
            if len(rows) < 2:
                continue
            best = min(r["wall_s"] for r in rows)
            base = next((r for r in rows if r["contender"] == "raw file"), rows[0])
            out.append('<text x="12" y="%d" class="t">%s</text><text x="788" y="%d" class="n" text-anchor="end">%s, page cache %s</text>' % (
                y, escape(task), y, escape(passing), cache))
            for row in rows:
                y += 17
                width = max(1.5, 430 * best / row["wall_s"])
                colour = COLOURS.get(row["contender"].split(" (")[0], "#d29922")
                out.append('<text x="222" y="%d" class="n" text-anchor="end">%s</text><rect x="230" y="%d" width="%.1f" height="12" rx="2" fill="%s"/>'
                           '<text x="%.1f" y="%d" class="n">%.2f</text>' % (y, escape(row["contender"]), y - 10, width, colour, 236 + width, y,
                                                                        base["wall_s"] / row["wall_s"]))
            y += 31
        return out, y

    def lines(self, y):
        """A box a curve: from nothing to its highest point, over the logarithm of what there is more and more of."""
        out = []
        for i, c in enumerate(self.data["curves"]):
            left, top = 12 + i % 3 * 262, y + i // 3 * 92
            span, most = math.log(c["x"][-1] / c["x"][0]), max(c["y"]) or 1
            points = " ".join("%.1f,%.1f" % (left + 10 + 230 * math.log(x / c["x"][0]) / span, top + 72 - 34 * v / most) for x, v in zip(c["x"], c["y"]))
            out.append('<rect x="%d" y="%d" width="250" height="84" fill="#f6f8fa"/><text x="%d" y="%d" class="s">%s</text><text x="%d" y="%d" class="s">%s: %s</text>'
                       '<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%d" y="%d" class="s" text-anchor="end">%s → %s %s</text>' % (
                           left, top, left + 6, top + 13, escape(c["what"]), left + 6, top + 26, escape("%s %s to %s" % (c["of"], c["x"][0], c["x"][-1])),
                           c["design"], points, "#1f6feb" if c["as_designed"] else "#cf222e", left + 244, top + 82, self.shown(c["y"][0]),
                           self.shown(c["y"][-1]), c["unit"]))
        return out, y + (len(self.data["curves"]) + 2) // 3 * 92

    def svg(self):
        bars, y = self.bars(46)
        lines, y = self.lines(y - 8)
        m = self.data["machine"]
        head = "%d CPUs, kernel %s, QEMU %s; medians of %d rounds; numbers: speed beside the raw file's, or the first bar's" % (
            m["cpus"], m["kernel"].split("-")[0], m["qemu"], self.data["rounds"])
        return ('<!--\n SPDX-License-Identifier: LGPL-2.1-or-later\n Copyright (C) 2026 The virt-snapfs authors\n-->\n'
                '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 %d" font-family="sans-serif"><style>.t{font-size:13px;font-weight:bold}'
                '.n{font-size:11px;fill:#444}.s{font-size:10px;fill:#444}</style><rect width="800" height="%d" fill="#fff"/>'
                '<text x="12" y="22" class="n">%s</text>\n%s\n</svg>\n' % (y, y, escape(head), "\n".join(bars + lines)))
