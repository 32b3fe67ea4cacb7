"""What the store does in one step: Lua, run where the data is. Each checks the lease before it writes.

They are sent as text each time, so that a store that was started again needs nothing to be loaded.
"""

from __future__ import annotations

__all__ = ["ACCEPT", "APPEND", "FENCED", "KEEP", "KEEP_MEMORY", "MEMORY", "PROBE", "RELEASE", "RENEW", "TAKE"]

FENCED = "FENCED"
"""Begins the error of a write by someone who does not lead."""

_CHECK_OWNER = f"""
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then
  return redis.error_reply('{FENCED} another router leads')
end
"""

# A store that is full refuses what makes it larger. A lease does not, and without it the fleet would be mute until
# there is room again. The line must be the first; Redis knows it since 7.0.
_ALSO_WHEN_FULL = "#!lua flags=allow-oom"

# KEYS lease, fence. ARGV owner and beat as they were seen (empty: nobody), holder.
TAKE = f"""{_ALSO_WHEN_FULL}
local owner = redis.call('HGET', KEYS[1], 'owner') or ''
if owner ~= ARGV[1] or (owner ~= '' and redis.call('HGET', KEYS[1], 'beat') ~= ARGV[2]) then return false end
owner = redis.call('INCR', KEYS[2]) .. ':' .. ARGV[3]
redis.call('HSET', KEYS[1], 'owner', owner, 'beat', 0)
return owner
"""

# KEYS lease. ARGV owner.
RENEW = f"""{_ALSO_WHEN_FULL}
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

# KEYS lease, a stream. ARGV owner.
PROBE = f"""{_CHECK_OWNER}
redis.call('XADD', KEYS[2], '*', 'r', '')
redis.call('DEL', KEYS[2])
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

_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS lease, memories, their ages. ARGV owner, name, value, milliseconds for which they are kept, how many, of how many
# bytes. The newest come first; from where the room ends on they go, and so do those that are too old.
KEEP_MEMORY = f"""{_CHECK_OWNER}{_NOW}
local newest = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')[2]
local at = math.max(now, newest and tonumber(newest) + 1 or 0)
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[3], at, ARGV[2])
local names = redis.call('ZREVRANGE', KEYS[3], 0, -1, 'WITHSCORES')
local most, room = tonumber(ARGV[5]), tonumber(ARGV[6])
for i = 1, #names, 2 do
  most, room = most - 1, room - redis.call('HSTRLEN', KEYS[2], names[i])
  if most < 0 or room < 0 or tonumber(names[i + 1]) < now - ARGV[4] then
    redis.call('HDEL', KEYS[2], names[i])
    redis.call('ZREM', KEYS[3], names[i])
  end
end
redis.call('PEXPIRE', KEYS[2], ARGV[4])
redis.call('PEXPIRE', KEYS[3], ARGV[4])
"""

# KEYS memories, their ages. ARGV name, milliseconds for which they are kept.
MEMORY = f"""{_NOW}
local at = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not at or tonumber(at) < now - ARGV[2] then return false end
return redis.call('HGET', KEYS[1], ARGV[1])
"""
