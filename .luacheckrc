std = "luajit"
max_line_length = 160
files["spec"] = { std = "luajit+busted" }
files["policies/examples"] = { std = "luajit+busted" }
files["**/*_spec.lua"] = { std = "luajit+busted" }
files["lua/moongate/exchange.lua"] = { ignore = { "212", "241" } } -- annotations only
