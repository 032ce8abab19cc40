--- Edits in the text of a JSON object. What was read is never encoded again: a table does not know whether `[]` or `{}` made it, nor which fields it lost.
local json_text = {}

local function end_of_string(text, quote)
  local at = quote + 1
  while true do
    local found = text:find('["\\]', at)
    if not found then return nil end
    if text:byte(found) == 34 then return found end
    at = found + 2
  end
end

--- The last byte of the value that begins at `at`.
local function end_of_value(text, at)
  local depth = 0
  while true do
    local found = text:find('["{}%[%],]', at)
    if not found then return nil end
    local byte = text:sub(found, found)
    if byte == '"' then
      found = end_of_string(text, found)
      if not found then return nil end
    elseif byte == "{" or byte == "[" then
      depth = depth + 1
    elseif byte == "," then
      if depth == 0 then return found - 1 end
    elseif depth == 0 then
      return found - 1
    else
      depth = depth - 1
    end
    at = found + 1
  end
end

--- Puts a value in the place of a member of the outermost object, or adds the member.
---@param text string a JSON object
---@param name string
---@param value string JSON
---@return string|nil text nil if it is no JSON object
function json_text.set(text, name, value)
  local open = text:match("^%s*(){")
  if not open then return nil end
  local at = open + 1
  while true do
    local quote = text:match('^[%s,]*()"', at)
    if not quote then break end
    local stop = end_of_string(text, quote)
    local first = stop and text:match("^%s*:%s*()", stop + 1)
    local last = first and end_of_value(text, first)
    if not last then return nil end
    if text:sub(quote + 1, stop - 1) == name then return text:sub(1, first - 1) .. value .. text:sub(last + 1) end
    at = last + 1
  end
  local is_empty = text:find("^%s*}", at) ~= nil and text:find("^{%s*}", open) ~= nil
  if not text:find("^%s*}", at) then return nil end
  return text:sub(1, open) .. ('"%s":%s%s'):format(name, value, is_empty and "" or ",") .. text:sub(open + 1)
end

return json_text
