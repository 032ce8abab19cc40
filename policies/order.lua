--- Who runs before whom, in every phase: the order in which ingress-nginx decides. Settings of routes too: where two policies set the same one, the later wins.
return {
  -- names and places
  "server-alias",
  -- answers that need no application, ahead of every guard; a preflight ahead of any redirect
  "cors",
  "redirect",
  "rewrite",
  "ssl-redirect",
  -- error pages: what is not sent needs no headers
  "custom-http-errors",
  -- how often, before anybody is asked who he is
  "limits",
  -- who may come in
  "satisfy",
  "access-lists",
  "basic-auth",
  "external-auth",
  -- how the application is asked
  "upstream-vhost",
  "connection-header",
  "backend-protocol",
  "service-upstream",
  "proxy-timeouts",
  "body-size",
  "head-size",
  "request-buffering",
  "next-upstream",
  "limit-rate",
  -- which endpoint: a session wins over a hash, a hash over a balancer
  "load-balance",
  "affinity",
  -- which Service: where no session says
  "canary",
  -- a copy of what was let in
  "mirror",
  -- what the visitor gets
  "proxy-redirect",
  "proxy-cookie",
  "custom-headers",
  "hsts",
  -- what is written down
  "access-log",
}
