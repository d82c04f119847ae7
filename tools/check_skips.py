"""Fail where a skipped test is not one of those that may be skipped."""

import sys
import xml.etree.ElementTree as ET
from pathlib import Path


def main() -> None:
    report, allowed_file = map(Path, sys.argv[1:])
    lines = allowed_file.read_text(encoding="utf-8").splitlines()
    allowed = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    skipped = {
        f"{case.get('classname')}::{case.get('name')}"
        for case in ET.parse(report).iter("testcase")
        if case.find("skipped") is not None
    }
    if unexpected := sorted(skipped - allowed):
        sys.exit("skipped, and not in allowed_skips.txt: " + ", ".join(unexpected))
    print(f"{len(skipped)} tests skipped, all allowed")


if __name__ == "__main__":
    main()
