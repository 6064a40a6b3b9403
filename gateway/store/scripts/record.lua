-- Put before scripts that read a binding's record.
--
-- A record as a table; nil where there is none, or none that can be read.
local function read(packed)
  if not packed then
    return nil
  end
  local ok, b = pcall(cmsgpack.unpack, packed)
  if not ok or type(b) ~= 'table' or type(b[1]) ~= 'string' or type(b[2]) ~= 'number' or type(b[13]) ~= 'table' then
    return nil
  end
  return b
end
