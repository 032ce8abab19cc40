-- Metrics that only the sync side knows: which lines are sent, and that one is sent when it changes only.
local gauges = require "kube.gauges"

local PREFIX = "nginx_ingress_controller_"

local function start()
  local made = { lines = {}, shown = {}, sent = 0 }
  made.gauges = gauges.new {
    flags = { ["controller-class"] = "k8s.io/ingress-nginx" },
    gauge = function(family, key, labels, value)
      local line = {}
      for i = 1, #(labels or {}), 2 do line[labels[i]] = labels[i + 1] end
      line.value = value
      made.lines[family:gsub("^" .. PREFIX, "") .. " " .. key] = labels and line or nil
      made.sent = made.sent + 1
    end,
    show_gauges = function(family, is_shown) made.shown[family:gsub("^" .. PREFIX, "")] = is_shown end,
  }
  return made
end

local function facts(serial)
  return { serial = serial, issuer_serial = "", issuer_common_name = "Root", issuer_organization = "Acme", key_algorithm = "RSA", not_after = 1893456000 }
end

describe("gauges", function()
  it("say who leads, and hide certificates while another does", function()
    local made = start()
    made.gauges:lead("ingress-nginx-leader", false)
    assert.same({ name = "ingress-nginx-leader", value = 0 }, made.lines["leader_election_status ingress-nginx-leader"])
    assert.same({ ssl_expire_time_seconds = false, ssl_certificate_info = false }, made.shown)
    made.gauges:lead("ingress-nginx-leader", true)
    assert.equal(1, made.lines["leader_election_status ingress-nginx-leader"].value)
    assert.same({ ssl_expire_time_seconds = true, ssl_certificate_info = true }, made.shown)
  end)

  it("say what a host's certificate is", function()
    local made, first = start(), facts "17"
    made.gauges:certificate("foo.test", "shop/cert", first)
    assert.same({ namespace = "shop", class = "k8s.io/ingress-nginx", host = "foo.test", secret_name = "cert", identifier = "-17", value = 1893456000 },
      made.lines["ssl_expire_time_seconds foo.test"])
    local info = made.lines["ssl_certificate_info foo.test"]
    assert.same({ "17", "Root", "Acme" }, { info.serial_number, info.issuer_common_name, info.issuer_organization })
    assert.same({ "RSA", 1 }, { info.public_key_algorithm, info.value })
    made.gauges:certificate("foo.test", "shop/cert", first)
    assert.equal(2, made.sent)
    made.gauges:certificate("foo.test", "shop/cert", facts "18")
    assert.equal("-18", made.lines["ssl_expire_time_seconds foo.test"].identifier)
    made.gauges:certificate("foo.test", nil, nil)
    assert.same({}, made.lines)
    made.gauges:certificate("bar.test", nil, nil)
    assert.equal(6, made.sent)
  end)

  it("say which Ingresses lead nowhere", function()
    local made = start()
    made.gauges:orphan("default/shop", false, false)
    assert.equal(0, made.sent)
    made.gauges:orphan("default/shop", true, true)
    assert.same({ namespace = "default", ingress = "shop", type = "no-service", value = 1 }, made.lines["orphan_ingress no-service default/shop"])
    assert.is_table(made.lines["orphan_ingress no-endpoint default/shop"])
    made.gauges:orphan("default/shop", false, true)
    assert.is_nil(made.lines["orphan_ingress no-service default/shop"])
    made.gauges:orphan("default/shop", false, true)
    assert.equal(3, made.sent)
  end)
end)
