--- Adds a header to every answer of an Ingress that has the annotation moongate.io/greeting.
local policy = {
  name = "greeting",
  summary = "Adds a greeting to every answer.",
  annotations = { greeting = { type = "string", doc = "The text of the header." } },
}

function policy.attach(_, annotations)
  if annotations.greeting then return { text = annotations.greeting } end
end

function policy.header_filter(exchange, config)
  exchange.response.headers:set("X-Greeting", config.text)
end

return policy
