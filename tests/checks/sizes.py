"""No source file over 800 lines, no tab, no line over 180 columns (tests: 220), no C or Go file that does not say at its top what it is for."""
import pathlib
import subprocess
import sys

LIMIT = 800
files = subprocess.run(["git", "ls-files", "*.c", "*.h", "*.lua", "*.py", "*.sh", "*.go"], capture_output=True, text=True, check=True).stdout.split()
problems = []
for name in files:
    path = pathlib.Path(name)
    if not path.exists():
        continue
    lines = path.read_text().splitlines()
    if len(lines) > LIMIT:
        problems.append(f"{name}: {len(lines)} lines, more than {LIMIT}")
    opening = {".c": "/*", ".h": "/*", ".go": "// "}.get(path.suffix, "")
    if lines and not lines[0].startswith(opening):
        problems.append(f"{name}: does not open with a comment that says what it is for")
    width = 220 if name.startswith(("tests/", "spec/")) else 180
    for number, line in enumerate(lines, 1):
        if path.suffix not in (".sh", ".go") and "\t" in line:
            problems.append(f"{name}:{number}: a tab")
        if path.suffix != ".sh" and len(line) > width:
            problems.append(f"{name}:{number}: {len(line)} columns, more than {width}")
        if line.rstrip() != line:
            problems.append(f"{name}:{number}: space at the end of the line")
print("\n".join(problems) or "sizes: clean")
sys.exit(1 if problems else 0)
