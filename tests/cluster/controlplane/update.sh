#!/usr/bin/env bash
# Writes go.mod for another version of Kubernetes: update.sh v1.X.Y. Its staging modules are replaced by their published v0.X.Y, its etcd is taken.
set -euo pipefail
cd "$(dirname "$0")"
version=$1 staging=v0.${1#v1.}
upstream=$(go mod download -json "k8s.io/kubernetes@$version" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
etcd=$(sed -n 's/^\tgo.etcd.io\/etcd\/client\/v3 \(v[^ ]*\).*/\1/p' "$upstream")
{
  printf 'module controlplane\n\ngo 1.26.0\n\ntool k8s.io/kubernetes/cmd/kubectl\n\nrequire (\n'
  printf '\tgo.etcd.io/etcd/api/v3 %s\n\tgo.etcd.io/etcd/server/v3 %s\n' "$etcd" "$etcd"
  for module in api apimachinery apiserver client-go component-base; do printf '\tk8s.io/%s %s\n' "$module" "$staging"; done
  printf '\tk8s.io/kubernetes %s\n)\n\nreplace (\n' "$version"
  sed -n 's/^\t\(k8s.io\/[^ ]*\) => \.\/staging.*/\1/p' "$upstream" | while read -r module; do printf '\t%s => %s %s\n' "$module" "$module" "$staging"; done
  printf ')\n'
} >go.mod
go mod tidy
