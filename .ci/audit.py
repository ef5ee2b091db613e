"""Known vulnerabilities of what requirements/*.lock names, by pip-audit. Status 77 and the reason where no database can be reached."""

import json
import subprocess
import sys
from pathlib import Path

LOCKS = sorted(Path("requirements").glob("*.lock"))


def main() -> None:
    reasons = []
    for service in ("pypi", "osv"):
        words = [
            sys.executable,
            "-m",
            "pip_audit",
            "--disable-pip",
            "--no-deps",
            "--require-hashes",
            "--format",
            "json",
        ]
        words += ["--progress-spinner", "off", "--timeout", "15", "--vulnerability-service", service]
        words += [word for lock in LOCKS for word in ("--requirement", str(lock))]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=180)
            rows = json.loads(done.stdout)["dependencies"]
        except subprocess.TimeoutExpired:
            reasons.append(f"{service}: no answer within 180 s")
            continue
        except (ValueError, LookupError):
            last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
            # Names of hosts are of no use to the reader of a log, and may be private.
            reasons.append(f"{service}: {last[0].partition(':')[0][:100] if last else f'status {done.returncode}'}")
            continue
        looked_up = [row for row in rows if "skip_reason" not in row]
        found = [(row, fault) for row in looked_up for fault in row["vulns"]]
        for row, fault in found:
            print(
                f"{row['name']} {row['version']}: {fault['id']}, fixed in {', '.join(fault['fix_versions']) or 'no release'}"
            )
        if found:
            sys.exit(1)
        if looked_up:
            print(f"{len(looked_up)} of {len(rows)} packages looked up by {service}: no known vulnerability")
            return
        reasons.append(f"{service}: knows none of the {len(rows)} packages, as where an index has no database")
    print(f"skipped, no database of vulnerabilities can be reached; {'; '.join(reasons)}")
    sys.exit(77)


main()
