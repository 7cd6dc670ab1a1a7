-- Ask a server for the texts of examples/data/dev.tsv, one in each request, with wrk:
--
--     wrk -t1 -c64 -d60s --latency -s benchmarks/load.lua http://127.0.0.1:8501/v1/texts

local bodies = {}
for line in io.lines("examples/data/dev.tsv") do
  local text = line:match("\t(.*)"):gsub('[\\"]', "\\%0")
  bodies[#bodies + 1] = '{"texts": ["' .. text .. '"]}'
end
table.remove(bodies, 1) -- The names of the columns.

local headers = { ["Content-Type"] = "application/json" }
local number = 0

function request()
  number = number % #bodies + 1
  return wrk.format("POST", nil, headers, bodies[number])
end
