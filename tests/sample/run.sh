#!/usr/bin/env bash
# `make run`: Moongate on the sample manifests, three processes of `moongate echo` behind it. Ctrl-C ends all.
#   HTTP_PORT, HTTPS_PORT, HEALTHZ_PORT choose the ports (8080, 8443, 10254).
set -euo pipefail
cd "$(dirname "$0")/../.."
moongate=build/moongate
http=${HTTP_PORT:-8080} https=${HTTPS_PORT:-8443} healthz=${HEALTHZ_PORT:-10254}
work=$(mktemp -d)
pids=()
cleanup() { kill "${pids[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT
trap 'exit 0' INT TERM

mkdir -p "$work/manifests" "$work/policies"
cp tests/sample/manifests/*.yaml "$work/manifests/"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=secure.bar.com -addext subjectAltName=DNS:secure.bar.com \
  -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
{
  printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: secure\ntype: kubernetes.io/tls\ndata:\n  tls.crt: %s\n  tls.key: %s\n' \
    "$(base64 -w0 "$work/tls.crt")" "$(base64 -w0 "$work/tls.key")"
  printf -- '---\napiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata:\n  name: secure\nspec:\n  ingressClassName: nginx\n  tls:\n    - hosts: [secure.bar.com]\n      secretName: secure\n'
  printf '  rules:\n    - host: secure.bar.com\n      http:\n        paths:\n          - path: /\n            pathType: Prefix\n            backend: {service: {name: echoheaders, port: {number: 80}}}\n'
} >"$work/manifests/secure.yaml"

ports=()
for n in 1 2 3; do
  "$moongate" echo --listen 127.0.0.1:0 --name "echo-$n" >"$work/echo-$n.log" 2>&1 &
  pids+=($!)
  for _ in $(seq 100); do grep -q 'listens on port' "$work/echo-$n.log" && break; sleep 0.02; done
  ports+=("$(sed -n 's/.*listens on port \([0-9]*\).*/\1/p' "$work/echo-$n.log")")
done
{
  for n in 0 1 2; do
    [ $n = 0 ] || echo ---
    printf 'apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: echoheaders-%s\n  labels: {kubernetes.io/service-name: echoheaders}\naddressType: IPv4\nports:\n  - {name: http, port: %s, protocol: TCP}\nendpoints:\n  - addresses: [127.0.0.1]\n    conditions: {ready: true}\n' \
      "$n" "${ports[$n]}"
  done
} >"$work/manifests/endpoints.yaml"

"$moongate" --manifests "$work/manifests" --policies "$work/policies" --http-port "$http" --https-port "$https" --healthz-port "$healthz" "$@" &
main=$!
pids+=("$main")
is_up=
for _ in $(seq 1200); do
  sleep 0.05
  if ! kill -0 "$main" 2>/dev/null; then
    echo "Moongate did not start. If a port is taken: HTTP_PORT=9080 HTTPS_PORT=9443 HEALTHZ_PORT=9254 make run" >&2
    exit 1
  fi
  if curl -fs -o /dev/null "http://127.0.0.1:$healthz/healthz"; then is_up=1; break; fi
done
[ -n "$is_up" ] || { echo "Moongate is not ready after a minute" >&2; exit 1; }
cat <<EOT

Moongate serves $work/manifests (edit or add files there: changes are live at once).
Policies of your own go into $work/policies.
The echo application: echo-1 pid ${pids[0]}, echo-2 pid ${pids[1]}, echo-3 pid ${pids[2]} (kill one and see its sessions move).

Try:
  curl -i http://127.0.0.1:$http/                                                  # default backend - 404
  curl -i http://127.0.0.1:$http/backend -H 'Host: foo.bar.com'                    # 200, the echo
  curl -i http://127.0.0.1:$http/foo -H 'Host: stickyingress.example.com'          # sets the cookie "route"
  curl -i http://127.0.0.1:$http/old/page -H 'Host: rewrite.bar.com'               # arrives as /new/page
  curl -i http://127.0.0.1:$http/ -H 'Host: secure.bar.com'                        # 308 to https
  curl -i http://127.0.0.1:$http/backend -H 'Host: foo.bar.com' -H 'Accept: application/json'
  curl -ik --resolve secure.bar.com:$https:127.0.0.1 https://secure.bar.com:$https/  # TLS with the certificate of the Secret
  curl -s http://127.0.0.1:$healthz/metrics | grep moongate_

EOT
wait "$main"
