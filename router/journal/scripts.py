"""What the store does in one step: Lua, run where the data is. Each checks the lease before it writes.

They are sent as text each time, so that a store that was started again needs nothing to be loaded.
"""

from __future__ import annotations

__all__ = ["ACCEPT", "APPEND", "FENCED", "KEEP", "RELEASE", "RENEW", "TAKE"]

FENCED = "FENCED"
"""Begins the error of a write by someone who does not lead."""

_CHECK_OWNER = f"""
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return redis.error_reply('{FENCED} another router leads')
end
"""

# KEYS lease, fence. ARGV owner and beat as they were seen (empty: nobody), holder.
TAKE = """
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if owner ~= ARGV[1] or (owner ~= '' and redis.call('HGET', KEYS[1], 'beat') ~= ARGV[2]) then return false end
owner = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[3]
redis.call('HSET', KEYS[1], 'owner', owner, 'beat', 0)
return owner
"""

# KEYS lease. ARGV owner.
RENEW = """
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return false end
return redis.call('HINCRBY', KEYS[1], 'beat', 1)
"""

# KEYS lease. ARGV owner.
RELEASE = """
if redis.call('HGET', KEYS[1], 'owner') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""

# KEYS lease, unfinished, stream. ARGV owner, request, record.
ACCEPT = f"""{_CHECK_OWNER}
if redis.call('EXISTS', KEYS[3]) == 1 then return 0 end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('XADD', KEYS[3], '*', 'r', ARGV[3])
return 1
"""

# KEYS lease, unfinished, then the stream of each entry. ARGV owner, milliseconds to keep what has ended, then for each
# entry: request, records before it, how many follow, whether it has ended, and they.
APPEND = f"""{_CHECK_OWNER}
local wrong, at = {{}}, 3
for i = 3, #KEYS do
  local before, count = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  if before > 0 and redis.call('XLEN', KEYS[i]) ~= before then
    wrong[#wrong + 1] = ARGV[at]
  else
    if before == 0 then
      redis.call('DEL', KEYS[i])
      redis.call('SADD', KEYS[2], ARGV[at])
    end
    for j = at + 4, at + 3 + count do redis.call('XADD', KEYS[i], '*', 'r', ARGV[j]) end
    if ARGV[at + 3] == '1' then
      redis.call('PEXPIRE', KEYS[i], ARGV[2])
      redis.call('SREM', KEYS[2], ARGV[at])
    end
  end
  at = at + 4 + count
end
return wrong
"""

# KEYS lease, kept. ARGV owner, name, value.
KEEP = f"""{_CHECK_OWNER}
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
"""
