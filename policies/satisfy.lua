--- Whether all guards of a route must let a visitor in, or one of them.
local policy = {
  name = "satisfy",
  summary = "Whether all guards of a route must let a visitor in, or one of them.",
  annotations = {
    ["satisfy"] = {
      type = "enum", values = { "all", "any" }, default = "all",
      doc = "`any`: one of address lists, basic and external authentication is enough. `all`: each of them must let the visitor in.",
    },
  },
}

function policy.attach(route, annotations)
  route:set("satisfy", annotations["satisfy"])
end

return policy
