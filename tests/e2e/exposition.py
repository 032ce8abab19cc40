"""A strict reader of Prometheus' text format 0.0.4: what it does not accept, some scraper may refuse or misread.

It wants HELP and TYPE once in front of each family's lines, all lines of a family together, no series twice, and histograms that add up.
"""
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
TYPES = {"counter", "gauge", "histogram"}


class Family:
    def __init__(self, name, help_text):
        self.name, self.help, self.type, self.samples = name, help_text, None, {}

    def __iter__(self):
        return iter(self.samples.items())


def read_labels(text, line):
    labels, at = {}, 0
    while text and at < len(text):
        found = LABEL.match(text, at)
        assert found, f"bad labels: {line}"
        name, value = found.group(1), re.sub(r'\\(["\\n])', lambda escape: "\n" if escape.group(1) == "n" else escape.group(1), found.group(2))
        assert name not in labels, f"a label twice: {line}"
        labels[name] = value
        at = found.end()
        assert found.group(3) != "," or at < len(text), f"a comma at the end: {line}"
    return labels


def read_number(text, line):
    assert re.fullmatch(r"[+-]?(\d+(\.\d+)?([eE][+-]?\d+)?|Inf)|NaN", text), f"no number: {line}"
    return float(text)


def family_of(name, current):
    """The family that a sample belongs to must be the one whose TYPE stands above it."""
    if name == current.name:
        return current.type != "histogram"
    return current.type == "histogram" and name in (f"{current.name}_bucket", f"{current.name}_sum", f"{current.name}_count")


def check_histogram(family):
    series = {}
    for (name, labels), value in family:
        rest = tuple(pair for pair in labels if pair[0] != "le")
        series.setdefault(rest, {"buckets": []})
        if name.endswith("_bucket"):
            series[rest]["buckets"].append((float(dict(labels)["le"].replace("+Inf", "inf")), value))
        else:
            series[rest][name[len(family.name):]] = value
    for labels, one in series.items():
        bounds, counts = [bound for bound, _ in one["buckets"]], [count for _, count in one["buckets"]]
        assert bounds == sorted(set(bounds)) and bounds and bounds[-1] == float("inf"), (family.name, labels, bounds)
        assert counts == sorted(counts), (family.name, labels, counts)
        assert one["_count"] == counts[-1] and "_sum" in one, (family.name, labels, one)


def parse(text):
    """Families by name. Fails on what is not exactly as it should be."""
    assert text.endswith("\n") and "\r" not in text
    families, current = {}, None
    for line in text[:-1].split("\n"):
        if line.startswith("# HELP "):
            name, _, help_text = line[7:].partition(" ")
            assert re.fullmatch(NAME, name) and help_text and name not in families, line
            assert re.fullmatch(r"(?:[^\\]|\\\\|\\n)*", help_text), line
            assert current is None or current.type, f"no TYPE: {current.name}"
            current = families[name] = Family(name, help_text)
        elif line.startswith("# TYPE "):
            name, _, kind = line[7:].partition(" ")
            assert current and name == current.name and current.type is None and kind in TYPES, line
            current.type = kind
        else:
            found = SAMPLE.fullmatch(line)
            assert found and current and current.type, line
            name, labels = found.group(1), tuple(sorted(read_labels(found.group(2), line).items()))
            assert family_of(name, current), f"in another family's lines: {line}"
            assert (name, labels) not in current.samples, f"twice: {line}"
            current.samples[name, labels] = read_number(found.group(3), line)
    for family in families.values():
        assert family.samples, f"a family without a line: {family.name}"
        if family.type == "histogram":
            check_histogram(family)
        if family.type == "counter":
            assert all(value >= 0 for value in family.samples.values())
    return families


def pick(families, family, suffix="", **labels):
    """Samples of a family that have at least these labels: label dictionaries and values."""
    if family not in families:
        return []
    wanted = set(labels.items())
    return [(dict(found), value) for (name, found), value in families[family] if name == family + suffix and wanted <= set(found)]


def one(families, family, suffix="", **labels):
    """The value of the only such sample."""
    found = pick(families, family, suffix, **labels)
    assert len(found) == 1, (family, labels, found)
    return found[0][1]
