#!/usr/bin/env bash
# Builds what tests/cluster runs on, once: the control plane with its node agent, the container launcher and kubectl, all from one version of Kubernetes.
# They lie in a cache outside the tree, under a hash of their sources; the folder's name is the last line printed. Needs Go 1.26.
set -euo pipefail
cd "$(dirname "$0")/controlplane"
say() { echo "tests/cluster/build.sh: $*" >&2; }

command -v go >/dev/null || { say "Go is missing: it needs Go 1.26 or newer (https://go.dev/dl)"; exit 1; }
have=$(GOTOOLCHAIN=local go env GOVERSION)
[ "$(printf '%s\n' go1.26 "$have" | sort -V | head -n1)" = go1.26 ] || { say "Go is too old: it needs Go 1.26 or newer, this is $have"; exit 1; }

sources=$(find . -type f \( -name '*.go' -o -name go.mod -o -name go.sum \) | LC_ALL=C sort)
hash=$(echo "$sources" | xargs sha256sum | cat - ../build.sh | sha256sum | cut -c1-16)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/moongate/cluster
target=$cache/$hash
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
# Those that nobody has used for two weeks go: each is 200 MB.
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime +14 -exec rm -rf {} +
if [ ! -d "$target" ]; then
  version=$(sed -n 's/^\tk8s.io\/kubernetes \(v[^ ]*\)$/\1/p' go.mod)
  minor=${version#v1.} minor=${minor%%.*}
  say "building Kubernetes $version for the tests into $target: five minutes of two cores the first time, seconds after a change"
  part=$(mktemp -d "$cache/.part-XXXXXX")
  trap 'rm -rf "$part"' EXIT
  base=k8s.io/component-base/version
  flags="-s -w -X $base.gitVersion=$version -X $base.gitMajor=1 -X $base.gitMinor=$minor"
  SECONDS=0
  export GOTOOLCHAIN=local GOFLAGS=-buildvcs=false
  nice go build -ldflags "$flags" -o "$part/controlplane" .
  nice go build -ldflags "$flags" -o "$part/kubectl" k8s.io/kubernetes/cmd/kubectl
  CGO_ENABLED=0 nice go build -ldflags "-s -w" -o "$part/launch" ./launch
  chmod 755 "$part"
  mv "$part" "$target"
  say "built in $SECONDS s"
fi
touch "$target"
echo "$target"
