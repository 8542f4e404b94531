-- Gives the same results as kstatus, except that a disabled forward is Suspended. Does not handle deletion. Uses no Lua
-- libraries.

local status = obj.status or {}

local function condition(kind)
  for _, each in ipairs(status.conditions or {}) do
    if each.type == kind then
      return each
    end
  end
end

local function health(code, each)
  return { status = code, message = each.reason .. ": " .. each.message }
end

if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "No agent has processed generation " .. obj.metadata.generation .. " of the spec yet" }
end

local stalled = condition("Stalled")
if stalled ~= nil and stalled.status == "True" then
  return health("Degraded", stalled)
end

local ready = condition("Ready")
if ready == nil then
  return { status = "Progressing", message = "No agent has reported yet whether it is ready" }
end
if ready.status ~= "True" then
  return health("Progressing", ready)
end
if ready.reason == "Disabled" then
  return health("Suspended", ready)
end
return health("Healthy", ready)
