"""No source file over 800 lines; no tab-less Makefile surprises; no file of ours that names nothing at its top."""
import pathlib
import subprocess
import sys

LIMIT = 800
files = subprocess.run(["git", "ls-files", "*.c", "*.h", "*.lua", "*.py", "*.sh"], capture_output=True, text=True, check=True).stdout.split()
problems = []
for name in files:
    path = pathlib.Path(name)
    if not path.exists():
        continue
    lines = path.read_text().splitlines()
    if len(lines) > LIMIT:
        problems.append(f"{name}: {len(lines)} lines, more than {LIMIT}")
    if path.suffix in (".c", ".h") and lines and not lines[0].startswith("/*"):
        problems.append(f"{name}: does not open with a comment that says what it is for")
    for number, line in enumerate(lines, 1):
        if line.rstrip() != line:
            problems.append(f"{name}:{number}: space at the end of the line")
print("\n".join(problems) or "sizes: clean")
sys.exit(1 if problems else 0)
