-- Work for Lua: what it prints depends on its argument alone.
local scale = tonumber(arg[1])
local words, order = {}, {}
for i = 1, 20000 * scale do
    local key = string.format("k%03d", (i * 7919) % 487)
    if not words[key] then words[key] = {} order[#order + 1] = key end
    table.insert(words[key], i)
end
table.sort(order)
print(#order, order[1], #words[order[1]], table.concat(words[order[2]], ",", 1, 5))
local text = {}
for _, key in ipairs(order) do text[#text + 1] = key:rep(3, "-") end
local joined = table.concat(text, ";")
print(#joined, select(2, joined:gsub("k(%d)%1", "<%1>")))
local function fibonacci(n) if n < 2 then return n end return fibonacci(n - 1) + fibonacci(n - 2) end
local routine = coroutine.wrap(function() for i = 1, 20 do coroutine.yield(fibonacci(i)) end end)
local sum = 0
for _ = 1, 20 do sum = sum + routine() end
print(sum)
local list
for i = 1, 50000 * scale do list = { next = i % 1000 ~= 0 and list or nil, value = i } end
collectgarbage()
print(list.value, setmetatable({}, { __tostring = function() return "done" end }))
