"""How large the page of 500 images is, how long Chromium takes to open it, and what an accessibility checker says of it.

    python benchmarks/bench_page.py --data CIFAR10-TEST.parquet [--axe node_modules/axe-core/axe.min.js]

Needs Chromium; the run is that of the zoo in benchmarks/results/zoo. Writes benchmarks/results/page.json, and what the checker
finds only with --axe.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import diffsmooth_trt as dst
from diffsmooth_trt.report.gallery import look
from diffsmooth_trt.report.html import page
from diffsmooth_trt.report.tables import summarise

RESULTS = Path(__file__).resolve().parent / "results"
RUN = RESULTS / "zoo" / "dds-n1000.sqlite"
OPENED = 10
CHECK = """axe.run().then((found) => { const said = found.violations.map((each) => [each.impact, each.id, each.nodes.length]);
document.documentElement.dataset.axe = JSON.stringify(said); });"""


def opened(chromium: str, file: Path, *options: str, wait: int = 2500) -> tuple[str, str]:
    """The page's elements `wait` milliseconds later, and what the browser logs."""
    command = [
        chromium,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--timeout={wait}",
    ]
    command += [f"--user-data-dir={file.parent / 'profile'}", *options, "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--axe", type=Path)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("no Chromium here: install it")
    start = time.perf_counter()
    with dst.open_run(RUN) as store:
        summary = summarise(store)
        seen = look(store, summary, arguments.data)
    text = page([summary], None, [seen])
    document: dict[str, Any] = {
        "images": len(summary.images),
        "pictures": len(seen.pictures),
        "bytes": len(text.encode()),
    }
    document["made_in_seconds"] = round(time.perf_counter() - start, 2)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(text, encoding="utf-8")
        drawn, said = [], []
        for _ in range(OPENED):
            elements, log = opened(chromium, file)
            drawn.append(int(re.findall(r'data-drawn="(\d+)"', elements)[0]))
            said += re.findall("CONSOLE.*", log)
        document |= {"drawn_in_milliseconds": sorted(drawn), "console": said}
        if arguments.axe:
            checker = f"<script>{arguments.axe.read_text(encoding='utf-8')}\n{CHECK}</script>"
            file.write_text(text.replace("</body>", f"{checker}</body>"), encoding="utf-8")
            document["axe"] = {"file": re.findall(r"axe v([\d.]+)", checker)[0]}
            for name, options in (("light", ()), ("dark", ("--force-dark-mode",))):
                elements, _ = opened(chromium, file, *options, wait=15_000)
                document["axe"][name] = json.loads(html.unescape(re.findall(r'data-axe="([^"]*)"', elements)[0]))
    version = subprocess.run([chromium, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    document |= {"browser": version, "processors": os.cpu_count(), "machine": platform.machine()}
    (RESULTS / "page.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
