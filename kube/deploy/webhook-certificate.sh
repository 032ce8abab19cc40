#!/usr/bin/env bash
# Makes the admission webhook's certificate (ten years, its own CA), stores it in the Secret that the controller reads, and tells the API server the CA:
#   webhook-certificate.sh                                          for base
#   webhook-certificate.sh ingress-nginx ingress-nginx-controller-admission ingress-nginx-admission cert key    for overlays/ingress-nginx
# Again: a new one, which the controller takes without a restart. Needs openssl and kubectl. With cert-manager it is not needed: let it write the Secret, and
# put its annotation cert-manager.io/inject-ca-from on the webhook configuration.
set -euo pipefail
namespace=${1:-moongate} service=${2:-moongate-admission} name=${3:-moongate-admission} certificate=${4:-tls.crt} key=${5:-tls.key}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
new_key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
openssl req -x509 $new_key -days 3650 -subj "/CN=$service CA" -keyout ca.key -out ca.crt 2>/dev/null
openssl req -x509 $new_key -days 3650 -subj "/CN=$service.$namespace.svc" -CA ca.crt -CAkey ca.key -keyout tls.key -out tls.crt \
  -addext "subjectAltName=DNS:$service.$namespace.svc,DNS:$service.$namespace.svc.cluster.local" -addext basicConstraints=critical,CA:FALSE \
  -addext extendedKeyUsage=serverAuth 2>/dev/null
kubectl -n "$namespace" create secret generic "$name" --from-file="$certificate=tls.crt" --from-file="$key=tls.key" --from-file=ca=ca.crt --dry-run=client -o yaml |
  kubectl apply -f -
kubectl patch validatingwebhookconfiguration "$name" --type=json \
  -p "[{\"op\": \"add\", \"path\": \"/webhooks/0/clientConfig/caBundle\", \"value\": \"$(base64 -w0 ca.crt)\"}]"
