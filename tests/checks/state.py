"""No file-scope state that can change outside core/app: it would be shared by the workers. Reads the objects of the dev build."""
import pathlib
import subprocess
import sys

KNOWN = {"core/base/check.o": {"dump_hook", "dump_started"}}  # must() has no argument to carry them
MUTABLE = (".data", ".bss", ".tdata", ".tbss", "*COM*")  # .data.rel.ro and .rodata are constant

root = pathlib.Path("build/dev/obj")
sources = [path for path in sorted(pathlib.Path("core").glob("*/*.c")) if path.parent.name != "app"]
problems = []
for source in sources:
    name = str(source.with_suffix(".o"))
    if not (root / name).exists():
        problems.append(f"{name}: not built (make dev)")
        continue
    for line in subprocess.run(["nm", "-f", "sysv", root / name], capture_output=True, text=True, check=True).stdout.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) < 7 or fields[3] not in ("OBJECT", "TLS"):
            continue
        section = fields[6]
        is_mutable = section in MUTABLE or (section.startswith((".data.", ".bss.")) and not section.startswith(".data.rel.ro"))
        if is_mutable and not fields[0].startswith((".L", "__asan", "__ubsan", "__odr")) and fields[0] not in KNOWN.get(name, ()):
            problems.append(f"{name}: {fields[0]} in {section}")
print("\n".join(problems) or f"state: none in {len(sources)} files")
sys.exit(1 if problems else 0)
