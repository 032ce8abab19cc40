--- Annotations that ingress-nginx knows, or once knew, and no policy here declares. `reason` completes "NAME: is ...".
-- With `deny`, a route that carries the name answers 503, because leaving it out would let someone in. A name that a policy declares counts as supported.
local LATER = "not yet supported"
local NGINX = "nginx configuration text, and there is no nginx here; write a policy instead"

local names = {}

local function put(reason, list, deny)
  for name in list:gmatch("%S+") do names[name] = { reason = reason, deny = deny or nil } end
end

-- Who may come in: closed until a policy decides.
put(LATER, [[
  auth-tls-secret auth-tls-verify-client auth-tls-verify-depth auth-tls-error-page auth-tls-pass-certificate-to-upstream auth-tls-match-cn
]], true)
put(NGINX, "auth-snippet", true)

put(LATER, [[
  enable-rewrite-log enable-modsecurity enable-owasp-core-rules modsecurity-snippet modsecurity-transaction-id
  enable-opentelemetry opentelemetry-trust-incoming-span opentelemetry-operation-name
  fastcgi-index fastcgi-params-configmap
  proxy-buffering proxy-http-version
  proxy-ssl-secret proxy-ssl-verify proxy-ssl-verify-depth proxy-ssl-name proxy-ssl-server-name proxy-ssl-protocols proxy-ssl-ciphers
  ssl-ciphers ssl-prefer-server-ciphers ssl-passthrough
]])
put("without meaning here: answers are not buffered on disk, nor in counted buffers", "proxy-buffers-number proxy-busy-buffers-size proxy-max-temp-file-size")
put("without meaning here: browsers no longer take pushes", "http2-push-preload")
put(NGINX, "configuration-snippet server-snippet stream-snippet")

put("removed from ingress-nginx in v1.12.0", "global-rate-limit global-rate-limit-window global-rate-limit-key global-rate-limit-ignored-cidrs")
put("removed from ingress-nginx in v1.10", "enable-opentracing opentracing-trust-incoming-span")
put("removed from ingress-nginx", "enable-influxdb influxdb-measurement influxdb-port influxdb-host influxdb-server-name")
put("removed from ingress-nginx; proxy-ssl-secret took its place", "secure-verify-ca-secret")
put("removed from ingress-nginx; backend-protocol took its place", "secure-backends grpc-backend")
put("removed from ingress-nginx in 0.22", "add-base-url base-url-scheme")

return names
