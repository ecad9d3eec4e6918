"""What has to happen at the server in one step: Lua scripts, called by their digest."""

from __future__ import annotations

from redispool_app.plans import Script

# An error is returned rather than raised, so that it comes without the script's name and line. The total is read as
# text because a Lua number is a double.
INCREMENT = Script("""
if redis.call('EXISTS', KEYS[1]) == 0 then return false end
local done = redis.pcall('INCRBY', KEYS[1], ARGV[1])
if type(done) == 'table' and done.err then return done end
return redis.call('GET', KEYS[1])
""")

# KEYS: what a command changes, in its order, then their stale copies. ARGV: its name, then what follows its keys.
# Returns its reply. A condition that does not hold replies nil, and leaves the copies as an error does.
CHANGE_IF = Script("""
local keys, command = #KEYS / 2, {ARGV[1]}
for i = 1, keys do command[#command + 1] = KEYS[i] end
for i = 2, #ARGV do command[#command + 1] = ARGV[i] end
local done = redis.pcall(unpack(command))
if done and not done.err then redis.call('UNLINK', unpack(KEYS, keys + 1)) end
return done
""")

# KEYS: value, lock, stale copy. ARGV: token, lock time in milliseconds.
# Returns the value; or whether the lock is the caller's now, and the stale copy.
CLAIM = Script("""
local value = redis.call('GET', KEYS[1])
if value then return {value} end
local mine = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
return {false, mine and 1 or 0, redis.call('GET', KEYS[3])}
""")

# KEYS: value, lock, stale copy. ARGV: token, data, expiry in seconds ('' for none), that of the copy ('' for no copy).
# Returns the value that was there already, which then stays.
FULFIL = Script("""
local kept = redis.call('GET', KEYS[1])
if not kept then
  if ARGV[3] == '' then redis.call('SET', KEYS[1], ARGV[2])
  else redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
  if ARGV[4] ~= '' then redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[4]) end
end
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return kept
""")

# KEYS: lock. ARGV: token.
RELEASE = Script("""
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
""")
