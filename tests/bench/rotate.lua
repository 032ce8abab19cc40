-- wrk script: each request goes to a random host and one of its two paths, with the headers and cookies of a browser.
--   wrk ... -s rotate.lua URL -- HOSTS SUFFIX
-- Prints one JSON line at the end.
-- luacheck: globals wrk init request done, no max line length

local requests = {}

function init(arguments)
  local hosts, suffix = tonumber(arguments[1]), arguments[2] or ""
  math.randomseed(os.time())
  for number = 0, hosts - 1 do
    for _, path in ipairs({ "/shop", "/api" }) do
      requests[#requests + 1] = wrk.format("GET", path .. suffix, {
        ["Host"] = ("host-%d.bench.test"):format(number),
        ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        ["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        ["Accept-Language"] = "en-US,en;q=0.5",
        ["Accept-Encoding"] = "gzip, deflate, br",
        ["Cookie"] = ("session=%08x%08x; theme=dark; consent=1"):format(math.random(0, 0x7fffffff), math.random(0, 0x7fffffff)),
      })
    end
  end
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(
    ('\nRESULT {"requests":%d,"seconds":%.6f,"bytes":%d,"connect_errors":%d,"read_errors":%d,"write_errors":%d,"status_errors":%d,"timeouts":%d,"p50_us":%d,"p99_us":%d}\n'):format(
      summary.requests,
      summary.duration / 1e6,
      summary.bytes,
      errors.connect,
      errors.read,
      errors.write,
      errors.status,
      errors.timeout,
      latency:percentile(50),
      latency:percentile(99)
    )
  )
end
