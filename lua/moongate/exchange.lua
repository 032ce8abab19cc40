---@meta moongate.exchange
-- What a hook sees of one request: types, units and errors, for editors (LuaLS) and for docs/policies.md, which is made from this file. It is never run: the
-- functions are C (core/script/exchange_members.h lists them with the hooks in which each may be used). In another hook each raises an error that names the
-- right ones, and so it does once the request is over.

--- One request and its answer.
---@class Exchange
---@field client Client who asks
---@field listener Listener where the connection came in
---@field request Request what is asked, as it will be sent on
---@field upstream Upstream the Service that is asked
---@field response Response the answer, as it will go to the client
---@field variables Variables texts that policies, templates (`$var_NAME`) and the access log share
---@field ctx table this policy's own, for this request
---@field route { source: table, path: string, path_type: string|nil, host: table, upstreams: table[], alternatives: table[] } as attach saw them
---@field host_name string the host that owns the route; the request's own may be an alias or one that is redirected
---@field started number unix seconds
---@field duration number seconds since
---@field detached boolean the log hook runs early, because the exchange goes on for long (a tunnel, a long answer)
local Exchange = {}

--- The answer, final as given: `return` it.
---@param answer { status: integer, headers: table<string, string|string[]>|nil, body: string|nil } status from 200 to 599
---@return Answer
function Exchange:respond(answer) end

--- An error answer: error pages apply. `return` it. The reason is for the log only.
---@param status integer from 400 to 599
---@param reason string|nil
---@return Answer
function Exchange:deny(status, reason) end

--- `return` it.
---@param status integer from 300 to 399
---@param location string
---@return Answer
function Exchange:redirect(status, location) end

--- A guard's consent: `return` it. Under `satisfy: any` no other guard is asked.
---@return Answer
function Exchange:allow() end

--- Sends the request to another upstream. Once for each request; a second call raises.
---@param handle userdata from `route:upstream(service)`
function Exchange:use_upstream(handle) end

--- Sends a copy of the request, its method and header fields as they are now, which nobody waits for; its answer is dropped. With a `url`, or an `upstream`
--- and a `path`. `body`: a text, or `true` for the request's own, which must be held (after `request:body`); 64 KiB at most. Nil and why where it cannot be
--- sent: a worker has 128 on their way at once, each for 10 seconds.
---@param options { url: string|nil, upstream: userdata|nil, path: string|nil, host: string|nil, body: string|boolean|nil }
---@return true|nil
---@return string|nil why
function Exchange:mirror(options) end

--- Another upstream's answer takes the place of this one: `return` it. Once for each request. Nil where the present answer is final.
---@param handle userdata|nil from `route:upstream(service)`; nil: the default backend
---@param options { method: string|nil, path: string|nil, headers: table|nil }|nil GET and / unless given; headers on top of the client's
---@return Answer|nil
function Exchange:replace_response(handle, options) end

---@class Client
---@field ip string its address; with `use-forwarded-headers` or the PROXY protocol the one that is told
---@field port integer
---@field scheme "http"|"https" how it came, as a trusted front proxy tells
---@field protocol string such as HTTP/1.1
---@field tls Tls|nil nil without TLS to us

---@class Tls
---@field version string such as TLSv1.3
---@field cipher string
---@field server_name string|nil what the client asked for (SNI)
---@field resumed boolean
---@field certificate nil the client's; not there yet

---@class Listener
---@field scheme "http"|"https"
---@field port integer

---@class Request
---@field method string
---@field host string lower case, without port
---@field path string percent-decoded once, dot segments resolved, slashes merged: what is matched, and what guards look at
---@field query string|nil without "?"
---@field uri string path and query in origin form, bytes as received
---@field id string X-Request-ID
---@field headers RequestHeaders
---@field cookies Cookies
local Request = {}

--- An argument of the query, percent-decoded; the first of several.
---@param name string
---@return string|nil
function Request:argument(name) end

--- Waits for the whole body, which is still sent on. A second call gives the same. `max`: bytes, 65536 unless given, 1 MiB at most;
--- `timeout`: seconds, 5 unless given.
---@param options { max: integer|nil, timeout: number|nil }|nil
---@return string|nil body
---@return "too large"|"timeout"|"no room"|nil why
function Request:body(options) end

--- What is matched and sent from now on; encoded as needed.
---@param path string decoded, from the root
function Request:set_path(path) end

---@param query string without "?"; "" for none
function Request:set_query(query) end

---@param method string not CONNECT or TRACE
function Request:set_method(method) end

--- Names are case-insensitive. Fields that frame the message or belong to the connection are the core's: writing one raises, and so does
--- a value with CR, LF or NUL.
---@class RequestHeaders
local RequestHeaders = {}

---@param name string
---@return string|nil first
function RequestHeaders:get(name) end

---@param name string
---@return string[]
function RequestHeaders:all(name) end

--- An iterator over name and value.
---@return fun(): string, string
function RequestHeaders:each() end

--- Takes the place of all of that name.
---@param name string
---@param value string|number|string[]
function RequestHeaders:set(name, value) end

---@param name string
---@param value string|number
function RequestHeaders:add(name, value) end

---@param name string
function RequestHeaders:remove(name) end

---@class Cookies
local Cookies = {}

---@param name string case-sensitive
---@return string|nil first
function Cookies:get(name) end

--- At most 16, 1 KiB each; more raises.
---@class Variables
local Variables = {}

---@param name string
---@return string|nil
function Variables:get(name) end

---@param name string letters, digits and _
---@param value string
function Variables:set(name, value) end

---@class Upstream
---@field name string namespace-service-port
---@field endpoint Endpoint|nil the one that is asked
---@field attempt integer 1 for the first try
---@field failed Endpoint|nil the one that the try before failed on
---@field fallback boolean it stands in (`fallback_upstream`) for the own Service, which has no endpoint
---@field alternative boolean a policy chose another upstream than the path names
---@field status integer|nil the upstream's
---@field connect_time number|nil seconds; nil where no endpoint was asked
---@field header_time number|nil seconds until its head was there
---@field response_time number|nil seconds until its answer was over
local Upstream = {}

---@return integer
function Upstream:count() end

---@param i integer 1 to count()
---@return Endpoint|nil
function Upstream:endpoint(i) end

--- The endpoint with that key.
---@param key string
---@param hash "md5"|"sha1"|"index"|nil which key; md5 unless given
---@return Endpoint|nil
function Upstream:find(key, hash) end

--- A ready endpoint: the same for the same text, as long as it is there; others move only when their own goes.
---@param text string
---@return Endpoint|nil
function Upstream:hash(text) end

--- Chooses the endpoint that a session cookie names: its key, then `ending`. Nil where there is no such cookie or endpoint, where the endpoint is left out
--- after failures, or where this is a later attempt than the `attempts`th.
---@param cookie string its name
---@param ending string what it has after the key
---@param hash "md5"|"sha1"|"index"|"ring" which key; `ring`: any text, as in `hash`
---@param attempts integer
---@return integer|nil attempt
function Upstream:resume(cookie, ending, hash, attempts) end

--- This one, for this try.
---@param endpoint Endpoint
function Upstream:choose(endpoint) end

---@class Endpoint
---@field address string such as 10.0.0.1:8080
---@field key string the key by which it was found; key_md5 otherwise
---@field key_md5 string of upstream name and address, hex: the same in all replicas
---@field key_sha1 string
---@field index integer
---@field healthy boolean not left out after failures
---@field ready boolean
---@field draining boolean it terminates, and still serves
---@field load integer requests that all workers have on it
---@field tried boolean for this request already

---@class Response
---@field status integer
---@field headers ResponseHeaders
---@field source "upstream"|"policy"|"proxy"|"replacement" who made it
local Response = {}

---@param status integer from 200 to 599
function Response:set_status(status) end

--- As RequestHeaders.
---@class ResponseHeaders
local ResponseHeaders = {}

---@param name string
---@return string|nil first
function ResponseHeaders:get(name) end

---@param name string
---@return string[]
function ResponseHeaders:all(name) end

--- An iterator over name and value.
---@return fun(): string, string
function ResponseHeaders:each() end

---@param name string
---@param value string|number|string[]
function ResponseHeaders:set(name, value) end

---@param name string
---@param value string|number
function ResponseHeaders:add(name, value) end

---@param name string
function ResponseHeaders:remove(name) end
